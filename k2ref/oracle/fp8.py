"""FP8 weights of the first Kimi K2 releases: e4m3 values, one float32 scale per 128 x 128 block.

w = value · scale        in float32; blocks at the edges are cut to the weight's shape
"""

import numpy as np

from k2ref.oracle.layers import linear


def fp8_dequantize(
    values_ML: np.ndarray, scale_UJ: np.ndarray, *, block: tuple[int, int] = (128, 128)
) -> np.ndarray:
    """Give the weights that scaled blocks stand for: values_ML e4m3, scale_UJ -> w_ML float32."""
    M, L = values_ML.shape
    scale_ML = scale_UJ.astype(np.float32).repeat(block[0], axis=0).repeat(block[1], axis=1)[:M, :L]
    return values_ML.astype(np.float32) * scale_ML


def fp8_linear(
    x_TL: np.ndarray,
    values_ML: np.ndarray,
    scale_UJ: np.ndarray,
    *,
    block: tuple[int, int] = (128, 128),
) -> np.ndarray:
    """Multiply by an FP8 matrix: x_TL, values_ML e4m3, scale_UJ -> out_TM."""
    return linear(x_TL, fp8_dequantize(values_ML, scale_UJ, block=block))
