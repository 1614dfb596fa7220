"""A weight in the form the checkpoint keeps it: dense, packed INT4, or FP8 with block scales.

The quantised forms stay as they are until a product needs them; nothing requantises.
"""

from typing import NamedTuple

import numpy as np

from k2ref.oracle.fp8 import fp8_dequantize, fp8_linear
from k2ref.oracle.int4 import Dequant, int4_dequantize, int4_linear
from k2ref.oracle.layers import linear


class Int4(NamedTuple):
    """Packed codes, scales, how many columns share a scale, and how many there are."""

    packed_MP: np.ndarray
    scale_MG: np.ndarray
    group_size: int
    columns: int


class Fp8(NamedTuple):
    """e4m3 values, the scales of their blocks, and the size of a block."""

    values_ML: np.ndarray
    scale_UJ: np.ndarray
    block: tuple[int, int]


Weight = np.ndarray | Int4 | Fp8


def multiply(x_TL: np.ndarray, weight: Weight, *, dequant: Dequant = "exact") -> np.ndarray:
    """Multiply by a weight in any form: x_TL, weight -> out_TM."""
    if isinstance(weight, Int4):
        return int4_linear(
            x_TL, weight.packed_MP, weight.scale_MG, group_size=weight.group_size, dequant=dequant
        )
    if isinstance(weight, Fp8):
        return fp8_linear(x_TL, weight.values_ML, weight.scale_UJ, block=weight.block)
    return linear(x_TL, weight)


def dense(weight: Weight, *, dequant: Dequant = "exact") -> np.ndarray:
    """Give a weight in any form as a matrix: weight -> w_ML."""
    if isinstance(weight, Int4):
        return int4_dequantize(
            weight.packed_MP,
            weight.scale_MG,
            weight.columns,
            group_size=weight.group_size,
            dequant=dequant,
        )
    if isinstance(weight, Fp8):
        return fp8_dequantize(weight.values_ML, weight.scale_UJ, block=weight.block)
    return weight
