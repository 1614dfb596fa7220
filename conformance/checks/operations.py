"""Levels L0 to L2: each operation an engine offers, on frozen and on fresh inputs."""

import hashlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from conformance.calls import answers, arguments
from conformance.cases import Case
from conformance.compare import Precision, find_precision
from conformance.engine import Engine, EngineError, NotOffered, attempt
from conformance.judge import inputs, judge
from conformance.results import Result, Verdict
from conformance.spec import find_requirement


def check_operations(engine: Engine, cases: Iterable[Case]) -> Iterator[Result]:
    """Put cases to an engine: engine, cases -> results in their order."""
    precision = find_precision(engine.info.precision)
    for case in cases:
        yield check_case(engine, case, precision)


def check_case(engine: Engine, case: Case, precision: Precision) -> Result:
    """Put one case to an engine: engine, case, precision -> Result."""
    started = time.perf_counter()
    table = inputs(case, precision, engine.info.numerics)
    blank = Result(
        case=case.id if case.seed == 0 else f"{case.id}@{case.seed}",
        requirement=case.requirement,
        level=find_requirement(case.requirement).level,
        verdict=Verdict.SKIPPED,
        op=case.op,
        seed=case.seed,
        input_sha256=hash_inputs(table),
    )
    result = _judged(engine, case, table, blank, precision)
    return _timed(result, time.perf_counter() - started)


def _judged(
    engine: Engine, case: Case, table: dict[str, Any], blank: Result, precision: Precision
) -> Result:
    function = engine.operation(case.op)
    if function is None:
        return _said(blank, Verdict.SKIPPED, f"{case.op} is not offered")
    positional, keyword = arguments(case.op, table)
    try:
        with np.errstate(all="ignore"):
            found = answers(case.op, attempt(function, *positional, **keyword))
    except NotOffered as reason:
        return _said(blank, Verdict.SKIPPED, str(reason))
    except (EngineError, ValueError, TypeError) as error:
        return _said(blank, Verdict.ERRORED, str(error))
    agreement = judge(case, found, precision, engine.info.numerics)
    result = blank.agreeing(agreement)
    if agreement.verdict is Verdict.QUESTION:
        result.data["answer"] = agreement.message
    return result


def _said(blank: Result, verdict: Verdict, message: str) -> Result:
    return Result(**{**vars(blank), "verdict": verdict, "message": message})


def _timed(result: Result, seconds: float) -> Result:
    return Result(**{**vars(result), "seconds": seconds})


def hash_inputs(table: dict[str, Any]) -> str:
    """Name the inputs by their bytes: table -> first 16 digits of a SHA-256."""
    digest = hashlib.sha256()
    for name in sorted(table):
        value = table[name]
        digest.update(name.encode())
        digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return digest.hexdigest()[:16]
