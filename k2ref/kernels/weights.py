"""A weight in the form the checkpoint keeps it: dense, packed INT4, or FP8 with block scales.

The quantised forms stay as they are until a product needs them; nothing requantises.
"""

import numpy as np

from k2ref.kernels.fp8 import fp8_dequantize, fp8_linear
from k2ref.kernels.int4 import Dequant, int4_dequantize, int4_linear
from k2ref.kernels.layers import linear
from k2ref.oracle.weights import Fp8, Int4, Weight


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
