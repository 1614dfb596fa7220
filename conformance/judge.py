"""From a case and an answer to an agreement: the reference, its noise and its bounds.

The reference runs in float64 on the very inputs of the engine, under the engine's declared answers
to the open questions.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from conformance import compare
from conformance.cases import Case
from conformance.compare import Precision
from conformance.noise import call, disturbing, in_float64, spread
from conformance.results import Agreement, Verdict
from conformance.variant import Variant
from k2ref import oracle
from k2ref.numerics import Numerics
from k2ref.oracle import fp8_dequantize, int4_dequantize

ROUTER = ("router_logits", "router_scores", "route")


@dataclass(frozen=True)
class Reference:
    """What the oracle says to a case, and how far an engine may stray."""

    answers: dict[str, np.ndarray]
    sigma: np.ndarray | None = None
    bound: np.ndarray | None = None
    choices: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    """of a question: each answer by its name"""


def inputs(case: Case, precision: Precision, numerics: Numerics) -> dict[str, Any]:
    """Give an engine its inputs, under its own answers: case, precision, numerics -> table."""
    table = case.inputs(precision)
    if table.get("dequant") == "exact" and case.rule != "exact":
        table["dequant"] = numerics.dequant
    return table


@lru_cache(maxsize=4096)
def reference(case: Case, precision: Precision, numerics: Numerics) -> Reference:
    """Work out what is expected: case, precision, numerics -> Reference, remembered."""
    table = in_float64(inputs(case, precision, numerics))
    op, rule = case.op, case.rule
    choices = {n: call(oracle, op, {**table, **o}) for n, o in case.answers.items()}
    found = next(iter(choices.values())) if choices else call(oracle, op, table)
    if rule == "bound":
        return Reference(found, bound=_bound(table, precision, numerics))
    if rule != "noise":
        return Reference(found, choices=choices)
    precise = precision if op not in ROUTER else compare.PRECISIONS[_router(precision, numerics)]
    sigma = spread(lambda v: call(v, op, table)["out"], found["out"], precise)
    if op == "moe":
        sigma = np.maximum(sigma, np.median(sigma))
    return Reference(found, sigma=sigma)


def _bound(table: dict[str, Any], precision: Precision, numerics: Numerics) -> np.ndarray:
    x_TL = table["x_TL"]
    roundings = 0
    if "packed_MP" in table:
        w_ML = int4_dequantize(table["packed_MP"], table["scale_MG"], x_TL.shape[1])
        roundings = 1 if numerics.dequant == "bf16" else 0
    elif "values_ML" in table:
        w_ML = fp8_dequantize(table["values_ML"], table["scale_UJ"], block=table["block"])
    else:
        w_ML = table["w_ML"]
    return compare.linear_bound(
        x_TL, w_ML.astype(np.float64), precision, weight_roundings=roundings
    )


def _router(precision: Precision, numerics: Numerics) -> str:
    if precision.name == "f64":
        return "f64"
    return precision.name if numerics.router_dtype == "model" else "f32"


def judge(
    case: Case, found: dict[str, np.ndarray], precision: Precision, numerics: Numerics
) -> Agreement:
    """Judge an answer: case, answers, precision, numerics -> Agreement."""
    wanted = reference(case, precision, numerics)
    if case.is_question:
        return _question(case, found, wanted, numerics)
    if case.rule == "route":
        return _route(case, found, precision, numerics)
    if problem := _unheld(case, found, precision):
        return Agreement(Verdict.FAIL, "type", float("inf"), 0.0, message=problem)
    outcomes = [_one(case, name, found[name], wanted, precision) for name in wanted.answers]
    return max(outcomes, key=lambda o: _GRAVITY.index(o.verdict))


_GRAVITY = [Verdict.PASS, Verdict.LOOSE, Verdict.QUESTION, Verdict.FAIL, Verdict.ERRORED]


def _one(
    case: Case, name: str, found: np.ndarray, wanted: Reference, precision: Precision
) -> Agreement:
    expected = np.asarray(wanted.answers[name])
    if case.rule == "exact":
        return compare.exact(found, expected)
    if case.rule == "units":
        return compare.bounded(found, expected, compare.TABLE_UNITS * 2.0**-23 * np.abs(expected))
    if case.rule == "bound":
        assert wanted.bound is not None
        return compare.bounded(found, expected, wanted.bound)
    assert wanted.sigma is not None
    return compare.within_noise(found, expected, wanted.sigma, precision)


def _unheld(case: Case, found: dict[str, np.ndarray], precision: Precision) -> str:
    """Say which answer holds more than the declared precision: -> message, empty if none."""
    if case.rule not in ("noise", "bound") or case.op in ROUTER:
        return ""
    out = found["out"]
    if out.dtype == precision.dtype or out.dtype.kind not in "fV":
        return ""
    held = out.astype(precision.dtype).astype(np.float64) == out.astype(np.float64)
    if (held | ~np.isfinite(out.astype(np.float64))).all():
        return ""
    return f"declared {precision.name}, answers in {out.dtype} with values it does not hold"


def biased_scores(case: Case) -> np.ndarray:
    """Compute what experts are chosen by: case -> choice_TE float64, -inf in dropped groups."""
    table = case.table
    scores_TE = oracle.router_scores(table["logits_TE"].astype(np.float64))
    choice_TE = scores_TE + table["bias_E"].astype(np.float64)
    if table.get("n_group", 1) > 1:
        exact = Variant(disturbing(Precision("none", np.float64, 0.0, 0.0), 0))
        groups = table["n_group"], table["topk_group"]
        choice_TE = exact.keep_groups(choice_TE, *groups, -np.inf)
    return choice_TE


def _route(
    case: Case, found: dict[str, np.ndarray], precision: Precision, numerics: Numerics
) -> Agreement:
    experts_TK, table = found["experts_TK"], case.table
    T = len(table["logits_TE"])
    if experts_TK.shape != (T, table["top_k"]) or experts_TK.dtype.kind not in "iu":
        came = f"{experts_TK.dtype} {list(experts_TK.shape)}"
        wanted = f"wanted integers [{T}, {table['top_k']}], got {came}"
        return Agreement(Verdict.ERRORED, "slack", float("inf"), 0.0, message=wanted)
    router = _router(precision, numerics)
    delta = compare.ROUTER_DELTA[router]
    chosen = compare.admissible(biased_scores(case), experts_TK, delta=delta)
    if chosen.verdict is not Verdict.PASS:
        return chosen
    expected_TK = weights_of(table, experts_TK)
    weighed = compare.weights_agree(found["weights_TK"], expected_TK, compare.PRECISIONS[router])
    return chosen if weighed.verdict is Verdict.PASS else weighed


def weights_of(table: dict[str, Any], experts_TK: np.ndarray) -> np.ndarray:
    """Weigh an engine's own choice: inputs of `route`, experts_TK -> weights_TK float64."""
    scores_TE = oracle.router_scores(table["logits_TE"].astype(np.float64))
    weights_TK = np.take_along_axis(scores_TE, experts_TK.astype(np.int64), axis=1)
    if table.get("renormalise", True):
        weights_TK = weights_TK / (weights_TK.sum(axis=1, keepdims=True) + 1e-20)
    return np.asarray(weights_TK * table["scale"])


def _question(
    case: Case, found: dict[str, np.ndarray], wanted: Reference, numerics: Numerics
) -> Agreement:
    matches = [name for name, answer in wanted.choices.items() if _same(case, found, answer)]
    if matches:
        return Agreement(Verdict.QUESTION, "question", 0.0, 0.0, message=matches[0])
    if case.rule == "route" and _route_any(case, found):
        return Agreement(Verdict.QUESTION, "question", 0.0, 0.0, message="another tied set")
    known = ", ".join(wanted.choices)
    message = f"none of the known answers {known}"
    return Agreement(Verdict.FAIL, "question", float("inf"), 0.0, message=message)


def _same(case: Case, found: dict[str, np.ndarray], answer: dict[str, np.ndarray]) -> bool:
    if case.rule != "route":
        return all(compare.exact(found[n], np.asarray(answer[n])).verdict == "pass" for n in answer)
    wanted, came = _by_expert(answer), _by_expert(found)
    return all(w.keys() == c.keys() and _close(w, c) for w, c in zip(wanted, came, strict=True))


def _close(wanted: dict[int, float], came: dict[int, float]) -> bool:
    return all(abs(came[e] - wanted[e]) <= 2.0**-20 * abs(wanted[e]) for e in wanted)


def _by_expert(answer: dict[str, np.ndarray]) -> list[dict[int, float]]:
    pairs = zip(answer["experts_TK"], answer["weights_TK"], strict=True)
    return [{int(e): float(w) for e, w in zip(es, ws, strict=True)} for es, ws in pairs]


def _route_any(case: Case, found: dict[str, np.ndarray]) -> bool:
    if case.requirement != "route:tie-rule":
        return False
    slack_T = compare.routing_slack(biased_scores(case), found["experts_TK"])
    return bool((slack_T <= compare.ROUTER_DELTA["f32"]).all())
