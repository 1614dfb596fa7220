"""Laws of routing and of the mixture of experts."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from conformance.draw import Draw
from conformance.laws import Broken, Law, Ops, same
from conformance.laws import draws as d
from k2ref.oracle import Expert, Int4, Routing

E, K, SCALE = 16, 4, 2.827
UNIT = 2.0**-23


def _router(data: st.DataObject) -> tuple[np.ndarray, np.ndarray]:
    draw = Draw(data.draw(d.seeds()), "router")
    return draw.normal(3, E, spread=1.5), draw.normal(E, spread=0.1)


def _route(ops: Ops, logits_TE: np.ndarray, bias_E: np.ndarray, **options: Any) -> Routing:
    found: Routing = ops.route(logits_TE, bias_E, **{"top_k": K, "scale": SCALE, **options})
    return found


def _by_expert(routing: Any) -> np.ndarray:
    """Spread weights over all experts, -1 where not chosen: -> dense_TE."""
    experts_TK, weights_TK = np.asarray(routing[0]), np.asarray(routing[1])
    if experts_TK.min() < 0 or experts_TK.max() >= E:
        raise Broken(f"experts must lie in 0 to {E - 1}, got {experts_TK.min()}…{experts_TK.max()}")
    dense_TE = np.full((len(experts_TK), E), -1.0)
    np.put_along_axis(dense_TE, experts_TK, weights_TK, axis=1)
    return dense_TE


def _sums_to_the_factor(ops: Ops, data: st.DataObject) -> None:
    factor = data.draw(st.sampled_from([1.0, 2.5, SCALE]))
    routing = _route(ops, *_router(data), scale=factor)
    if routing[0].shape != (3, K) or any(len(set(row)) != K for row in routing[0].tolist()):
        raise Broken(f"wanted {K} different experts a token, got {routing[0].tolist()}")
    same(routing[1].sum(axis=1), np.full(3, factor), "sum of weights", within=16 * UNIT * factor)


def _bias_shift(ops: Ops, data: st.DataObject) -> None:
    logits_TE, bias_E = _router(data)
    bias_E = np.round(bias_E * 256).astype(np.float32) / 256
    moved = _by_expert(_route(ops, logits_TE, bias_E + np.float32(1)))
    plain = _by_expert(_route(ops, logits_TE, bias_E))
    same(moved, plain, "all biases + 1", within=4 * UNIT * SCALE)


def _bias_forces(ops: Ops, data: st.DataObject) -> None:
    logits_TE, bias_E = _router(data)
    forced = data.draw(st.integers(0, E - 1))
    bias_E[forced] = 100
    if not (np.asarray(_route(ops, logits_TE, bias_E)[0]) == forced).any(axis=1).all():
        raise Broken(f"a bias of 100 does not bring expert {forced} in")


def _weights_ignore_bias(ops: Ops, data: st.DataObject) -> None:
    """Weights are sigmoids of the chosen, over their sum, times the factor."""
    logits_TE, bias_E = _router(data)
    bias_E *= data.draw(st.sampled_from([1, 8]))
    experts_TK, weights_TK = _route(ops, logits_TE, bias_E)
    score_TE = 1 / (1 + np.exp(-logits_TE.astype(np.float64)))
    chosen_TK = np.take_along_axis(score_TE, np.clip(experts_TK, 0, E - 1), axis=1)
    wanted_TK = chosen_TK / chosen_TK.sum(axis=1, keepdims=True) * SCALE
    same(weights_TK, wanted_TK, "weights", within=16 * UNIT * SCALE)


def _equal_scores(ops: Ops, data: st.DataObject) -> None:
    """With equal scores the biases decide, to the last of their float32 bits."""
    order = Draw(data.draw(d.seeds()), "order").random.permutation(E)
    bias_E = (5 + order * 2.0**-12).astype(np.float32)
    dense_TE = _by_expert(_route(ops, np.zeros((2, E), np.float32), bias_E))
    wanted = np.where(order >= E - K, SCALE / K, -1.0)
    same(dense_TE, np.tile(wanted, (2, 1)), "equal scores", within=16 * UNIT * SCALE)


def _raising_a_bias_keeps(ops: Ops, data: st.DataObject) -> None:
    logits_TE, bias_E = _router(data)
    chosen = int(np.asarray(_route(ops, logits_TE, bias_E)[0])[0, 0])
    bias_E[chosen % E] += np.float32(0.5)
    if chosen not in np.asarray(_route(ops, logits_TE, bias_E)[0])[0]:
        raise Broken(f"raising the bias of expert {chosen} removes it")


def _logits_decide(ops: Ops, data: st.DataObject) -> None:
    """Without bias the largest logits are chosen, though bfloat16 could not tell them apart."""
    order = Draw(data.draw(d.seeds()), "order").random.permutation(E)
    logits_TE = (1 + order * 2.0**-12).astype(np.float32)[None]
    dense_TE = _by_expert(_route(ops, logits_TE, np.zeros(E, np.float32)))
    same(np.flatnonzero(dense_TE[0] >= 0), np.flatnonzero(order >= E - K), "the largest logits")


def _plain_weights(ops: Ops, data: st.DataObject) -> None:
    logits_TE, bias_E = _router(data)
    experts_TK, weights_TK = _route(ops, logits_TE, bias_E, renormalise=False)
    score_TE = 1 / (1 + np.exp(-logits_TE.astype(np.float64)))
    wanted_TK = np.take_along_axis(score_TE, np.clip(experts_TK, 0, E - 1), axis=1) * SCALE
    same(weights_TK, wanted_TK, "weights without renormalising", within=16 * UNIT * SCALE)


def _relabelled(ops: Ops, data: st.DataObject) -> None:
    logits_TE, bias_E = _router(data)
    order = Draw(data.draw(d.seeds()), "relabel").random.permutation(E)
    plain = _by_expert(_route(ops, logits_TE, bias_E))
    moved = _by_expert(_route(ops, logits_TE[:, order], bias_E[order]))
    same(moved, plain[:, order], "experts renumbered", within=4 * UNIT * SCALE)


def _groups(ops: Ops, data: st.DataObject) -> None:
    """Two good experts make a group; one excellent expert alone does not."""
    good, lone = data.draw(st.permutations(range(4)).map(lambda p: p[:2]))
    logits_TE = np.full((1, 4, 4), -4, np.float32)
    logits_TE[0, good, :2] = 2
    logits_TE[0, lone, 0] = 3
    flat_TE = logits_TE.reshape(1, E)
    options = {"n_group": 4, "topk_group": 1, "top_k": 2}
    experts_TK, _ = _route(ops, flat_TE, np.zeros(E, np.float32), **options)
    same(np.sort(experts_TK), [[4 * good, 4 * good + 1]], "the group of two good experts")
    single = _by_expert(_route(ops, flat_TE, np.zeros(E, np.float32), n_group=1, topk_group=1))
    same(single, _by_expert(_route(ops, flat_TE, np.zeros(E, np.float32))), "one group")


def _scores(ops: Ops, data: st.DataObject) -> None:
    logits_TE = data.draw(d.arrays(2, E, low=-3, high=3))
    scores_TE = ops.router_scores(logits_TE)
    mirrored_TE = ops.router_scores(-logits_TE)
    same(scores_TE + mirrored_TE, np.ones((2, E)), "s(x) + s(-x)", within=8 * UNIT)
    same(ops.router_scores(np.zeros((1, 4), np.float32)), np.full((1, 4), 0.5), "s(0)")


def _router_rows(ops: Ops, data: st.DataObject) -> None:
    x_TD = data.draw(d.ordinary(2, 32))
    w_ED = Draw(data.draw(d.seeds()), "gate").normal(E, 32, spread=0.2)
    order = Draw(data.draw(d.seeds()), "rows").random.permutation(E)
    size = float(np.abs(x_TD).sum())
    same(
        ops.router_logits(x_TD, w_ED[order]),
        ops.router_logits(x_TD, w_ED)[:, order],
        "rows of the router renumbered",
        within=8 * UNIT * size,
    )


# the mixture

D, F, EXPERTS, TOP = 32, 32, 6, 3


def _packed(draw: Draw, M: int, L: int) -> Int4:
    packed_MP, scale_MG = draw.int4(M, L)
    return Int4(packed_MP, scale_MG, 32, L)


def _expert(draw: Draw) -> Expert:
    return Expert(_packed(draw, F, D), _packed(draw, F, D), _packed(draw, D, F))


def _mixture(data: st.DataObject, T: int = 6) -> tuple[np.ndarray, Routing, list[Expert]]:
    draw = Draw(data.draw(d.seeds()), "mixture")
    experts_TK = np.stack([draw.random.permutation(EXPERTS)[:TOP] for _ in range(T)])
    weights_TK = np.abs(draw.normal(T, TOP)) + np.float32(0.25)
    return draw.normal(T, D), Routing(experts_TK, weights_TK), [_expert(draw) for _ in range(6)]


def _near(ops: Ops, found: np.ndarray, wanted: np.ndarray, what: str) -> None:
    ops.near(found, wanted, what, size=max(float(np.abs(wanted).max()), 1e-3))


def _identical(ops: Ops, data: st.DataObject) -> None:
    x_TD, routing, experts = _mixture(data)
    total_T1 = routing.weights_TK.sum(axis=1, keepdims=True)
    wanted = ops.expert_ffn(x_TD, experts[0]) * total_T1
    _near(ops, ops.moe(x_TD, routing, [experts[0]] * EXPERTS), wanted, "identical experts")


def _tokens_may_move(ops: Ops, data: st.DataObject) -> None:
    x_TD, routing, experts = _mixture(data)
    order = Draw(data.draw(d.seeds()), "tokens").random.permutation(len(x_TD))
    moved = Routing(routing.experts_TK[order], routing.weights_TK[order])
    wanted = ops.moe(x_TD, routing, experts)[order]
    _near(ops, ops.moe(x_TD[order], moved, experts), wanted, "tokens reordered")


def _one_at_a_time(ops: Ops, data: st.DataObject) -> None:
    x_TD, routing, experts = _mixture(data, 12)
    parts = [
        ops.moe(x_TD[t : t + 1], Routing(*(a[t : t + 1] for a in routing)), experts)
        for t in range(len(x_TD))
    ]
    _near(ops, ops.moe(x_TD, routing, experts), np.concatenate(parts), "tokens one at a time")


def _shards_add(ops: Ops, data: st.DataObject) -> None:
    x_TD, routing, experts = _mixture(data)
    parts = [
        ops.moe(x_TD, Routing(routing.experts_TK, np.where(mine, routing.weights_TK, 0)), experts)
        for mine in (routing.experts_TK < 3, routing.experts_TK >= 3)
    ]
    _near(ops, parts[0] + parts[1], ops.moe(x_TD, routing, experts), "shards of experts")


def _places_may_move(ops: Ops, data: st.DataObject) -> None:
    """Reordering a token's experts together with their weights changes nothing."""
    x_TD, routing, experts = _mixture(data)
    moved = Routing(*(np.ascontiguousarray(a[:, ::-1]) for a in routing))
    wanted = ops.moe(x_TD, routing, experts)
    _near(ops, ops.moe(x_TD, moved, experts), wanted, "places reordered")


def _each_counts(ops: Ops, data: st.DataObject) -> None:
    """One expert with weight 1 is that expert."""
    x_TD, routing, experts = _mixture(data)
    e = data.draw(st.integers(0, EXPERTS - 1))
    one = Routing(np.full((len(x_TD), 1), e), np.ones((len(x_TD), 1), np.float32))
    _near(ops, ops.moe(x_TD, one, experts), ops.expert_ffn(x_TD, experts[e]), f"expert {e} alone")


def _scaled(weight: Any, factor: int) -> Int4:
    scaled: Int4 = weight._replace(scale_MG=weight.scale_MG * weight.scale_MG.dtype.type(factor))
    return scaled


def _zero_up(ops: Ops, data: st.DataObject) -> None:
    draw = Draw(data.draw(d.seeds()), "ffn")
    expert, x_TD = _expert(draw), draw.normal(2, D)
    doubled = Expert(expert.gate, _scaled(expert.up, 2), expert.down)
    wanted = 2 * ops.expert_ffn(x_TD, expert)
    _near(ops, ops.expert_ffn(x_TD, doubled), wanted, "scales of up doubled")
    shut = Expert(_scaled(expert.gate, 0), expert.up, expert.down)
    same(ops.expert_ffn(x_TD, shut), np.zeros((2, D)), "gate 0")


ROUTE, MOE = ("route",), ("moe", "expert_ffn")
LAWS = [
    Law(24, "weights-sum-to-factor", "route:scaled", ROUTE, _sums_to_the_factor),
    Law(24, "plain-weights", "route:scaled", ROUTE, _plain_weights),
    Law(25, "bias-shift", "route:bias-never-weighs", ROUTE, _bias_shift),
    Law(26, "bias-forces", "route:top-k", ROUTE, _bias_forces),
    Law(27, "weights-ignore-bias", "route:bias-never-weighs", ROUTE, _weights_ignore_bias),
    Law(28, "equal-scores", "route:bias-in-float32", ROUTE, _equal_scores),
    Law(28, "fine-logits", "route:in-float32", ROUTE, _logits_decide),
    Law(29, "raising-a-bias-keeps", "route:top-k", ROUTE, _raising_a_bias_keeps),
    Law(30, "experts-renumbered", "route:top-k", ROUTE, _relabelled),
    Law(30, "groups-by-two-best", "route:groups", ROUTE, _groups),
    Law(30, "scores-mirror", "route:sigmoid", ("router_scores",), _scores),
    Law(30, "router-rows", "route:logits", ("router_logits",), _router_rows),
    Law(31, "tokens-may-move", "moe:weighted-sum", MOE, _tokens_may_move),
    Law(32, "one-token-at-a-time", "moe:weighted-sum", MOE, _one_at_a_time),
    Law(33, "identical-experts", "moe:weighted-sum", MOE, _identical),
    Law(34, "shards-add", "moe:weighted-sum", MOE, _shards_add),
    Law(34, "each-expert-counts", "moe:weighted-sum", MOE, _each_counts),
    Law(53, "places-may-move", "moe:weighted-sum", MOE, _places_may_move),
    Law(36, "expert-is-linear-in-up", "moe:expert", ("expert_ffn",), _zero_up),
]
