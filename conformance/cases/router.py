"""Routing: margins clear by construction where a set is required, ties where it is a question."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from conformance.cases import Case
from conformance.compare import routing_margin
from conformance.draw import Draw
from k2ref.oracle import router_scores

MARGIN = 64 * 2.0**-20
SCALE = 2.827


def cases(draw: Draw) -> Iterator[Case]:
    """Make the cases of this area: draw -> cases."""
    yield from _scores(draw)
    yield from _choices(draw)
    yield from _groups(draw)
    yield from _questions(draw)


def clear(draw: Draw, T: int, E: int, top_k: int, bias_E: np.ndarray) -> np.ndarray:
    """Draw logits whose choice is clear under the bias: T, E, top_k, bias_E -> logits_TE."""
    rows: list[np.ndarray] = []
    while len(rows) < T:
        logits_E = draw.normal(E, spread=1.5)
        choice_TE = router_scores(logits_E.astype(np.float64)[None]) + bias_E
        if routing_margin(choice_TE, top_k)[0] >= MARGIN:
            rows.append(logits_E)
    return np.stack(rows)


def _scores(draw: Draw) -> Iterator[Case]:
    table: dict[str, Any] = {"x_TD": draw.normal(4, 64), "w_ED": draw.weight(24, 64) * 2}
    why = "the product of hidden states and router weights"
    yield Case("router_logits-ordinary", "route:logits", "router_logits", "noise", why, table)
    special = np.array([[0.0, -0.0, 1.0, -1.0, 20.0, -20.0, 88.0, -88.0, 1e4, -80.0]], np.float32)
    for name, logits_TE in (("special", special), ("ordinary", draw.normal(4, 24, spread=3.0))):
        table = {"logits_TE": logits_TE}
        why = "the sigmoid, without overflow"
        yield Case(f"router_scores-{name}", "route:sigmoid", "router_scores", "noise", why, table)


def _route(name: str, behaviour: str, why: str, table: dict[str, Any], **rest: Any) -> Case:
    table = {"scale": SCALE, **table}
    return Case(f"route-{name}", f"route:{behaviour}", "route", "route", why, table, **rest)


def _choices(draw: Draw) -> Iterator[Case]:
    golden = {
        "logits_TE": np.log(np.array([[1, 3, 1 / 3, 1]])).astype(np.float32),
        "bias_E": np.array([0, 0, 0.6, 0.001], np.float32),
        "top_k": 2,
    }
    yield _route("golden", "bias-never-weighs", "worked by hand: experts 2 and 1", golden)
    for E, top_k in ((64, 8), (384, 8), (24, 4), (896, 16), (33, 1)):
        bias_E = draw.normal(E, spread=0.05)
        table = {"logits_TE": clear(draw, 3, E, top_k, bias_E), "bias_E": bias_E, "top_k": top_k}
        yield _route(f"{E}-{top_k}", "top-k", f"{top_k} of {E} experts", table)
    bias_E = draw.normal(32, spread=0.8)
    table = {"logits_TE": clear(draw, 4, 32, 4, bias_E), "bias_E": bias_E, "top_k": 4}
    yield _route("strong-bias", "bias-never-weighs", "the bias decides, and weighs nothing", table)
    order = draw.random.permutation(32)
    table = {
        "logits_TE": np.zeros((2, 32), np.float32),
        "bias_E": (5 + order * 2.0**-12).astype(np.float32),
        "top_k": 4,
    }
    why = "biases that bfloat16 cannot tell apart: equal scores are chosen in the bias's order"
    yield _route("fine-bias", "bias-in-float32", why, table)
    logits_TE = np.float32(1) + (draw.random.permutation(16) * 2.0**-12)[None].astype(np.float32)
    table = {"logits_TE": logits_TE, "bias_E": np.zeros(16, np.float32), "top_k": 3}
    yield _route("fine-logits", "in-float32", "logits that bfloat16 cannot tell apart", table)
    bias_E = draw.normal(32, spread=0.05)
    logits_TE = clear(draw, 3, 32, 4, bias_E)
    table = {"logits_TE": logits_TE, "bias_E": bias_E, "top_k": 4, "renormalise": False}
    yield _route("plain", "scaled", "without renormalisation the factor still applies", table)
    table = {"logits_TE": logits_TE, "bias_E": bias_E, "top_k": 4, "scale": 1.5}
    yield _route("other-factor", "scaled", "another factor than K2's", table)


def _groups(draw: Draw) -> Iterator[Case]:
    bias_E = draw.normal(32, spread=0.05)
    table = {"logits_TE": clear(draw, 3, 32, 4, bias_E), "bias_E": bias_E, "top_k": 4}
    one = {**table, "n_group": 1, "topk_group": 1}
    yield _route("one-group", "one-group-is-none", "explicit single group", one)
    grouped = {**table, "logits_TE": _clear_groups(draw, bias_E), "n_group": 4, "topk_group": 2}
    yield _route("groups", "groups", "two of four groups, by their two best", grouped)


def _clear_groups(draw: Draw, bias_E: np.ndarray) -> np.ndarray:
    """Draw logits whose best group holds the best expert of none: bias_E -> logits_TE."""
    logits_TE = draw.normal(3, 4, 8, spread=0.25, mean=-2.0)
    for t in range(3):
        order = draw.random.permutation(4)
        logits_TE[t, order[0], :3] = 2.0, 1.9, 1.8  # two good groups, three good experts each
        logits_TE[t, order[1], :3] = 1.7, 1.6, 1.5
        logits_TE[t, order[2], 0] = 3.0  # the best expert of all, alone in its group
    return logits_TE.reshape(3, 32) - bias_E


def _questions(draw: Draw) -> Iterator[Case]:
    negative = {
        "logits_TE": draw.normal(3, 32),
        "bias_E": draw.normal(32, spread=0.05, mean=-1.5),
        "top_k": 4,
        "n_group": 4,
        "topk_group": 2,
    }
    fills = {"-inf": {"mask_fill": -np.inf}, "0": {"mask_fill": 0.0}}
    why = "all biased scores negative: 0 in dropped groups beats the kept ones"
    yield _route("negative-groups", "mask-fill", why, negative, answers=fills)
    logits_TE = np.tile(draw.normal(2, 12), 2)
    ties = {"logits_TE": logits_TE, "bias_E": np.zeros(24, np.float32), "top_k": 3}
    rules = {r: {"tie_rule": r} for r in ("lower_index", "higher_index")}
    why = "every expert twice, an odd number chosen"
    yield _route("ties", "tie-rule", why, ties, answers=rules)
    low = {"logits_TE": np.full((1, 16), -80, np.float32), "bias_E": np.zeros(16, np.float32)}
    low["bias_E"] += np.arange(16, dtype=np.float32)
    sums = {"1e-20": {"renorm_eps": 1e-20}, "0": {"renorm_eps": 0.0}}
    why = "scores whose sum is far below 1e-20"
    yield _route("tiny-scores", "renorm-eps", why, {**low, "top_k": 4}, answers=sums)
