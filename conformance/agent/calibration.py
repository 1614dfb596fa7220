"""Calibration: a simulated model through the driver equals a direct simulation, exactly.

Both draw from the same stream, keyed by the index of a step; so they must agree run by run, not
on average. The closed form (1 - p (1 - d))^n is a second look, within 5 standard deviations: a
small sample can be far from it while the driver is right.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from conformance.agent.attempt import Attempt, quick
from conformance.agent.families import chase, ledger
from conformance.agent.heavy import fuse, trajectories
from conformance.agent.limits import PRESETS
from conformance.agent.run import Options
from conformance.agent.simulated import noisy, self_conditioning, verifier
from conformance.agent.toolbox import draw

LONG = Options(limits=PRESETS["search"].__class__(steps=2_000))


class Calibrated(NamedTuple):
    """One calibration: both results run by run, and the closed form."""

    name: str
    driven: tuple[object, ...]
    direct: tuple[object, ...]
    rate: float
    expected: float

    @property
    def exact(self) -> bool:
        return self.driven == self.direct

    @property
    def sigmas(self) -> float:
        """Give the distance from the closed form in standard deviations."""
        spread = math.sqrt(self.expected * (1 - self.expected) / len(self.driven))
        return (self.rate - self.expected) / spread if spread else 0.0


def slips(seed: str, n: int, p: float) -> list[int]:
    """List the indices at which a noisy model slips."""
    return [i for i in range(1, n + 1) if draw(seed, "slip", i) < p]


def caught(seed: str, n: int, p: float, d: float) -> list[int]:
    """List the slips that a verifier catches."""
    return [i for i in slips(seed, n, p) if draw(seed, "catch", i) < d]


def conditioned(seed: str, n: int, p: float, c: float) -> list[int]:
    """List the slips of a self-conditioning model."""
    found: list[int] = []
    for i in range(1, n + 1):
        if draw(seed, "slip", i) < p * (1 + c * len(found)):
            found.append(i)
    return found


def _seeds(count: int) -> list[str]:
    return [f"calibration-{i}" for i in range(count)]


def noisy_chase(count: int, n: int, p: float) -> Calibrated:
    """Noisy on F1: solved exactly when there is no slip."""

    def driven(seed: str) -> bool:
        task = chase.make(seed, n)
        return quick(task, noisy(task.policy, seed, p), LONG).verdict.passed

    return _compare(
        f"noisy p={p} chase n={n}", count, driven, lambda s: not slips(s, n, p), (1 - p) ** n
    )


def verifier_chase(count: int, n: int, p: float, d: float) -> Calibrated:
    """Verifier on F1: solved and steps, which are n and one for each slip caught."""

    def driven(seed: str) -> tuple[bool, int]:
        task = chase.make(seed, n)
        found = quick(task, verifier(task.policy, seed, p, d), LONG)
        return found.verdict.passed, len(found.run.calls)

    def direct(seed: str) -> tuple[bool, int]:
        missed = set(slips(seed, n, p)) - set(caught(seed, n, p, d))
        return not missed, n + len(caught(seed, n, p, d))

    expected = (1 - p * (1 - d)) ** n
    return _compare(f"verifier p={p} d={d} chase n={n}", count, driven, direct, expected)


def conditioned_ledger(count: int, n: int, p: float, c: float) -> Calibrated:
    """Self-conditioning on F2: the index of the first wrong balance."""

    def driven(seed: str) -> int:
        task = ledger.make(seed, n)
        right = quick(task, self_conditioning(task.policy, seed, p, c), LONG).verdict.by_index
        return right.index(False) + 1 if False in right else 0

    def direct(seed: str) -> int:
        return next(iter(conditioned(seed, n // 2, p, c)), 0)

    name = f"self-conditioning p={p} c={c} ledger n={n}"
    return _compare(name, count, driven, direct, (1 - p) ** (n // 2), solved=lambda r: r == 0)


def heavy_chase(count: int, n: int, p: float, k: int) -> Calibrated:
    """Heavy mode on F1: plurality and pass@k of k noisy trajectories."""

    def driven(seed: str) -> tuple[bool, bool]:
        task = chase.make(seed, n)

        def one(index: int) -> Attempt:
            return quick(task, noisy(task.policy, f"{seed}/{index}", p), LONG)

        heavy = fuse(task, trajectories(one, k, parallel=1), "vote")
        return heavy.right, heavy.pass_at_k

    def direct(seed: str) -> tuple[bool, bool]:
        right = sum(chase.chain(seed, n).values)
        totals = [_total(seed, slips(f"{seed}/{index}", n, p), n) for index in range(k)]
        best = max(totals.count(value) for value in totals)
        chosen = next(value for value in totals if totals.count(value) == best)
        return chosen == right, right in totals

    expected = 1 - (1 - (1 - p) ** n) ** k
    name = f"heavy k={k} p={p} chase n={n}"
    return _compare(name, count, driven, direct, expected, solved=lambda r: r[1])  # type: ignore[index]


def _total(seed: str, wrong: Sequence[int], n: int) -> int:
    """Add up a chain with slips at these indices."""
    total = 0
    for index, value in enumerate(chase.chain(seed, n).values, 1):
        total += value
        total = chase.slipped(total) if index in wrong else total
    return total


def _compare(
    name: str,
    count: int,
    driven: Callable[[str], object],
    direct: Callable[[str], object],
    expected: float,
    *,
    solved: Callable[[object], bool] | None = None,
) -> Calibrated:
    seeds = _seeds(count)
    mine, theirs = tuple(driven(s) for s in seeds), tuple(direct(s) for s in seeds)
    judge = solved or (lambda r: bool(r[0] if isinstance(r, tuple) else r))
    return Calibrated(name, mine, theirs, sum(map(judge, theirs)) / count, expected)


def all_calibrations(count: int) -> Sequence[Calibrated]:
    """Run every calibration on this many tasks each."""
    return [
        noisy_chase(count, 50, 0.02),
        verifier_chase(count, 60, 0.05, 0.8),
        conditioned_ledger(count, 40, 0.03, 2.0),
        heavy_chase(max(2, count // 4), 40, 0.03, 8),
    ]
