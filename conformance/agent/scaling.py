"""What a set of runs says: success by length and by budget, horizons, survival, comparisons.

Rates carry Clopper-Pearson intervals (rates.py). A horizon H50 is the length at which success
falls to 50 %, interpolated in the logarithm of the length; outside the lengths tried it is a bound.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from conformance.agent.plots import Point
from conformance.rates import clopper_pearson


class Trial(NamedTuple):
    """One run as the statistics see it."""

    task: str
    n: int
    solved: bool
    steps: int
    tokens: int
    seconds: float
    cost: float


def rate_point(x: float, solved: int, trials: int) -> Point:
    """Give a rate with its interval: x, counts -> Point."""
    low, high = clopper_pearson(solved, trials)
    return Point(x, solved / trials, low, high)


def by_length(trials: Sequence[Trial]) -> list[Point]:
    """Give success by length."""
    points = []
    for n in sorted({trial.n for trial in trials}):
        group = [trial.solved for trial in trials if trial.n == n]
        points.append(rate_point(n, sum(group), len(group)))
    return points


def within(trials: Sequence[Trial], measure: str, budgets: Sequence[float]) -> list[Point]:
    """Give success within a budget of steps, tokens, seconds or cost.

    A budget only ends a run, it changes nothing before: so one set of runs answers for all.
    """
    points = []
    for budget in budgets:
        solved = sum(t.solved and getattr(t, measure) <= budget for t in trials)
        points.append(rate_point(budget, solved, len(trials)))
    return points


def horizon(points: Sequence[Point], level: float) -> tuple[float, str]:
    """Find the length where success crosses a level: -> length, and "", "<" or ">"."""
    if points[0].y < level:
        return points[0].x, "<"
    for left, right in pairwise(points):
        if right.y < level:
            share = (left.y - level) / (left.y - right.y)
            return math.exp(math.log(left.x) + share * math.log(right.x / left.x)), ""
    return points[-1].x, ">"


def pareto(rows: Mapping[str, tuple[float, float]]) -> list[str]:
    """List the settings that no other beats in success and cost: name -> (success, cost)."""

    def beaten(name: str) -> bool:
        success, cost = rows[name]
        return any(
            s >= success and c <= cost and (s, c) != (success, cost) for s, c in rows.values()
        )

    return [name for name in rows if not beaten(name)]


class Paired(NamedTuple):
    """A paired comparison of two endpoints on the same tasks (McNemar, exact)."""

    both: int
    only_first: int
    only_second: int
    neither: int
    p_value: float


def compare(first: Mapping[str, bool], second: Mapping[str, bool]) -> Paired:
    """Compare two sets of verdicts by task; tasks that only one has are left out."""
    common = sorted(first.keys() & second.keys())
    pairs = [(first[name], second[name]) for name in common]
    b, c = pairs.count((True, False)), pairs.count((False, True))
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    return Paired(pairs.count((True, True)), b, c, pairs.count((False, False)), min(1.0, 2 * tail))


class Survival(NamedTuple):
    """The share of runs without an error up to a step, and its 95 % interval (Greenwood)."""

    step: int
    share: float
    low: float
    high: float


def kaplan_meier(first_wrong: Sequence[int | None], lengths: Sequence[int]) -> list[Survival]:
    """Estimate survival: index of the first error or None, length of each run -> curve."""
    ends = [n if wrong is None else wrong for wrong, n in zip(first_wrong, lengths, strict=True)]
    share, variance, curve = 1.0, 0.0, []
    for index in sorted({w for w in first_wrong if w is not None}):
        at_risk = sum(end >= index for end in ends)
        failed = sum(w == index for w in first_wrong)
        share *= 1 - failed / at_risk
        variance += failed / (at_risk * (at_risk - failed)) if at_risk > failed else 0.0
        spread = 1.96 * share * math.sqrt(variance)
        curve.append(Survival(index, share, max(0.0, share - spread), min(1.0, share + spread)))
    return curve


def hazards(first_wrong: Sequence[int | None], lengths: Sequence[int], width: int) -> list[float]:
    """Give the rate of first errors per step in bands of `width` steps."""
    ends = [n if wrong is None else wrong for wrong, n in zip(first_wrong, lengths, strict=True)]
    rates = []
    for start in range(0, max(lengths, default=0), width):
        exposed = sum(min(max(end - start, 0), width) for end in ends)
        failed = sum(w is not None and start < w <= start + width for w in first_wrong)
        rates.append(failed / exposed if exposed else 0.0)
    return rates
