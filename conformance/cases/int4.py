"""Packed INT4 and scaled FP8 weights: the format to the bit, and products by it."""

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from conformance.cases import Case
from conformance.draw import Draw
from k2ref.oracle import int4_pack

ALL_CODES = np.arange(-8, 8)[None]
ONE_HOT = np.eye(8, dtype=np.int64)
GOLDEN_GROUP = np.array(
    [0.69921875, -0.349609375, 0.049072265625, 0.050048828125]
    + [0.051025390625, -0.69921875, 0.150390625, -0.150390625]
    + [0.0] * 24
)


def cases(draw: Draw) -> Iterator[Case]:
    """Make the cases of this area: draw -> cases."""
    yield from _packing(draw)
    yield from _dequantising(draw)
    yield from _quantising(draw)
    yield from _products(draw)
    yield from _fp8(draw)


def _packing(draw: Draw) -> Iterator[Case]:
    inputs = {
        "all-codes": (ALL_CODES, "the 16 codes in order: words 0x76543210 and 0xfedcba98"),
        "one-hot": (ONE_HOT, "a single +1 in each of the 8 places of a word"),
        "padding": (np.arange(-8, 3)[None], "11 columns: the padding nibbles would read as -8"),
        "random": (draw.integers(-8, 8, 5, 72), "rows of several words"),
        "random-odd": (draw.integers(-8, 8, 3, 43), "rows that end inside a word"),
    }
    for name, (codes_ML, why) in inputs.items():
        table = {"packed_MP": int4_pack(codes_ML), "columns": codes_ML.shape[1]}
        yield Case(
            f"int4_unpack-{name}",
            "int4:nibble-order" if name != "padding" else "int4:padding-is-cut",
            "int4_unpack",
            "exact",
            why,
            table,
        )
        table = {"codes_ML": codes_ML.astype(np.int8)}
        yield Case(f"int4_pack-{name}", "int4:nibble-order", "int4_pack", "exact", why, table)


def _dequantising(draw: Draw) -> Iterator[Case]:
    shapes = {
        "groups": (6, 96, 32, "three groups a row"),
        "square-scales": (3, 96, 32, "as many rows as groups"),
        "wide": (4, 256, 32, "eight groups a row"),
        "part-group": (4, 72, 32, "the last group is not full"),
        "odd": (4, 43, 32, "the last word is not full"),
        "group-64": (4, 192, 64, "another group size than 32"),
        "group-128": (4, 256, 128, "another group size than 32"),
    }
    for name, (M, L, group, why) in shapes.items():
        packed_MP, scale_MG = draw.int4(M, L, group=group)
        table = _packed(packed_MP, scale_MG, columns=L, group_size=group)
        yield Case(
            f"int4_dequantize-{name}",
            "int4:scale-per-group" if group == 32 else "int4:group-size-is-read",
            "int4_dequantize",
            "exact",
            why,
            {**table, "dequant": "exact"},
        )
    scale_MG = np.array([[0.01177978515625]], ml_dtypes.bfloat16)
    table = _packed(int4_pack(ALL_CODES), scale_MG, columns=16)
    answers = {"exact": {"dequant": "exact"}, "bf16": {"dequant": "bf16"}}
    why = "codes 3, 5, 6 and 7 of this scale need more bits than bfloat16 has"
    yield Case(
        "int4_dequantize-rounding",
        "int4:dequantised-type",
        "int4_dequantize",
        "exact",
        why,
        table,
        answers=answers,
    )


def _packed(packed_MP: np.ndarray, scale_MG: np.ndarray, **rest: Any) -> dict[str, Any]:
    return {"packed_MP": packed_MP, "scale_MG": scale_MG, **rest}


def _quantising(draw: Draw) -> Iterator[Case]:
    wide_ML = draw.normal(4, 96, spread=0.05)
    wide_ML[1, 32:64] = 0
    inputs = {
        "golden": (GOLDEN_GROUP[None].astype(np.float32), "worked by hand: one group"),
        "random": (wide_ML, "several groups, one of zeros"),
        "odd": (draw.normal(3, 43), "the last group is not full"),
    }
    for name, (w_ML, why) in inputs.items():
        for rule in ("k2", "compressed-tensors"):
            yield Case(
                f"int4_quantize-{name}-{rule}",
                f"quant:{rule}",
                "int4_quantize",
                "exact",
                why,
                {"w_ML": w_ML, "rule": rule},
            )


def _products(draw: Draw) -> Iterator[Case]:
    outliers_TL = draw.normal(4, 256)
    outliers_TL[:, 7] *= 256
    one_group_TL = np.zeros((8, 256), np.float32)
    for group in range(8):
        one_group_TL[group, 32 * group : 32 * group + 32] = draw.normal(32)
    inputs = {
        "ordinary": (draw.normal(4, 256), "rows of several groups"),
        "outliers": (outliers_TL, "one activation is 256 times the others"),
        "one-group": (one_group_TL, "each row meets one group of columns only"),
        "odd": (draw.normal(3, 43), "columns end inside a word and inside a group"),
        "one-token": (draw.normal(1, 512), "decoding: one row"),
    }
    for name, (x_TL, why) in inputs.items():
        packed_MP, scale_MG = draw.int4(9, x_TL.shape[1])
        table = {"x_TL": x_TL, "dequant": "exact", **_packed(packed_MP, scale_MG)}
        yield Case(f"int4_linear-{name}", "int4:product", "int4_linear", "bound", why, table)
    for name in ("ordinary", "outliers"):
        x_TL, why = inputs[name]
        table = {"x_TL": x_TL, "w_ML": draw.weight(9, 256)}
        yield Case(f"linear-{name}", "linear:out-in", "linear", "bound", why, table)


def _fp8(draw: Draw) -> Iterator[Case]:
    for name, M, L, block in (("blocks", 6, 20, (4, 8)), ("published", 130, 140, (128, 128))):
        values_ML = draw.normal(M, L).astype(ml_dtypes.float8_e4m3fn)
        blocks = (-(-M // block[0]), -(-L // block[1]))
        scale_UJ = np.exp2(draw.random.uniform(-2, 2, blocks)).astype(np.float32)
        table = {"values_ML": values_ML, "scale_UJ": scale_UJ, "block": block}
        why = "edge blocks are cut to the shape of the weight"
        yield Case(
            f"fp8_dequantize-{name}", "fp8:block-scales", "fp8_dequantize", "exact", why, table
        )
        table = {"x_TL": draw.normal(3, L), **table}
        yield Case(f"fp8_linear-{name}", "fp8:product", "fp8_linear", "bound", why, table)
