"""Laws as checks: each put to an engine with inputs that Hypothesis draws and shrinks."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from conformance.compare import find_precision
from conformance.engine import Engine, EngineError, NotOffered
from conformance.laws import Broken, Law, Ops, attention, experts, formats, layers, memory, models
from conformance.laws.models import ModelLaw, Models
from conformance.results import Result, Verdict
from conformance.spec import find_requirement

MODEL_LAWS = (*models.LAWS, *memory.LAWS)
OPERATION_LAWS = (*formats.LAWS, *layers.LAWS, *attention.LAWS, *experts.LAWS)


@dataclass(frozen=True)
class Effort:
    """How hard to look."""

    examples: int = 20
    shrink: bool = True


def check_laws(
    engine: Engine, *, seed: int, effort: Effort | None = None, only: tuple[str, ...] = ()
) -> Iterator[Result]:
    """Put every law of operations to an engine: engine, seed -> results."""
    ops = Ops(engine, find_precision(engine.info.precision))
    for law in OPERATION_LAWS:
        case = f"law-{law.name}"
        if not only or any(o in (case, law.requirement, *law.needs) for o in only):
            yield check_law(ops, law, seed=seed, effort=effort or Effort())


def check_law(ops: Ops, law: Law, *, seed: int, effort: Effort) -> Result:
    """Put one law to an engine: operations, law -> Result, with the smallest failing input."""
    started = time.perf_counter()
    blank = Result(
        case=f"law-{law.name}",
        requirement=law.requirement,
        level=find_requirement(law.requirement).level,
        verdict=Verdict.PASS,
        op=law.needs[0],
        rule="law",
        seed=seed,
    )
    missing = [op for op in law.needs if ops.engine.operation(op) is None]
    if missing:
        verdict, message = Verdict.SKIPPED, f"{', '.join(missing)} not offered"
    else:
        verdict, message = _searched(ops, law, seed, effort)
    seconds = time.perf_counter() - started
    return replace(blank, verdict=verdict, message=message, seconds=seconds)


def _searched(ops: Ops, law: Law, seed: int, effort: Effort) -> tuple[Verdict, str]:
    phases = [Phase.generate, Phase.shrink] if effort.shrink else [Phase.generate]

    @seeded(seed)
    @settings(
        max_examples=effort.examples,
        database=None,
        deadline=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(st.data())
    def holds(data: Any) -> None:
        ops.calls.clear()
        law.holds(ops, data)

    try:
        holds()
    except Broken as broken:
        return Verdict.FAIL, str(broken)
    except NotOffered as reason:
        return Verdict.SKIPPED, str(reason)
    except Flaky:
        return Verdict.INCONCLUSIVE, "the engine answers the same question differently"
    except (EngineError, ValueError, TypeError, IndexError, AttributeError) as error:
        return Verdict.ERRORED, f"{type(error).__name__}: {error}"
    return Verdict.PASS, ""


def check_model_laws(
    engine: Engine, *, seed: int, laws: Iterable[ModelLaw] = MODEL_LAWS
) -> Iterator[Result]:
    """Put laws of whole models to an engine: engine, seed -> results."""
    low = find_precision(engine.info.precision).store > 2.0**-20
    asked = Models(engine, seed)
    for law in laws:
        started = time.perf_counter()
        verdict, message = Verdict.SKIPPED, "held against float32 only"
        if not low:
            verdict, message = _held(law, asked)
        yield Result(
            case=f"law-{law.name}",
            requirement=law.requirement,
            level=find_requirement(law.requirement).level,
            verdict=verdict,
            message=message,
            op="forward",
            rule="law",
            seed=seed,
            seconds=time.perf_counter() - started,
        )


def _held(law: ModelLaw, asked: Models) -> tuple[Verdict, str]:
    try:
        law.holds(asked)
    except Broken as broken:
        return Verdict.FAIL, str(broken)
    except NotOffered as reason:
        return Verdict.SKIPPED, str(reason)
    except (EngineError, ValueError, TypeError, IndexError, AttributeError) as error:
        return Verdict.ERRORED, str(error)
    return Verdict.PASS, ""
