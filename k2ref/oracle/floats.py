"""Precision: where sums are formed, and the rounding to bfloat16 that NumPy lacks.

bfloat16 is the upper half of a float32. Rounding to nearest, ties to even, adds half a unit of the
kept part, less one when the kept part is even, and then drops the lower half.
"""

import numpy as np


def wide(x: np.ndarray) -> np.ndarray:
    """Raise to the precision that sums are formed in: x -> x as float32, or float64 if it is."""
    return x.astype(np.result_type(x.dtype, np.float32), copy=False)


def round_bfloat16(x: np.ndarray) -> np.ndarray:
    """Round float32 values to bfloat16 and keep them as float32: x -> rounded, NaN kept."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), np.float32(np.nan), rounded.view(np.float32))
