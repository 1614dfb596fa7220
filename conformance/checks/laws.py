"""Laws as checks: each put to an engine with inputs that Hypothesis draws and shrinks."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from conformance.cases import Case
from conformance.checks.operations import hash_inputs
from conformance.compare import find_precision
from conformance.engine import Engine, EngineError, Namespace, NotOffered
from conformance.laws import Broken, Law, Ops, attention, experts, formats, layers, memory, models
from conformance.laws.changed import Drawn, ModelLaw, Models
from conformance.results import Result, Verdict
from conformance.spec import find_requirement
from k2ref import oracle
from k2ref.errors import InputError

MODEL_LAWS = (*models.LAWS, *memory.LAWS)
SMALLER = 20  # tries to make a failing input of whole models smaller: each loads checkpoints
RAISED = (EngineError, ValueError, TypeError, IndexError, AttributeError)
OPERATION_LAWS = (*formats.LAWS, *layers.LAWS, *attention.LAWS, *experts.LAWS)


@dataclass(frozen=True)
class Effort:
    """How hard to look. A law of whole models may ask for fewer examples."""

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

        def ask(data: st.DataObject) -> None:
            ops.calls.clear()
            law.holds(ops, data)

        verdict, message = _searched(st.data(), ask, seed, effort)
    seconds = time.perf_counter() - started
    return replace(blank, verdict=verdict, message=message, seconds=seconds)


def check_model_laws(
    engine: Engine,
    *,
    seed: int,
    laws: Iterable[ModelLaw] = MODEL_LAWS,
    effort: Effort | None = None,
) -> Iterator[Result]:
    """Put laws of whole models to an engine: engine, seed -> results."""
    models = Models(engine)
    for law in laws:
        yield check_model_law(models, law, seed=seed, effort=effort or Effort())


def check_model_law(models: Models, law: ModelLaw, *, seed: int, effort: Effort) -> Result:
    """Put one law to an engine: models, law -> Result; the smallest failing input is drawn last."""
    smaller, failing = 0, set[str]()

    def ask(drawn: dict[str, Any]) -> None:
        nonlocal smaller
        name = hash_inputs(drawn)
        if failing and name not in failing:
            smaller += 1
            if smaller > SMALLER:
                return  # small enough
        try:
            _hold(models, law, drawn)
        except (Broken, *RAISED):
            failing.add(name)
            raise

    fewer = replace(effort, examples=min(effort.examples, law.examples))
    return _timed(models, law, lambda: _searched(law.inputs, ask, seed, fewer), seed=seed)


def repeat_laws(engine: Engine, cases: Iterable[Case]) -> Iterator[Result]:
    """Put saved inputs of laws to an engine: engine, cases -> results."""
    models = Models(engine)
    for case in cases:
        law, drawn = _saved(case)
        found = _timed(models, law, partial(_outcome, partial(_hold, models, law, drawn)))
        yield replace(found, case=case.id, input_sha256=hash_inputs(case.table))


def vouch(case: Case) -> None:
    """Hold the reference to the input of a law: case.

    Raises:
        InputError: it breaks the law there, or cannot be asked.
    """
    (found,) = repeat_laws(Namespace(oracle), [case])
    if found.verdict.failed:
        raise InputError(f"{case.id}: the reference does not keep this law: {found.message}")


def _saved(case: Case) -> tuple[ModelLaw, dict[str, Any]]:
    drawn = dict(case.table)
    name = drawn.pop("law", None)
    law = next((x for x in MODEL_LAWS if x.name == name), None)
    if law is None:
        raise InputError(f"{case.id}: no law of whole models is called {name!r}")
    return law, drawn


def _hold(models: Models, law: ModelLaw, drawn: dict[str, Any]) -> None:
    models.drawn = drawn
    law.holds(models, Drawn(**drawn))


def _timed(
    models: Models,
    law: ModelLaw,
    judged: Callable[[], tuple[Verdict, str]],
    *,
    seed: int | None = None,
) -> Result:
    """Judge a law of whole models, in float32: models, law, what judges it -> Result."""
    started = time.perf_counter()
    verdict, message = Verdict.SKIPPED, "held against float32 only"
    if find_precision(models.engine.info.precision).store <= 2.0**-20:
        verdict, message = judged()
    return Result(
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


def _searched(
    inputs: st.SearchStrategy[Any], ask: Callable[[Any], None], seed: int, effort: Effort
) -> tuple[Verdict, str]:
    """Ask with what Hypothesis draws, then with less: inputs, what asks -> verdict, message."""
    phases = [Phase.generate, Phase.shrink] if effort.shrink else [Phase.generate]
    search = settings(
        max_examples=effort.examples,
        database=None,
        deadline=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    return _outcome(seeded(seed)(search(given(inputs)(ask))))


def _outcome(ask: Callable[[], None]) -> tuple[Verdict, str]:
    try:
        ask()
    except Broken as broken:
        return Verdict.FAIL, str(broken)
    except NotOffered as reason:
        return Verdict.SKIPPED, str(reason)
    except Flaky:
        return Verdict.INCONCLUSIVE, "the engine answers the same question differently"
    except RAISED as error:
        return Verdict.ERRORED, f"{type(error).__name__}: {error}"
    return Verdict.PASS, ""
