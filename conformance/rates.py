"""Rates and counts with intervals: what a number of samples can and cannot show.

Needs SciPy, of the extra `kit`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from conformance.results import Agreement, Verdict
from k2ref.errors import InputError

try:
    from scipy import stats  # type: ignore[import-untyped,unused-ignore]
except ImportError:
    stats = None


class Interval(NamedTuple):
    """A confidence interval of a rate."""

    low: float
    high: float


def _stats() -> object:
    if stats is None:
        raise InputError("rates need SciPy: python -m pip install 'k2ref[kit]'")
    return stats


def clopper_pearson(successes: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """Bound a rate from both sides, exactly: successes, trials -> Interval."""
    beta = _stats().beta  # type: ignore[attr-defined]
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, trials - successes + 1))
    full = successes == trials
    high = 1.0 if full else float(beta.ppf(1 - tail, successes + 1, trials - successes))
    return Interval(low, high)


def judge_rate(successes: int, trials: int, target: float) -> Agreement:
    """Judge a rate against a target: successes, trials, target -> Agreement.

    PASS when the lower end reaches the target, FAIL when the upper end does not, else INCONCLUSIVE
    with the number of samples still wanted at the rate seen.
    """
    low, high = clopper_pearson(successes, trials) if trials else Interval(0.0, 1.0)
    rate = successes / trials if trials else 0.0
    shown = f"{successes} of {trials}, 95 % interval {low:.4f} to {high:.4f}"
    if low >= target:
        return Agreement(Verdict.PASS, "rate", rate, target, message=shown)
    if high < target:
        return Agreement(Verdict.FAIL, "rate", rate, target, message=shown)
    more = more_needed(successes, trials, target)
    wanted = f"{more} more needed" if more is not None else "no number of samples would decide"
    return Agreement(Verdict.INCONCLUSIVE, "rate", rate, target, message=f"{shown}; {wanted}")


def more_needed(successes: int, trials: int, target: float) -> int | None:
    """Count the samples that would decide at the rate seen: -> number, None beyond a million."""
    rate = successes / trials if trials else 1.0
    for total in (int(max(trials, 8) * 1.1**power) for power in range(1, 150)):
        if total > 1_000_000:
            return None
        low, high = clopper_pearson(round(rate * total), total)
        if low >= target or high < target:
            return total - trials
    return None


def g_test(counts_W: np.ndarray, probability_W: np.ndarray) -> float:
    """Test counts against a distribution: counts_W, probability_W -> p value.

    Cells that expect fewer than 5 are joined. A count where the probability is 0 gives 0.
    """
    chi2 = _stats().chi2  # type: ignore[attr-defined]
    if counts_W[probability_W == 0].any():
        return 0.0
    expected_W = probability_W * counts_W.sum()
    rare_W = expected_W < 5
    counts = np.append(counts_W[~rare_W], counts_W[rare_W].sum())
    expected = np.append(expected_W[~rare_W], expected_W[rare_W].sum())
    counts, expected = counts[expected > 0], expected[expected > 0]
    seen = counts > 0
    g = 2 * float(np.sum(counts[seen] * np.log(counts[seen] / expected[seen])))
    return float(chi2.sf(g, max(len(counts) - 1, 1)))


def smallest_divergence(
    probability_W: np.ndarray, draws: int, alpha: float, *, power: float = 0.99
) -> float:
    """Say what a G-test sees: probability_W, draws, alpha -> KL in nats found with that power.

    Under a divergence D the statistic follows a noncentral chi-squared of noncentrality 2 n D.
    """
    many = _stats()
    cells = int((probability_W * draws >= 5).sum())
    free = max(cells - 1 + bool((probability_W * draws < 5).any()), 1)
    critical = many.chi2.isf(alpha, free)  # type: ignore[attr-defined]
    low, high = 0.0, 10.0 * critical + 100.0
    for _ in range(60):
        middle = (low + high) / 2
        seen = many.ncx2.sf(critical, free, middle) >= power  # type: ignore[attr-defined]
        low, high = (low, middle) if seen else (middle, high)
    return float(high / (2 * draws))


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Reject among many tests at one error rate (Holm): p values -> rejected, in their order."""
    order = np.argsort(p_values)
    rejected = [False] * len(p_values)
    for rank, index in enumerate(order):
        if p_values[index] > alpha / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected
