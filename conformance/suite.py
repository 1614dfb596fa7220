"""The suite: which checks are put to an engine, in which order, with which inputs."""

import platform
import secrets
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conformance import kit
from conformance.cases import Case, all_cases
from conformance.cases.wide import wide_cases
from conformance.checks.generation import check_generation
from conformance.checks.model import check_model
from conformance.checks.observe import load
from conformance.checks.operations import check_operations
from conformance.engine import Engine, EngineError, NotOffered
from conformance.failures import read_cases
from conformance.profiles import build, build_tiny
from conformance.results import Result, Run, Verdict
from conformance.spec import LEVELS, requirements, vectors_id

OPERATION_LEVELS = frozenset({"L0", "L1", "L2"})
MODEL_LEVELS = frozenset({"L3", "L4", "L5"})
SMOKE = ("int4_unpack-all-codes", "rms_norm-ordinary", "rotate-far", "route-golden", "silu-calm")


@dataclass(frozen=True)
class Plan:
    """What to run."""

    levels: frozenset[str] = frozenset(LEVELS)
    only: tuple[str, ...] = ()
    """ids of cases, requirements or operations; everything where empty"""
    seed: int | None = None
    """of the fresh inputs; drawn anew where None"""
    profile: str = "nano"
    checkpoint: Path | None = None
    """what to load instead of the profile"""
    properties: bool = False
    vectors: Path | None = None
    """a folder of vectors that is run instead of all else"""

    def wants(self, result: Result | Case) -> bool:
        """Tell whether a case was asked for: -> bool."""
        name = result.id if isinstance(result, Case) else result.case
        return not self.only or any(o in (name, result.requirement, result.op) for o in self.only)


def run_suite(engine: Engine, plan: Plan) -> Run:
    """Put the suite to an engine: engine, plan -> Run."""
    if plan.properties:
        kit.need("hypothesis", "laws")
    seed = plan.seed if plan.seed is not None else secrets.randbelow(2**31)
    results = tuple(guarded(checks(engine, plan, seed)))
    return Run(engine.info.table(), results, vectors_id(), seed, environment())


def guarded(results: Iterator[Result]) -> Iterator[Result]:
    """Turn a fault of the kit itself into a result: results -> results."""
    try:
        yield from results
    except Exception:  # whatever it is, the results so far are worth more than a traceback
        message = traceback.format_exc(limit=-4)
        yield Result("harness", "", "", Verdict.HARNESS_ERROR, message)


def checks(engine: Engine, plan: Plan, seed: int) -> Iterator[Result]:
    """Run what a plan asks for: engine, plan, seed -> results."""
    if plan.vectors is not None:
        yield from _repeated(engine, _asked(plan, read_cases(plan.vectors)))
        return
    if plan.profile == "wide" and plan.checkpoint is None:
        yield from check_operations(engine, _asked(plan, wide_cases(seed)))
        return
    for chosen in (all_cases(0), all_cases(seed)):
        yield from check_operations(engine, _asked(plan, chosen))
    if plan.properties:
        yield from _laws(engine, plan, seed)
    if plan.levels & MODEL_LEVELS and _asks_model(plan):
        yield from (r for r in _model(engine, plan, seed) if plan.wants(r))


def _repeated(engine: Engine, cases: list[Case]) -> Iterator[Result]:
    yield from check_operations(engine, [c for c in cases if c.rule != "law"])
    if drawn := [c for c in cases if c.rule == "law"]:
        from conformance.checks.laws import repeat_laws  # needs Hypothesis

        yield from repeat_laws(engine, drawn)


def _asked(plan: Plan, cases: Iterable[Case]) -> list[Case]:
    levels = {r.id: r.level for r in requirements().values()}
    return [c for c in cases if plan.wants(c) and levels[c.requirement] in plan.levels]


def _laws(engine: Engine, plan: Plan, seed: int) -> Iterator[Result]:
    from conformance.checks.laws import check_laws, check_model_laws  # needs Hypothesis

    yield from (r for r in check_laws(engine, seed=seed, only=plan.only) if r.level in plan.levels)
    if plan.levels & MODEL_LEVELS and _asks_model(plan):
        yield from (
            r
            for r in check_model_laws(engine, seed=seed)
            if plan.wants(r) and r.level in plan.levels
        )


def _asks_model(plan: Plan) -> bool:
    return not plan.only or any(o.startswith(("layer", "model", "gen")) for o in plan.only)


def _model(engine: Engine, plan: Plan, seed: int) -> Iterator[Result]:
    given = plan.checkpoint or getattr(engine, "checkpoint", None)
    levels = plan.levels & {"L3", "L4"}
    with tempfile.TemporaryDirectory(prefix="k2conf-") as folder:
        if levels:
            checkpoint = Path(given) if given else build(Path(folder), plan.profile, seed=seed)
            yield from check_model(engine, checkpoint, seed=seed, levels=levels)
        if "L5" in plan.levels:
            tiny = build_tiny(Path(folder), seed=seed)
            chosen = plan.checkpoint or (tiny if _loads(engine, tiny) else given) or tiny
            yield from check_generation(engine, Path(chosen), seed=seed)


def _loads(engine: Engine, checkpoint: Path) -> bool:
    """Tell whether an engine is free to load what it is given: a server or a dump is not."""
    try:
        return load(engine, checkpoint) is not None
    except (EngineError, NotOffered):
        return False


def environment() -> dict[str, str]:
    """Say what a run was made with: -> names and versions."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "system": platform.system(),
    }


def smoke(engine: Engine) -> Iterator[Result]:
    """Put a handful of cases to an engine: engine -> results."""
    yield from guarded(check_operations(engine, [c for c in all_cases(0) if c.id in SMOKE]))


def line(result: Result) -> str:
    """Write a result for people: result -> one line."""
    figure = _figure(result)
    return (
        f"{result.level:<3} {result.case:<38} {result.verdict.value:<12} {figure:<22} "
        f"{'' if result.verdict is Verdict.PASS else result.message}"
    ).rstrip()


def _figure(result: Result) -> str:
    if result.tau is not None:
        return f"{result.tau:.2f} sigma"
    if result.measure is None or result.limit is None or result.verdict is Verdict.QUESTION:
        return ""
    return f"{result.measure:.2g} of {result.limit:.2g}"


def summary(run: Run) -> str:
    """Count a run: run -> one sentence, skipped cases in the denominator."""
    counts: dict[str, Any] = {}
    for result in run.results:
        counts[result.verdict.value] = counts.get(result.verdict.value, 0) + 1
    total = len(run.results) - counts.get("question", 0)
    passed = counts.get("pass", 0) + counts.get("loose", 0)
    rest = [f"{n} {v}" for v, n in counts.items() if v not in ("pass",)]
    return f"passed {passed} of {total}" + (f" ({', '.join(rest)})" if rest else "")
