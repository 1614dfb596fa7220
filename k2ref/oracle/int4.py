"""INT4 weights as compressed-tensors packs them (`pack-quantized`, symmetric, grouped).

    w = code · scale           code in -8 … 7, one bfloat16 scale per row and group of 32 columns
    stored = code + 8          column i: bits 4(i mod 8) … 4(i mod 8)+3 of int32 word i // 8

Rows whose length is no multiple of 8 end in zero nibbles, which would read as -8: the number of
columns cuts them.

What w is has two answers. `exact`: the product, which float32 holds without rounding (4 + 8
significant bits). `bf16`: the product rounded to bfloat16, as libraries do that unpack a checkpoint
into bfloat16; it changes 24 % of random weights. Quantising has two rules as well. `k2`: scale =
absmax / 7 and 15 levels, as in the released weights. `compressed-tensors`: scale = absmax / 7.5 and
16 levels, with the quotient rounded to bfloat16.
"""

from typing import Literal

import numpy as np

from k2ref.oracle.floats import round_bfloat16
from k2ref.oracle.layers import linear

Dequant = Literal["exact", "bf16"]
QuantRule = Literal["k2", "compressed-tensors"]

_SHIFT_8 = 4 * np.arange(8, dtype=np.uint32)
_SCALE_OF_ZEROS = 2.0**-7  # the scale of a group without a non-zero value, in both rules


def int4_pack(codes_ML: np.ndarray) -> np.ndarray:
    """Pack codes -8 … 7, eight to a word: codes_ML -> packed_MP int32."""
    M, L = codes_ML.shape
    nibbles = np.zeros((M, -(-L // 8) * 8), np.uint32)
    nibbles[:, :L] = codes_ML.astype(np.int64) + 8
    words_MP = (nibbles.reshape(M, -1, 8) << _SHIFT_8).sum(axis=2, dtype=np.uint32)
    return words_MP.view(np.int32)


def int4_unpack(packed_MP: np.ndarray, columns: int) -> np.ndarray:
    """Unpack the codes of the first `columns` columns: packed_MP int32 -> codes_ML int8."""
    words_MP = np.ascontiguousarray(packed_MP).view(np.uint32)
    nibbles = (words_MP[:, :, None] >> _SHIFT_8) & 15
    codes_ML = nibbles.astype(np.int8).reshape(len(packed_MP), -1) - 8
    return codes_ML[:, :columns]


def int4_dequantize(
    packed_MP: np.ndarray,
    scale_MG: np.ndarray,
    columns: int,
    *,
    group_size: int = 32,
    dequant: Dequant = "exact",
) -> np.ndarray:
    """Give the weights that packed codes stand for: packed_MP int32, scale_MG -> w_ML float32."""
    scale_ML = np.repeat(scale_MG.astype(np.float32), group_size, axis=1)[:, :columns]
    w_ML = int4_unpack(packed_MP, columns) * scale_ML
    return round_bfloat16(w_ML) if dequant == "bf16" else w_ML


def int4_quantize(
    w_ML: np.ndarray, *, group_size: int = 32, rule: QuantRule = "k2"
) -> tuple[np.ndarray, np.ndarray]:
    """Round weights to codes: w_ML -> codes_ML int8, scale_MG float32 with bfloat16 values."""
    M, L = w_ML.shape
    padded = np.zeros((M, -(-L // group_size) * group_size), np.float32)
    padded[:, :L] = w_ML
    by_group = padded.reshape(M, -1, group_size)
    absmax_MG = np.abs(by_group).max(axis=2)
    scale_MG = round_bfloat16(absmax_MG / np.float32(7 if rule == "k2" else 7.5))
    scale_MG = np.where(absmax_MG == 0, np.float32(_SCALE_OF_ZEROS), scale_MG)
    quotient = by_group / scale_MG[:, :, None]
    if rule == "compressed-tensors":
        quotient = round_bfloat16(quotient)
    lowest = -7 if rule == "k2" else -8
    codes = np.clip(np.rint(quotient), lowest, 7).astype(np.int8)
    return codes.reshape(M, -1)[:, :L], scale_MG


def int4_linear(
    x_TL: np.ndarray,
    packed_MP: np.ndarray,
    scale_MG: np.ndarray,
    *,
    group_size: int = 32,
    dequant: Dequant = "exact",
) -> np.ndarray:
    """Multiply by an INT4 matrix: x_TL, packed_MP int32, scale_MG -> out_TM."""
    columns = x_TL.shape[1]
    return linear(
        x_TL, int4_dequantize(packed_MP, scale_MG, columns, group_size=group_size, dequant=dequant)
    )
