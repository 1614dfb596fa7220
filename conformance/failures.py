"""Failing inputs as vectors: `run --save-failures DIR` writes, `run --vectors DIR` repeats them.

An operation that fails on a fresh seed is saved with its input; one that fails on a frozen vector
has its vector. A broken law is searched again from its seed. Of the calls of its smallest example
those are saved that are wrong by themselves, or all where only their relation is; of a law of whole
models what the example drew, and the law itself is asked again.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from conformance import vectors
from conformance.adapters.messages import plain
from conformance.calls import table_of
from conformance.cases import Case, Rule, all_cases
from conformance.checks.operations import check_case
from conformance.compare import PRECISIONS, find_precision
from conformance.engine import Engine
from conformance.judge import reference
from conformance.results import Run
from k2ref.errors import InputError
from k2ref.numerics import Numerics


def save_failures(folder: Path, engine: Engine, run: Run) -> list[str]:
    """Write what failed as vectors into a new folder: -> a sentence for each failure."""
    cases: list[Case] = []
    sentences: list[str] = []
    frozen = {case.id for case in all_cases(0)}
    for result in run.results:
        if not result.verdict.failed or result.case in frozen:
            continue
        new = [c for c in _inputs_of(engine, result.case, result.seed) if _sound(c)]
        cases += new
        sentences.append(
            f"{result.case}: saved {', '.join(c.id for c in new)}"
            if new
            else f"{result.case}: no input to save, repeat it with --seed {run.seed}"
        )
    if cases:
        vectors.write(folder, tuple(cases), kills={case.id: [] for case in cases})
    return sentences


def _inputs_of(engine: Engine, name: str, seed: int | None) -> list[Case]:
    """Find what a failed check asked: engine, name of the check, seed -> cases."""
    if name.startswith("law-"):
        law = name.removeprefix("law-")
        return _calls_of(engine, law, seed or 0) or _drawn_by(engine, law, seed or 0)
    id_, _, own = name.partition("@")
    found = (c for c in all_cases(int(own or 0)) if c.id == id_ and not c.is_question)
    return [_case(c, name.replace("@", "-")) for c in found]


def _calls_of(engine: Engine, name: str, seed: int) -> list[Case]:
    from conformance.checks.laws import OPERATION_LAWS, Effort, check_law  # needs Hypothesis
    from conformance.laws import Ops

    law = next((x for x in OPERATION_LAWS if x.name == name), None)
    if law is None:
        return []
    precision = find_precision(engine.info.precision)
    ops = Ops(engine, precision)
    found = check_law(ops, law, seed=seed, effort=Effort())
    if not found.verdict.failed:
        return []
    why = f"law {name}: {found.message}"
    calls = [
        Case(
            f"law-{name}-{seed}-{place}", law.requirement, op, rules()[op], why, _plain(op, *given)
        )
        for place, (op, *given) in enumerate(ops.calls)
    ]
    wrong = [c for c in calls if check_case(engine, c, precision).verdict.failed]
    return wrong or calls


def _drawn_by(engine: Engine, name: str, seed: int) -> list[Case]:
    from conformance.checks.laws import MODEL_LAWS, Effort, check_model_law  # needs Hypothesis
    from conformance.laws.changed import Models

    law = next((x for x in MODEL_LAWS if x.name == name), None)
    if law is None:
        return []
    models = Models(engine)
    found = check_model_law(models, law, seed=seed, effort=Effort())
    if not found.verdict.failed:
        return []
    table, why = {"law": name, **models.drawn}, f"law {name}: {found.message}"
    return [Case(f"law-{name}-{seed}", law.requirement, "forward", "law", why, table)]


def _plain(op: str, args: Any, keyword: Any) -> dict[str, Any]:
    """Flatten a call, its scalars as JSON has them: operation, arguments -> table."""
    table = table_of(op, args, keyword)
    return {k: v if isinstance(v, np.ndarray) else plain(v) for k, v in table.items()}


def _case(case: Case, id_: str) -> Case:
    return Case(id_, case.requirement, case.op, case.rule, case.why, case.table, seed=case.seed)


def _sound(case: Case) -> bool:
    """Tell whether two implementations agree on the answer, or the law holds: case -> bool."""
    try:
        vectors.cross_check(case)
    except (InputError, ArithmeticError, ValueError):
        return False
    return True


@cache
def rules() -> dict[str, Rule]:
    """Tell how each operation is judged: -> operation to rule."""
    return {c.op: c.rule for c in all_cases(0) if not c.is_question}


def read_cases(folder: Path) -> Iterator[Case]:
    """Read a folder of vectors as cases: folder -> cases.

    Raises:
        InputError: no vectors there, or answers that are not the oracle's.
    """
    files = sorted(p for p in folder.glob("*.json") if p.name != "manifest.json")
    if not files:
        raise InputError(f"{folder}: no vectors there")
    for path in files:
        for table in vectors.read(folder, path.stem):
            yield _read_case(path.stem, table)


def _read_case(op: str, table: dict[str, Any]) -> Case:
    given = {n: tuple(v) if isinstance(v, list) else v for n, v in table["inputs"].items()}
    known = next((c for c in all_cases(0) if c.id == table["id"]), None)
    if table["result"] == "question" and known is None:
        raise InputError(f"{table['id']}: an open question that this kit does not know")
    case = Case(
        id=table["id"],
        requirement=table["requirement"],
        op=op,
        rule=table["compare"],
        why=table["why"],
        table=given,
        answers=known.answers if known and table["result"] == "question" else {},
    )
    if case.rule == "law":
        vectors.cross_check(case)
    elif not case.is_question:
        _hold_to_oracle(case, table["expected"])
    return case


def _hold_to_oracle(case: Case, expected: dict[str, np.ndarray]) -> None:
    wanted = reference(case, PRECISIONS["f32"], Numerics()).answers
    for name, array in expected.items():
        if not vectors.agree(array, np.atleast_1d(wanted[name])):
            raise InputError(f"{case.id}: expected {name} is not what the oracle answers")
