"""FP8 weights of the first Kimi K2 releases: e4m3 values, one float32 scale per 128 x 128 block.

w = value · scale        in float32; blocks at the edges are cut to the weight's shape

One token: values become weights in registers. Several tokens, or blocks of an odd width: some rows
at a time become weights, so that no copy of the matrix is made.
"""

import numpy as np

from k2ref.kernels import _arrays
from k2ref.kernels._jit import lanes, prange, threaded
from k2ref.kernels.layers import linear

PANEL = 128  # rows that are weights at a time
ROWS = 4  # rows that share a load of the activations of one token
AHEAD = 32768  # bytes between the values in use and those asked for


def fp8_dequantize(
    values_ML: np.ndarray, scale_UJ: np.ndarray, *, block: tuple[int, int] = (128, 128)
) -> np.ndarray:
    """Give the weights that scaled blocks stand for: values_ML e4m3, scale_UJ -> w_ML float32."""
    scale_UJ = _cut(values_ML, scale_UJ, block)
    w_ML = np.empty(values_ML.shape, np.float32)
    table = np.arange(256, dtype=np.uint8).view(values_ML.dtype).astype(np.float32)
    scales = _arrays.stored(scale_UJ.astype(np.float32))
    _weights(_arrays.stored(values_ML), table, scales, block[0], block[1], w_ML)
    return w_ML


def _cut(values_ML: np.ndarray, scale_UJ: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """Take the scales of the first blocks, if they are there: values_ML, scale_UJ -> scale_UJ."""
    U, J = (-(-size // width) for size, width in zip(values_ML.shape, block, strict=True))
    _arrays.fits("scale_UJ", scale_UJ[:U, :J], (U, J))
    return scale_UJ[:U, :J]


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
    x = _arrays.activations(x_TL)
    M, L = values_ML.shape
    out_TM = np.empty((len(x), M), np.float32)
    if len(x) == 1 and M >= ROWS and L % _arrays.WIDTH == block[1] % _arrays.WIDTH == 0:
        _arrays.fits("x_TL", x, (1, L))
        scale_MJ = _cut(values_ML, scale_UJ, block).repeat(block[0], axis=0)[:M]
        scale_JM = _arrays.stored(scale_MJ.astype(np.float32).T)
        _one_token(x[0], _arrays.stored(values_ML), scale_JM, block[1], out_TM)
        return out_TM.astype(x_TL.dtype, copy=False)
    rows = max(1, PANEL // block[0]) * block[0]  # whole blocks
    for m in range(0, M, rows):
        scales = scale_UJ[m // block[0] :]
        w_ML = fp8_dequantize(values_ML[m : m + rows], scales, block=block)
        out_TM[:, m : m + rows] = linear(x, w_ML)
    return out_TM.astype(x_TL.dtype, copy=False)


@threaded
def _one_token(x, bytes_ML, scale_JM, columns, out_TM):
    M, L = bytes_ML.shape
    ahead = AHEAD // L // ROWS * ROWS + ROWS
    for block in prange(-(-M // ROWS)):
        row = min(block * ROWS, M - ROWS)  # the last block repeats rows of the one before
        total = lanes.zeros(ROWS)
        for j in range(-(-L // columns)):
            dot = lanes.zeros(ROWS)
            for i in range(j * columns, min((j + 1) * columns, L), 16):
                lanes.fetch(bytes_ML, row + ahead, ROWS * i, 2)
                w = lanes.load_rows(bytes_ML, row, i, ROWS)
                dot = lanes.fused(w, lanes.load(x, i, 1), dot)
            total = lanes.fused(dot, lanes.splat(scale_JM, j, row, ROWS), total)
        lanes.store_totals(total, out_TM, 0, row, 1)
