"""The only definition of equal: how far two arrays may be apart, and why.

Each rule has one reason.

exact    There is one right answer: bits, integers, products that float32 holds. No tolerance.

bound    What rounding can do at worst. A sum of n terms errs by at most γ_n Σ|terms| with
         γ_n = n·u / (1 - n·u) (Higham, Accuracy and Stability, eq. 3.4), whatever the order of the
         sum; rounding the result once more adds u_out·|y|. Beyond it no implementation of the
         precision can be, so a failure is a proof.

noise    What rounding does in practice. σ is the spread of the reference itself when every rounding
         point is disturbed by one unit (`conformance.noise`); τ is the error of a row in units of
         σ. Correct engines of both precisions reach 4, the weakest bug in bfloat16 7.4 and in
         float32 over 1000. So an error above 6 σ fails in bfloat16; in float32 and float64 it is
         LOOSE (allowed, and shown) up to 60 σ, which leaves room for exponentials and orders of
         sums that were not measured.

twins    Two float64 computations of one formula differ by their roundings only: at most 1e-12 of
         the largest value, some thousand units, and six orders below what float32 would show.

slack    Routing is set-valued: where biased scores are closer than their own error δ, engines may
         choose either expert. slack = best refused - worst chosen biased score; at most δ is
         allowed. δ = 2⁻²⁰ in float32: 8 units of a sigmoid (4 ulp of exp, the division, the sum
         with the bias), and correct engines use 0.14 of it. Weights are compared with the right
         weights of the engine's own set.

NMSE     Σ|e|² / Σ|y|² of logits. Correct float32 engines reach 2.3e-11 on the profile `nano`; the
         smallest question of the specification gives 4.9e-10. The limit 1e-10 lies between.

gap      How much less than the best a generated token scores in the reference. Greedy decoding in
         the same precision only ever swaps near-ties, so the gap is bounded by the logits' noise:
         1e-4 of their root mean square in float32. A low precision is graded with its own routing
         replayed, and fails above 4 times what correct engines were measured to reach.

Rates carry intervals (Clopper-Pearson), counts a G-test; both hold at any sample size.
"""

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from conformance.results import Agreement, Verdict
from k2ref.errors import InputError

TAU_LIMIT = 6.0
TAU_FAILS = {"f64": 60.0, "f32": 60.0, "bf16": 6.0}
NMSE_LIMIT = 1e-10
TWIN_LIMIT = 1e-12
ROUTER_DELTA = {"f64": 2.0**-48, "f32": 2.0**-20, "bf16": 6 * 2.0**-8}
WEIGHT_UNITS = 8
TABLE_UNITS = 4  # float32 units in a frequency; builds of one library differ by 3
GAP_LIMIT = {"f64": 1e-10, "f32": 1e-4}
FAILS_ABOVE = 4  # times what the worst correct engine of a low precision was measured to reach


class Precision(NamedTuple):
    """The declared precision of an engine: unit of what it stores, unit of its sums."""

    name: str
    dtype: Any
    store: float
    sums: float


PRECISIONS = {
    p.name: p
    for p in (
        Precision("f64", np.float64, 2.0**-52, 2.0**-52),
        Precision("f32", np.float32, 2.0**-23, 2.0**-23),
        Precision("bf16", ml_dtypes.bfloat16, 2.0**-8, 2.0**-23),
    )
}


def find_precision(name: str) -> Precision:
    """Look up a precision: f64, f32 or bf16 -> Precision."""
    if name not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {name!r}")
    return PRECISIONS[name]


def misfit(found: Any, expected: np.ndarray) -> str:
    """Say what makes two arrays incomparable: found, expected -> message, empty if nothing."""
    if not isinstance(found, np.ndarray):
        return f"wanted an array, got {type(found).__name__}"
    if found.shape != expected.shape:
        return f"wanted shape {list(expected.shape)}, got {list(found.shape)}"
    wanted = "integers" if expected.dtype.kind in "iub" else "floating-point numbers"
    integral = found.dtype.kind in "iub"
    known_float = found.dtype.kind == "f" or found.dtype in (ml_dtypes.bfloat16,)
    if integral != (wanted == "integers") or not (integral or known_float):
        return f"wanted {wanted}, got {found.dtype}"
    if not integral and not np.isfinite(found.astype(np.float64)).all():
        bad = np.argwhere(~np.isfinite(found.astype(np.float64)))[0].tolist()
        return f"NaN or infinity at {bad}"
    return ""


def exact(found: np.ndarray, expected: np.ndarray, *, signed_zero: bool = False) -> Agreement:
    """Compare without tolerance: found, expected -> Agreement; zeros are equal unless asked."""
    if problem := misfit(found, expected):
        return _wrong("exact", problem)
    differs = found.astype(expected.dtype) != expected
    if found.dtype.kind not in "iub":
        differs |= found.astype(np.float64) != expected.astype(np.float64)
    if signed_zero:
        differs |= np.signbit(found.astype(np.float64)) != np.signbit(expected.astype(np.float64))
    share = float(differs.mean()) if differs.size else 0.0
    if share == 0:
        return Agreement(Verdict.PASS, "exact", 0.0, 0.0)
    where = tuple(np.argwhere(differs)[0].tolist())
    message = f"{differs.sum()} of {differs.size} values differ, first at {list(where)}: " + (
        f"wanted {expected[where]}, got {found[where]}"
    )
    return Agreement(Verdict.FAIL, "exact", share, 0.0, where, message=message)


def gamma(terms: float, unit: float) -> float:
    """Bound the relative error of a sum of so many terms: terms, unit -> γ."""
    product = terms * unit
    return product / (1 - product) if product < 0.5 else float("inf")


def linear_bound(
    x_TL: np.ndarray, w_ML: np.ndarray, precision: Precision, *, weight_roundings: int = 0
) -> np.ndarray:
    """Bound the error of a product: x_TL, w_ML in float64 -> bound_TM.

    `weight_roundings`: how often each weight may have been rounded to the stored precision.
    """
    magnitude_TM = np.abs(x_TL) @ np.abs(w_ML).T
    relative = gamma(x_TL.shape[1] + 1, precision.sums) + weight_roundings * precision.store
    result_TM = np.abs(x_TL @ w_ML.T)
    return relative * magnitude_TM + precision.store * (result_TM + relative * magnitude_TM)


def bounded(found: np.ndarray, expected: np.ndarray, bound: np.ndarray) -> Agreement:
    """Compare value by value with a provable bound: found, expected, bound -> Agreement."""
    if problem := misfit(found, expected):
        return _wrong("bound", problem)
    error = np.abs(found.astype(np.float64) - expected)
    use = np.divide(error, bound, out=np.where(error > 0, np.inf, 0.0), where=bound > 0)
    worst, where = _worst(use)
    verdict = Verdict.PASS if worst <= 1 else Verdict.FAIL
    message = "" if worst <= 1 else _at(found, expected, where) + f", {worst:.3g} x the bound"
    return Agreement(verdict, "bound", worst, 1.0, where, bound_use=worst, message=message)


def twins(found: np.ndarray, expected: np.ndarray) -> Agreement:
    """Compare two float64 ways to one answer: found, expected -> Agreement."""
    bound = np.full(expected.shape, TWIN_LIMIT * np.abs(expected).max(initial=0.0))
    return bounded(found, expected, bound)._replace(rule="twins")


def noise_units(error: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Measure the error of each row in units of noise: error, sigma of each row -> tau per row."""
    size = np.sqrt(np.mean(np.square(error), axis=-1))
    return np.divide(size, sigma, out=np.where(size > 0, np.inf, 0.0), where=sigma > 0)


def within_noise(
    found: np.ndarray, expected: np.ndarray, sigma: np.ndarray, precision: Precision
) -> Agreement:
    """Compare rows (the last axis) with the noise: found, expected, sigma per row -> Agreement."""
    if problem := misfit(found, expected):
        return _wrong("noise", problem)
    error = found.astype(np.float64) - expected
    tau, row = _worst(noise_units(error, sigma))
    place = (*row, int(np.abs(error[row]).argmax())) if error.size and error.ndim else ()
    limit = TAU_FAILS[precision.name]
    verdict = Verdict.PASS if tau <= TAU_LIMIT else Verdict.LOOSE if tau <= limit else Verdict.FAIL
    message = "" if verdict is Verdict.PASS else _at(found, expected, place) + f", {tau:.3g} sigma"
    return Agreement(verdict, "noise", tau, limit, place, tau, None, message)


def routing_slack(choice_TE: np.ndarray, experts_TK: np.ndarray) -> np.ndarray:
    """Measure how inadmissible a choice is: biased scores choice_TE, experts_TK -> slack_T.

    Best refused less worst chosen score. A set that is none (repeated or unknown experts) has
    infinite slack.
    """
    T, E = choice_TE.shape
    slack_T = np.full(T, np.inf)
    for t, experts_K in enumerate(np.asarray(experts_TK, np.int64)):
        chosen_E = np.zeros(E, bool)
        if ((experts_K < 0) | (experts_K >= E)).any():
            continue
        chosen_E[experts_K] = True
        if chosen_E.sum() != len(experts_K):
            continue
        refused = choice_TE[t, ~chosen_E]
        best_refused = refused.max() if len(refused) else -np.inf
        slack_T[t] = best_refused - choice_TE[t, chosen_E].min()
    return slack_T


def routing_margin(choice_TE: np.ndarray, top_k: int) -> np.ndarray:
    """Measure how clear a choice is: choice_TE -> margin_T, the k-th less the next best score."""
    ordered_TE = np.sort(choice_TE, axis=1)[:, ::-1]
    if ordered_TE.shape[1] == top_k:
        return np.full(len(choice_TE), np.inf)
    return ordered_TE[:, top_k - 1] - ordered_TE[:, top_k]


def admissible(choice_TE: np.ndarray, experts_TK: np.ndarray, *, delta: float) -> Agreement:
    """Judge chosen sets: biased scores choice_TE, experts_TK -> Agreement by slack."""
    if experts_TK.ndim != 2 or len(experts_TK) != len(choice_TE):
        return _wrong("slack", f"wanted {len(choice_TE)} rows of experts, got {experts_TK.shape}")
    slack_T = routing_slack(choice_TE, experts_TK)
    worst, (t, *_) = _worst(slack_T)
    verdict = Verdict.PASS if worst <= delta else Verdict.FAIL
    message = "" if worst <= delta else f"token {t}: a refused expert scores {worst:.3g} more"
    if np.isinf(worst):
        K, E = experts_TK.shape[1], choice_TE.shape[1]
        chosen = ", ".join(map(str, experts_TK[t].tolist()))
        message = f"token {t}: {chosen} are no {K} different experts of {E}"
    return Agreement(verdict, "slack", worst, delta, (t,), message=message)


def weights_agree(found_TK: np.ndarray, expected_TK: np.ndarray, precision: Precision) -> Agreement:
    """Judge routing weights of the engine's own set: found_TK, expected_TK -> Agreement."""
    if problem := misfit(found_TK, expected_TK):
        return _wrong("weights", problem)
    unit = WEIGHT_UNITS * max(PRECISIONS["f64"].store, min(precision.store, 2.0**-23))
    unit += precision.store if found_TK.dtype.itemsize < 4 else 0.0
    return bounded(found_TK, expected_TK, unit * np.abs(expected_TK))._replace(rule="weights")


def nmse(found: np.ndarray, expected: np.ndarray) -> float:
    """Measure the share of power that is error: found, expected -> NMSE."""
    error = found.astype(np.float64) - expected
    power = float(np.sum(np.square(expected.astype(np.float64))))
    return float(np.sum(np.square(error))) / power if power else float("inf")


def log_probabilities(logits_TW: np.ndarray) -> np.ndarray:
    """Normalise logits in float64: logits_TW -> log_probability_TW."""
    z = logits_TW.astype(np.float64)
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def divergence(found_TW: np.ndarray, expected_TW: np.ndarray) -> np.ndarray:
    """Measure what the engine's distribution loses: found_TW, expected_TW -> kl_T in nats."""
    expected, found = log_probabilities(expected_TW), log_probabilities(found_TW)
    return np.maximum(np.sum(np.exp(expected) * (expected - found), axis=-1), 0.0)


def logits_agree(
    found_TW: np.ndarray, expected_TW: np.ndarray, *, limit: float = NMSE_LIMIT
) -> Agreement:
    """Judge float32 logits: found_TW, expected_TW -> Agreement by NMSE."""
    if problem := misfit(found_TW, expected_TW):
        return _wrong("NMSE", problem)
    share = nmse(found_TW, expected_TW)
    _, (t, w) = _worst(np.abs(found_TW.astype(np.float64) - expected_TW))
    verdict = Verdict.PASS if share <= limit else Verdict.FAIL
    message = "" if share <= limit else _at(found_TW, expected_TW, (t, w)) + f", NMSE {share:.3g}"
    return Agreement(verdict, "NMSE", share, limit, (t, w), message=message)


def generation_gap(logits_TW: np.ndarray, ids_T: np.ndarray) -> np.ndarray:
    """Measure how much less than the best each token scores: logits_TW, ids_T -> gap_T."""
    logits_TW = logits_TW.astype(np.float64)
    return logits_TW.max(axis=1) - logits_TW[np.arange(len(ids_T)), ids_T]


def gaps_agree(
    logits_TW: np.ndarray, ids_T: np.ndarray, precision: Precision, *, limit: float | None = None
) -> Agreement:
    """Judge greedy tokens, each after the engine's own prefix: logits_TW, ids_T -> Agreement.

    `limit`: of the gap in units of the logits' root mean square, where the precision has none.
    """
    gap_T = generation_gap(logits_TW, ids_T)
    limit = (GAP_LIMIT[precision.name] if limit is None else limit) * float(
        np.sqrt(np.mean(np.square(logits_TW)))
    )
    worst, (t,) = _worst(gap_T)
    verdict = Verdict.PASS if worst <= limit else Verdict.FAIL
    message = "" if worst <= limit else f"token {t} scores {worst:.3g} below the best"
    return Agreement(verdict, "gap", worst, limit, (t,), message=message)


def _wrong(rule: str, problem: str) -> Agreement:
    kind = Verdict.FAIL if problem.startswith("NaN") else Verdict.ERRORED
    return Agreement(kind, rule, float("inf"), 0.0, message=problem)


def _worst(values: np.ndarray) -> tuple[float, tuple[int, ...]]:
    if values.size == 0:
        return 0.0, (0,) * values.ndim
    place = np.unravel_index(int(np.argmax(values)), values.shape)
    return float(values[place]), tuple(int(p) for p in place)


def _at(found: np.ndarray, expected: np.ndarray, where: tuple[int, ...]) -> str:
    return f"at {list(where)}: wanted {float(expected[where]):.9g}, got {float(found[where]):.9g}"
