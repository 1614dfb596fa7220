"""FP8 weights of the first Kimi K2 releases: e4m3 values, one float32 scale per 128 x 128 block.

w = value · scale        in float32; blocks at the edges are cut to the weight's shape

The product takes some rows at a time as weights, so that no copy of the matrix is made. There are
256 values, read from a table.
"""

import numpy as np

from k2ref.kernels import _arrays
from k2ref.kernels._jit import prange, threaded
from k2ref.kernels.layers import linear

PANEL = 128  # rows that are weights at a time


def fp8_dequantize(
    values_ML: np.ndarray, scale_UJ: np.ndarray, *, block: tuple[int, int] = (128, 128)
) -> np.ndarray:
    """Give the weights that scaled blocks stand for: values_ML e4m3, scale_UJ -> w_ML float32."""
    M, L = values_ML.shape
    scale_UJ = scale_UJ[: -(-M // block[0]), : -(-L // block[1])]
    _arrays.fits("scale_UJ", scale_UJ, (-(-M // block[0]), -(-L // block[1])))
    w_ML = np.empty((M, L), np.float32)
    table = np.arange(256, dtype=np.uint8).view(values_ML.dtype).astype(np.float32)
    scales = _arrays.stored(scale_UJ.astype(np.float32))
    _weights(_arrays.stored(values_ML), table, scales, block[0], block[1], w_ML)
    return w_ML


@threaded
def _weights(bytes_ML, table, scale_UJ, rows, columns, w_ML):
    M, L = w_ML.shape
    for m in prange(M):
        for i in range(L):
            w_ML[m, i] = table[bytes_ML[m, i]] * scale_UJ[m // rows, i // columns]


def fp8_linear(
    x_TL: np.ndarray,
    values_ML: np.ndarray,
    scale_UJ: np.ndarray,
    *,
    block: tuple[int, int] = (128, 128),
) -> np.ndarray:
    """Multiply by an FP8 matrix: x_TL, values_ML e4m3, scale_UJ -> out_TM."""
    rows = max(1, PANEL // block[0]) * block[0]  # whole blocks
    x = _arrays.activations(x_TL)
    out_TM = np.empty((len(x), len(values_ML)), np.float32)
    for m in range(0, len(values_ML), rows):
        scales = scale_UJ[m // block[0] :]
        w_ML = fp8_dequantize(values_ML[m : m + rows], scales, block=block)
        out_TM[:, m : m + rows] = linear(x, w_ML)
    return out_TM.astype(x_TL.dtype, copy=False)
