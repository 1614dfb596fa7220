"""Laws of normalisation, activations and rotary positions."""

import numpy as np
from hypothesis import strategies as st

from conformance.laws import Broken, Law, Ops, same
from conformance.laws import draws as d

D = 32


def _gain(data: st.DataObject) -> np.ndarray:
    return np.abs(data.draw(d.ordinary(D))) + np.float32(0.5)


def _norm_of_scaled(ops: Ops, data: st.DataObject) -> None:
    x, gain_D = data.draw(d.ordinary(3, D)) + np.float32(0.25), _gain(data)
    factor = np.float32(2.0 ** data.draw(st.integers(1, 12)))
    small, large = (ops.rms_norm(v, gain_D, 1e-30) for v in (x, x * factor))
    ops.near(large, small, f"a row times {factor:g}", units=0.5)


def _norm_is_odd(ops: Ops, data: st.DataObject) -> None:
    x, gain_D = data.draw(d.arrays(3, D)), _gain(data)
    same(ops.rms_norm(-x, gain_D, 1e-6), -ops.rms_norm(x, gain_D, 1e-6), "norm of -x")


def _gain_is_linear(ops: Ops, data: st.DataObject) -> None:
    x, gain_D = data.draw(d.arrays(3, D)), _gain(data)
    same(ops.rms_norm(x, 2 * gain_D, 1e-6), 2 * ops.rms_norm(x, gain_D, 1e-6), "gain doubled")


def _unit_root_mean_square(ops: Ops, data: st.DataObject) -> None:
    """A row far above eps has root mean square 1; one whose mean square is eps, 1/sqrt(2)."""
    eps = data.draw(st.sampled_from([1e-6, 1e-5]))
    x = data.draw(d.ordinary(2, D)) + np.float32(0.5)
    out = ops.rms_norm(x, np.ones(D, np.float32), 1e-30)
    same(np.sqrt(np.mean(out**2, axis=1)), np.ones(2), "root mean square", within=8 * ops.unit)
    level = np.full((1, D), eps**0.5)
    half = ops.rms_norm(level, np.ones(D, np.float32), eps)
    same(half, np.full((1, D), 0.5**0.5), f"a row at eps {eps:g}", within=8 * ops.unit)


def _tiny_rows_vanish(ops: Ops, data: st.DataObject) -> None:
    """Under the root eps wins below its square root: a tiny row stays tiny in proportion."""
    x = data.draw(d.ordinary(1, D)) + np.float32(0.5)
    rows = [(x * np.float32(2.0**-k)).astype(np.float32) for k in (16, 20)]
    larger, smaller = (ops.rms_norm(r, np.ones(D, np.float32), 1e-6) for r in rows)
    same(smaller * 16, larger, "a row below sqrt(eps), sixteen times smaller", within=0.05)


def _pairs_keep_their_length(ops: Ops, data: st.DataObject) -> None:
    x = data.draw(d.arrays(3, 2, 16))
    angle_TZ = data.draw(d.ordinary(3, 8)) * np.float32(50)
    out = ops.rotate(x, angle_TZ).reshape(3, 2, 8, 2)
    before = np.hypot(*np.moveaxis(x.astype(np.float64).reshape(3, 2, 8, 2), -1, 0))
    after = np.hypot(out[..., 0], out[..., 1])
    same(after, before, "length of a pair", within=8 * ops.unit * before)


def _still_at_zero(ops: Ops, data: st.DataObject) -> None:
    x = data.draw(d.arrays(3, 16))
    same(ops.rotate(x, np.zeros((3, 8), np.float32)), x, "rotation by 0")


def _pairs_are_neighbours(ops: Ops, data: st.DataObject) -> None:
    pair = data.draw(st.integers(0, 7))
    x = np.zeros((1, 16), np.float32)
    x[0, 2 * pair] = 1
    angle_TZ = np.full((1, 8), 1.0, np.float32)
    out = ops.rotate(x, angle_TZ)
    others = [i for i in range(16) if i // 2 != pair]
    same(out[0, others], np.zeros(14), f"outside pair {pair}")
    if out[0, 2 * pair + 1] <= 0.5:
        raise Broken("the first of a pair must turn towards the second")


def _angles_add(ops: Ops, data: st.DataObject) -> None:
    x = data.draw(d.ordinary(2, 16))
    a = np.round(data.draw(d.ordinary(2, 8)) * 64).astype(np.float32) / 64
    b = np.round(data.draw(d.ordinary(2, 8)) * 64).astype(np.float32) / 64
    once = ops.rotate(x, a + b)
    twice = ops.rotate(ops.rotate(x, a), b)
    ops.near(twice, once, "rotation by a, then b", units=2)


def _angles_are_products(ops: Ops, data: st.DataObject) -> None:
    table_Z = np.exp2(-np.arange(8)).astype(np.float32)
    position_T = data.draw(d.positions(3))
    same(ops.angles(position_T, table_Z), position_T[:, None] * table_Z, "powers of 2 times p")


def _table(ops: Ops, R: int, base: float, **yarn: float) -> np.ndarray:
    return np.asarray(ops.yarn_inv_freq(R, base, **yarn), np.float64)


def _plain_is_geometric(ops: Ops, data: st.DataObject) -> None:
    base, R = data.draw(st.sampled_from([1e4, 5e4, 1e6])), data.draw(st.sampled_from([16, 64]))
    table_Z = _table(ops, R, base)
    wanted = float(base) ** (-2 / R)
    same(table_Z[1:] / table_Z[:-1], np.full(R // 2 - 1, wanted), "ratio", within=1e-6)
    same(table_Z[0], 1.0, "the first frequency", within=1e-6)


def _bands(ops: Ops, data: st.DataObject) -> None:
    """Fast pairs keep their frequency, slow ones are divided, none lies outside the two."""
    factor = data.draw(st.sampled_from([4.0, 32.0, 64.0]))
    fast = data.draw(st.sampled_from([1.0, 32.0]))
    yarn = {"factor": factor, "original_positions": 4096, "beta_fast": fast, "beta_slow": 1.0}
    plain_Z, table_Z = _table(ops, 64, 5e4), _table(ops, 64, 5e4, **yarn)
    turns_Z = 4096 * plain_Z / (2 * np.pi)
    slow, quick = turns_Z < 0.5, turns_Z > 2 * fast
    same(table_Z[quick], plain_Z[quick], "fast pairs", within=1e-6 * plain_Z[quick])
    slowed = plain_Z[slow] / factor
    same(table_Z[slow], slowed, "slow pairs", within=1e-6 * slowed)
    ratio_Z = plain_Z / table_Z
    if (np.diff(ratio_Z) < -1e-5).any() or ratio_Z.max() > factor * 1.00001:
        raise Broken("a slower pair must be slowed at least as much, and by the factor at most")
    blended = ((ratio_Z > 1.001) & (ratio_Z < factor * 0.999)).any()
    if blended != (fast == 32.0):
        raise Broken(f"beta_fast {fast:g}: the ramp has {'a' if blended else 'no'} middle")


def _factor_one(ops: Ops, data: st.DataObject) -> None:
    base = data.draw(st.sampled_from([1e4, 5e4]))
    yarn = {"original_positions": 4096, "beta_fast": 32.0, "beta_slow": 1.0}
    near_one = _table(ops, 64, base, factor=1.0 + 1e-9, **yarn)
    same(near_one, _table(ops, 64, base), "factor 1", within=1e-6)
    same(ops.yarn_mscale(1.0, 1.0), 1.0, "m of factor 1")


def _mscale_grows(ops: Ops, data: st.DataObject) -> None:
    factor, k = data.draw(st.sampled_from([2.0, 8.0, 64.0])), data.draw(st.sampled_from([0.5, 1.0]))
    once, twice = (ops.yarn_mscale(f, k) - 1 for f in (factor, factor**2))
    same(twice, 2 * once, "m of a squared factor", within=1e-6)
    if once <= 0:
        raise Broken("m must exceed 1 beyond factor 1")


def _silu_and_its_mirror(ops: Ops, data: st.DataObject) -> None:
    x = data.draw(d.arrays(2, D, low=-4, high=3))
    ops.near(ops.silu(x) - ops.silu(-x), x.astype(np.float64), "silu(x) - silu(-x)", units=0.25)
    same(ops.silu(np.zeros((1, 4), np.float32)), np.zeros((1, 4)), "silu(0)")


def _silu_slope(ops: Ops, data: st.DataObject) -> None:
    """silu(x) / silu(-x) = -exp(x), which no other gate has."""
    x = np.abs(data.draw(d.ordinary(1, D))) + np.float32(0.25)
    x = np.minimum(x, 4)
    ratio = -ops.silu(x) / ops.silu(-x)
    wanted = np.exp(x.astype(np.float64))
    same(ratio, wanted, "silu(x) / silu(-x)", within=16 * ops.unit * wanted)


def _swiglu_is_linear_in_up(ops: Ops, data: st.DataObject) -> None:
    gate, up = data.draw(d.arrays(2, D, high=3)), data.draw(d.arrays(2, D, high=10))
    same(ops.swiglu(gate, 2 * up), 2 * ops.swiglu(gate, up), "up doubled")
    same(ops.swiglu(gate, np.zeros_like(up)), np.zeros(up.shape), "up 0")


def _swiglu_gates_the_first(ops: Ops, data: st.DataObject) -> None:
    up = data.draw(d.arrays(2, D, high=3))
    same(ops.swiglu(np.zeros_like(up), up), np.zeros(up.shape), "gate 0")
    shut = ops.swiglu(np.full_like(up, -64), up)
    same(shut, np.zeros(up.shape), "gate -64", within=1e-20 * np.abs(up).max() * 64)


def _softmax_shift(ops: Ops, data: st.DataObject) -> None:
    logits = np.round(data.draw(d.ordinary(2, 9)) * 16).astype(np.float32) / 16
    logits = np.clip(logits, -4, 4)
    shifted = ops.softmax((logits + np.float32(4)).astype(np.float32))
    ops.near(shifted, ops.softmax(logits), "logits + 4")
    same(ops.softmax(logits).sum(axis=1), np.ones(2), "sum", within=9 * ops.unit)


def _masked_logits_vanish(ops: Ops, data: st.DataObject) -> None:
    """-inf beside finite logits has probability 0, and they share as if it were not there."""
    logits = np.clip(data.draw(d.ordinary(2, 9)), -4, 4)
    seen = data.draw(st.integers(1, 8))
    masked = logits.copy()
    masked[:, seen:] = -np.inf
    found = ops.softmax(masked)
    same(found[:, seen:], np.zeros((2, 9 - seen)), "probability of -inf")
    ops.near(found[:, :seen], ops.softmax(logits[:, :seen]), f"{seen} logits beside -inf")


LAWS = [
    Law(6, "norm-of-scaled-row", "norm:formula", ("rms_norm",), _norm_of_scaled),
    Law(7, "norm-is-odd", "norm:mean-is-kept", ("rms_norm",), _norm_is_odd),
    Law(8, "gain-is-linear", "norm:formula", ("rms_norm",), _gain_is_linear),
    Law(9, "unit-root-mean-square", "norm:eps-inside", ("rms_norm",), _unit_root_mean_square),
    Law(9, "tiny-rows-vanish", "norm:eps-inside", ("rms_norm",), _tiny_rows_vanish),
    Law(10, "still-at-zero", "rope:interleaved-pairs", ("rotate",), _still_at_zero),
    Law(11, "pairs-keep-length", "rope:amplitude", ("rotate",), _pairs_keep_their_length),
    Law(12, "pairs-are-neighbours", "rope:interleaved-pairs", ("rotate",), _pairs_are_neighbours),
    Law(13, "rotations-add", "rope:interleaved-pairs", ("rotate",), _angles_add),
    Law(13, "angles-are-products", "rope:angle-in-float32", ("angles",), _angles_are_products),
    Law(36, "swiglu-linear-in-up", "act:swiglu", ("swiglu",), _swiglu_is_linear_in_up),
    Law(37, "swiglu-gates-the-first", "act:swiglu", ("swiglu",), _swiglu_gates_the_first),
    Law(38, "silu-and-its-mirror", "act:silu", ("silu",), _silu_and_its_mirror),
    Law(38, "silu-ratio", "act:silu", ("silu",), _silu_slope),
    Law(55, "softmax-shift", "act:softmax", ("softmax",), _softmax_shift),
    Law(55, "masked-logits-vanish", "act:softmax", ("softmax",), _masked_logits_vanish),
    Law(56, "plain-table-is-geometric", "rope:table", ("yarn_inv_freq",), _plain_is_geometric),
    Law(56, "yarn-bands", "rope:table", ("yarn_inv_freq",), _bands),
    Law(57, "factor-one", "rope:table", ("yarn_inv_freq", "yarn_mscale"), _factor_one),
    Law(57, "mscale-grows", "rope:mscale", ("yarn_mscale",), _mscale_grows),
]
