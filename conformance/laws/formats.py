"""Laws of packed weights and of products."""

import numpy as np
from hypothesis import strategies as st

from conformance.draw import Draw
from conformance.laws import Broken, Law, Ops, same
from conformance.laws import draws as d
from k2ref.oracle import int4_pack

ZERO_WORD = np.full((1, 4), 0x88888888, np.uint32).view(np.int32)
SEVENS = np.full((1, 4), -1, np.int32)  # every nibble 15, code 7


def _unpack_inverts_pack(ops: Ops, data: st.DataObject) -> None:
    codes = data.draw(st.lists(st.integers(-8, 7), min_size=1, max_size=24))
    codes_ML = np.array([codes], np.int8)
    same(ops.int4_unpack(ops.int4_pack(codes_ML), len(codes)), codes_ML, "unpack(pack(codes))")


def _words_mean_codes(ops: Ops, data: st.DataObject) -> None:
    place, code = data.draw(st.integers(0, 31)), data.draw(st.integers(-8, 7))
    codes_ML = np.zeros((1, 32), np.int64)
    codes_ML[0, place] = code
    same(ops.int4_unpack(int4_pack(codes_ML), 32), codes_ML, f"code {code} at place {place}")


def _zero_is_zero(ops: Ops, data: st.DataObject) -> None:
    scale_MG = np.exp2(np.array([[data.draw(st.integers(-20, 20))]])).astype(np.float32)
    same(ops.int4_dequantize(ZERO_WORD, scale_MG, 32), np.zeros((1, 32)), "zero codes")


def _seven_scales(ops: Ops, data: st.DataObject) -> None:
    scale_MG = np.exp2(np.array([[data.draw(st.integers(-20, 20))]])).astype(np.float32)
    wanted = np.full((1, 32), 7 * float(scale_MG[0, 0]))
    same(ops.int4_dequantize(SEVENS, scale_MG, 32), wanted, "code 7")


def _scale_rules_its_group(ops: Ops, data: st.DataObject) -> None:
    M, L = 4, 128
    codes_ML, packed_MP, scale_MG = d.packed(data, M, L)
    row, group = data.draw(st.integers(0, M - 1)), data.draw(st.integers(0, 3))
    before_ML = ops.int4_dequantize(packed_MP, scale_MG, L)
    doubled_MG = scale_MG.copy()
    doubled_MG[row, group] *= 2
    wanted_ML = before_ML.copy()
    wanted_ML[row, 32 * group : 32 * group + 32] *= 2
    after_ML = ops.int4_dequantize(packed_MP, doubled_MG, L)
    same(after_ML, wanted_ML, f"scale ({row}, {group}) doubled")
    if ((before_ML == 0) != (codes_ML == 0)).any():
        raise Broken("a weight is zero where its code is not, or the reverse")


def _group_size_counts(ops: Ops, data: st.DataObject) -> None:
    """The same weights, written with groups of 32 and of 64, are the same."""
    _, packed_MP, scale_MG = d.packed(data, 3, 128)
    coarse_MG = scale_MG[:, :2]
    fine = ops.int4_dequantize(packed_MP, np.repeat(coarse_MG, 2, axis=1), 128)
    same(ops.int4_dequantize(packed_MP, coarse_MG, 128, group_size=64), fine, "groups of 64")


def _scale_is_linear(ops: Ops, data: st.DataObject) -> None:
    """Scales that add up give weights that add up, where bfloat16 holds the sum."""
    low, high = data.draw(st.integers(1, 63)), data.draw(st.integers(64, 127))
    packed_MP = int4_pack(np.full((1, 32), 1))
    parts = [np.array([[s]], np.float32) for s in (low, high, low + high)]
    a, b, both = (ops.int4_dequantize(packed_MP, s, 32) for s in parts)
    same(a + b, both, f"scales {low} + {high}")


def _columns_are_cut(ops: Ops, data: st.DataObject) -> None:
    """A weight of fewer columns is the beginning of the longer one."""
    _, packed_MP, scale_MG = d.packed(data, 3, 64)
    columns = data.draw(st.integers(33, 63))
    long_ML = ops.int4_dequantize(packed_MP, scale_MG, 64)
    short_ML = ops.int4_dequantize(packed_MP[:, : -(-columns // 8)], scale_MG, columns)
    same(short_ML, long_ML[:, :columns], f"the first {columns} columns")


def _requantising_changes_nothing(ops: Ops, data: st.DataObject) -> None:
    draw = Draw(data.draw(d.seeds()), "quant")
    codes_ML = draw.integers(-7, 8, 3, 64)
    codes_ML[:, ::32] = np.where(draw.integers(0, 2, 3, 2) == 1, 7, -7)
    scale_MG = np.exp2(draw.integers(-6, 7, 3, 2)).astype(np.float32)
    w_ML = (codes_ML * np.repeat(scale_MG, 32, axis=1)).astype(np.float32)
    again_ML, same_MG = ops.int4_quantize(w_ML)
    same(again_ML, codes_ML, "codes of dequantised weights")
    same(same_MG, scale_MG, "scales of dequantised weights")


def _product_is_linear(ops: Ops, data: st.DataObject) -> None:
    _, packed_MP, scale_MG = d.packed(data, 5, 64)
    x, y = data.draw(d.ordinary(2, 64)), data.draw(d.ordinary(2, 64))
    x, y = np.round(x * 8) / 8, np.round(y * 8) / 8  # sums that bfloat16 holds
    x, y = np.clip(x, -4, 4), np.clip(y, -4, 4)
    apart = ops.int4_linear(x, packed_MP, scale_MG) + ops.int4_linear(y, packed_MP, scale_MG)
    together = ops.int4_linear(x + y, packed_MP, scale_MG)
    ops.near(together, apart, "W(x + y)", size=_size(x, y))


def _size(*xs: np.ndarray) -> float:
    return float(max(np.abs(x).sum(axis=-1).max() for x in xs)) * 0.5


def _unit_gives_column(ops: Ops, data: st.DataObject) -> None:
    _, packed_MP, scale_MG = d.packed(data, 5, 64)
    unit_TL = np.eye(64, dtype=np.float32)[[data.draw(st.integers(0, 63))]]
    w_ML = ops.int4_dequantize(packed_MP, scale_MG, 64)
    column = w_ML[:, int(unit_TL.argmax())]
    ops.near(ops.int4_linear(unit_TL, packed_MP, scale_MG)[0], column, "W e_j", units=0.1)


def _group_meets_its_scale(ops: Ops, data: st.DataObject) -> None:
    """An input within one group does not see the scales of the others."""
    _, packed_MP, scale_MG = d.packed(data, 5, 128)
    group = data.draw(st.integers(0, 3))
    x_TL = np.zeros((1, 128), np.float32)
    x_TL[:, 32 * group : 32 * group + 32] = data.draw(d.ordinary(1, 32))
    others_MG = scale_MG.copy()
    others_MG[:, [g for g in range(4) if g != group]] *= 4
    before = ops.int4_linear(x_TL, packed_MP, scale_MG)
    after = ops.int4_linear(x_TL, packed_MP, others_MG)
    ops.near(after, before, f"input within group {group}", size=_size(x_TL))


def _column_shards_add(ops: Ops, data: st.DataObject) -> None:
    """Two shards of whole groups add up to the whole."""
    _, packed_MP, scale_MG = d.packed(data, 5, 128)
    x_TL = data.draw(d.ordinary(2, 128))
    halves = [
        ops.int4_linear(x_TL[:, c], packed_MP[:, p], scale_MG[:, g])
        for c, p, g in (
            (slice(64), slice(8), slice(2)),
            (slice(64, None), slice(8, None), slice(2, None)),
        )
    ]
    whole = ops.int4_linear(x_TL, packed_MP, scale_MG)
    ops.near(halves[0] + halves[1], whole, "shards along the columns", size=_size(x_TL))


def _row_shards_join(ops: Ops, data: st.DataObject) -> None:
    """Two shards along the rows give the two halves of the output."""
    _, packed_MP, scale_MG = d.packed(data, 6, 64)
    x_TL, cut = data.draw(d.ordinary(2, 64)), data.draw(st.integers(1, 5))
    parts = [
        ops.int4_linear(x_TL, packed_MP[rows], scale_MG[rows])
        for rows in (slice(cut), slice(cut, None))
    ]
    whole = ops.int4_linear(x_TL, packed_MP, scale_MG)
    ops.near(np.concatenate(parts, axis=1), whole, f"{cut} rows and the rest", size=_size(x_TL))


PACK, UNPACK, DEQ, LINEAR = "int4_pack", "int4_unpack", "int4_dequantize", "int4_linear"
LAWS = [
    Law(1, "unpack-inverts-pack", "int4:nibble-order", (PACK, UNPACK), _unpack_inverts_pack),
    Law(1, "words-mean-codes", "int4:nibble-order", (UNPACK,), _words_mean_codes),
    Law(2, "zero-is-zero", "int4:nibble-order", (DEQ,), _zero_is_zero),
    Law(3, "seven-scales", "int4:scale-per-group", (DEQ,), _seven_scales),
    Law(4, "scale-rules-its-group", "int4:scale-per-group", (DEQ,), _scale_rules_its_group),
    Law(5, "scales-add", "int4:scale-per-group", (DEQ,), _scale_is_linear),
    Law(5, "group-size-counts", "int4:group-size-is-read", (DEQ,), _group_size_counts),
    Law(5, "columns-are-cut", "int4:padding-is-cut", (DEQ,), _columns_are_cut),
    Law(5, "requantising", "quant:k2", ("int4_quantize",), _requantising_changes_nothing),
    Law(49, "product-is-linear", "int4:product", (LINEAR,), _product_is_linear),
    Law(50, "unit-gives-column", "int4:product", (LINEAR, DEQ), _unit_gives_column),
    Law(51, "group-meets-its-scale", "int4:product", (LINEAR,), _group_meets_its_scale),
    Law(52, "column-shards-add", "int4:product", (LINEAR,), _column_shards_add),
    Law(52, "row-shards-join", "int4:product", (LINEAR,), _row_shards_join),
]
