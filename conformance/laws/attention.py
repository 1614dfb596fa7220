"""Laws of latent attention: causality, caches, positions, heads; of both forms."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from conformance.draw import Draw
from conformance.laws import Broken, Law, Ops, same
from conformance.laws import draws as d

H, N, R, C, V = 2, 8, 4, 16, 8
FORMS = ("absorbed", "expanded")
PLACED = ("q_nope_THN", "q_rope_THR", "latent_SC", "key_rope_SR")


def _inputs(data: st.DataObject, T: int, S: int) -> dict[str, Any]:
    draw = Draw(data.draw(d.seeds()), "attention")
    return {
        "q_nope_THN": draw.normal(T, H, N),
        "q_rope_THR": draw.normal(T, H, R),
        "latent_SC": draw.normal(S, C),
        "key_rope_SR": draw.normal(S, R),
        "w_uk_HNC": draw.normal(H, N, C, spread=C**-0.5),
        "w_uv_HVC": draw.normal(H, V, C, spread=C**-0.5),
        "scale": 0.3,
        "first_query": S - T,
    }


def _attend(ops: Ops, form: str, table: dict[str, Any], **changes: Any) -> np.ndarray:
    table = {**table, **changes}
    places = [table.pop(n) for n in PLACED]
    out: np.ndarray = getattr(ops, f"attend_{form}")(*places, **table)
    return out


def _near(ops: Ops, found: np.ndarray, wanted: np.ndarray, what: str) -> None:
    ops.near(found, wanted, what, size=max(1.0, float(np.abs(wanted).max())))


def _equal_forms(ops: Ops, form: str, data: st.DataObject) -> None:
    table = _inputs(data, 3, 7)
    _near(ops, _attend(ops, "absorbed", table), _attend(ops, "expanded", table), "the two forms")


def _length(data: st.DataObject) -> int:
    """Draw a length on either side of a block of 64: data -> S."""
    return int(data.draw(st.sampled_from([2, 3, 7, 16, 17, 40, 70])))


def _prefix(ops: Ops, form: str, data: st.DataObject) -> None:
    S = _length(data)
    table = _inputs(data, S, S)
    n = data.draw(st.integers(1, S - 1))
    begun = _attend(ops, form, table, **{k: table[k][:n] for k in PLACED})
    _near(ops, begun, _attend(ops, form, table)[:n], f"the first {n} of {S}")


def _decode(ops: Ops, form: str, data: st.DataObject) -> None:
    S = _length(data)
    table = _inputs(data, S, S)
    cut = data.draw(st.integers(1, S - 1))
    whole = _attend(ops, form, table)
    queries = {k: table[k][cut:] for k in ("q_nope_THN", "q_rope_THR")}
    rest = _attend(ops, form, table, **queries, first_query=cut)
    _near(ops, rest, whole[cut:], f"{S - cut} queries on a cache of {cut}")
    last = {k: table[k][-1:] for k in queries}
    _near(ops, _attend(ops, form, table, **last, first_query=S - 1), whole[-1:], "the last alone")


def _block_edges(ops: Ops, form: str, data: st.DataObject) -> None:
    """A prompt in two chunks, cut at either side of a block of 64, is the prompt in one."""
    S, cut = 70, data.draw(st.sampled_from([1, 63, 64, 65]))
    table = _inputs(data, S, S)
    whole = _attend(ops, form, table)
    first = {k: table[k][:cut] for k in PLACED}
    rest = {k: table[k][cut:] for k in ("q_nope_THN", "q_rope_THR")}
    begun = _attend(ops, form, table, **first)
    ended = _attend(ops, form, table, **rest, first_query=cut)
    _near(ops, np.concatenate([begun, ended]), whole, f"chunks of {cut} and {S - cut}")


def _rows_may_move(ops: Ops, form: str, data: st.DataObject) -> None:
    """For a query that sees all of a cache its order is nothing: pages may lie anywhere."""
    S, page = 64, data.draw(st.sampled_from([1, 8, 16]))
    table = _inputs(data, 1, S)
    order = Draw(data.draw(d.seeds()), "pages").random.permutation(S // page)
    row_S = (order[:, None] * page + np.arange(page)).ravel()
    moved = {k: table[k][row_S] for k in ("latent_SC", "key_rope_SR")}
    wanted = _attend(ops, form, table)
    _near(ops, _attend(ops, form, table, **moved), wanted, f"pages of {page} in another order")


def _influence(ops: Ops, form: str, data: st.DataObject) -> None:
    """Each place reaches itself and every later query, and no earlier one."""
    S = _length(data)
    table = _inputs(data, S, S)
    place = data.draw(st.integers(0, S - 1))
    changed = table["latent_SC"].copy()
    changed[place] = -4 * changed[place]
    before, after = _attend(ops, form, table), _attend(ops, form, table, latent_SC=changed)
    same(after[:place], before[:place], f"queries before place {place}")
    touched_T = np.abs(after - before)[place:].max(axis=(1, 2))
    if (touched_T == 0).any():
        query = place + int(np.argmin(touched_T))
        raise Broken(f"query {query} of {S} does not see place {place}")


def _mean_of_values(ops: Ops, form: str, data: st.DataObject) -> None:
    S = _length(data)
    table = _inputs(data, S, S)
    zero = {k: np.zeros_like(table[k]) for k in ("q_nope_THN", "q_rope_THR")}
    value_SHV = np.einsum("SC,HVC->SHV", *(np.float64(table[k]) for k in ("latent_SC", "w_uv_HVC")))
    wanted = np.cumsum(value_SHV, axis=0) / np.arange(1, S + 1)[:, None, None]
    size = float(np.abs(value_SHV).max())
    ops.near(_attend(ops, form, table, **zero), wanted, "zero query", size=size)


def _heads(ops: Ops, form: str, data: st.DataObject) -> None:
    table = _inputs(data, 3, 5)
    swapped = {k: table[k][:, ::-1] for k in ("q_nope_THN", "q_rope_THR")}
    swapped |= {k: table[k][::-1] for k in ("w_uk_HNC", "w_uv_HVC")}
    swapped = {k: np.ascontiguousarray(v) for k, v in swapped.items()}
    wanted = _attend(ops, form, table)[:, ::-1]
    _near(ops, _attend(ops, form, table, **swapped), wanted, "heads exchanged")


def _relative(ops: Ops, form: str, data: st.DataObject) -> None:
    S, shift = 5, data.draw(st.integers(1, 4000))
    table = _inputs(data, S, S)
    inv_freq_Z = np.array([1.0, 0.03125], np.float32)

    def turned(first: int) -> np.ndarray:
        angle = ops.angles(first + np.arange(S), inv_freq_Z)
        parts = {k: ops.rotate(table[k], angle) for k in ("q_rope_THR", "key_rope_SR")}
        return _attend(ops, form, table, **parts)

    phase = 2.0**-23 * (shift + S)
    wanted = turned(0)
    same(turned(shift), wanted, f"places + {shift}", within=16 * (ops.unit + phase) * 4)


def _twins(ops: Ops, form: str, data: st.DataObject) -> None:
    """Where all keys are equal, so are the outputs: the value of each."""
    S = 6
    table = _inputs(data, S, S)
    level = {k: np.repeat(table[k][:1], S, axis=0) for k in ("latent_SC", "key_rope_SR")}
    out = _attend(ops, form, table, **level)
    first_C, w_uv_HVC = np.float64(level["latent_SC"][0]), np.float64(table["w_uv_HVC"])
    wanted = np.broadcast_to(np.einsum("C,HVC->HV", first_C, w_uv_HVC), out.shape)
    ops.near(out, wanted, "equal keys", size=float(np.abs(wanted).max()))


def _values_are_linear(ops: Ops, form: str, data: st.DataObject) -> None:
    table = _inputs(data, 4, 6)
    doubled = {"w_uv_HVC": 2 * table["w_uv_HVC"]}
    wanted = 2 * _attend(ops, form, table)
    _near(ops, _attend(ops, form, table, **doubled), wanted, "value weights doubled")


def _keys_scale(ops: Ops, form: str, data: st.DataObject) -> None:
    """Doubling queries and halving the scale changes nothing."""
    table = _inputs(data, 4, 6)
    doubled = {k: 2 * table[k] for k in ("q_nope_THN", "q_rope_THR")}
    found = _attend(ops, form, table, **doubled, scale=0.15)
    _near(ops, found, _attend(ops, form, table), "queries doubled, scale halved")


def _shape_of_rows(ops: Ops, data: st.DataObject) -> None:
    """Rows of kv_b: a marked row lands in its head, as key or as value."""
    row = data.draw(st.integers(0, H * (N + V) - 1))
    w_ML = np.zeros((H * (N + V), C), np.float32)
    w_ML[row] = 1
    w_uk_HNC, w_uv_HVC = ops.split_kv_b(w_ML, H, N)
    head, place = divmod(row, N + V)
    wanted_uk, wanted_uv = np.zeros((H, N, C)), np.zeros((H, V, C))
    (wanted_uk if place < N else wanted_uv)[head, place if place < N else place - N] = 1
    same(w_uk_HNC, wanted_uk, f"row {row} among the keys")
    same(w_uv_HVC, wanted_uv, f"row {row} among the values")


def _of_form(law: Any, form: str) -> Any:
    return lambda ops, data: law(ops, form, data)


_FORMED = [
    (13, "relative-positions", "rope:interleaved-pairs", _relative, ("angles", "rotate")),
    (15, "causal-prefix", "mla:causal", _prefix, ()),
    (19, "influence-is-a-triangle", "mla:causal", _influence, ()),
    (20, "zero-query-means", "mla:attention", _mean_of_values, ()),
    (21, "heads-may-move", "mla:attention", _heads, ()),
    (43, "decode-is-prefill", "mla:cache-is-prefill", _decode, ()),
    (44, "chunks-at-block-edges", "mla:cache-is-prefill", _block_edges, ()),
    (46, "cache-rows-may-move", "mla:attention", _rows_may_move, ()),
    (54, "equal-keys", "mla:attention", _twins, ()),
    (54, "values-are-linear", "mla:attention", _values_are_linear, ()),
    (55, "scale-and-query", "mla:attention", _keys_scale, ()),
]
LAWS = [
    Law(number, f"{name}-{form}", requirement, (f"attend_{form}", *more), _of_form(law, form))
    for number, name, requirement, law, more in _FORMED
    for form in FORMS
]
LAWS += [
    Law(
        42,
        "absorbed-is-expanded",
        "mla:absorbed-equals-expanded",
        ("attend_absorbed", "attend_expanded"),
        _of_form(_equal_forms, ""),
    ),
    Law(21, "rows-of-kv-b", "mla:kv-b-rows", ("split_kv_b",), _shape_of_rows),
]
