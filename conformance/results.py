"""What a check says: a verdict, the measure behind it, and a run as JSON lines.

    pass           looks like a correct engine of its precision
    loose          above the noise of correct engines, within the provable bound: shown, no failure
    fail           no correct engine of this precision gives this
    errored        the engine raised, died, hung or answered in another shape or type
    skipped        the engine does not offer this; it stays in the denominator
    question       the answer to an open question of the specification; never scored
    inconclusive   too few samples; the message says how many more
    harness_error  the kit is at fault

A run is a header line and one line per result. Everything else (reports, JUnit, badges) is made
from it.
"""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from k2ref.errors import InputError

SCHEMA = "results.1"


class Verdict(StrEnum):
    """The eight answers."""

    PASS = "pass"
    LOOSE = "loose"
    FAIL = "fail"
    ERRORED = "errored"
    SKIPPED = "skipped"
    QUESTION = "question"
    INCONCLUSIVE = "inconclusive"
    HARNESS_ERROR = "harness_error"

    @property
    def failed(self) -> bool:
        """Tell whether the engine is to blame: -> bool."""
        return self in (Verdict.FAIL, Verdict.ERRORED)


class Agreement(NamedTuple):
    """The outcome of one comparison: `measure` against `limit` under `rule`, and the worst place.

    `tau` is the error in noise units and `bound_use` the share of the provable bound, where the
    rule has them.
    """

    verdict: Verdict
    rule: str
    measure: float
    limit: float
    where: tuple[int, ...] | None = None
    tau: float | None = None
    bound_use: float | None = None
    message: str = ""


@dataclass(frozen=True)
class Result:
    """One case of one requirement, put to one engine."""

    case: str
    requirement: str
    level: str
    verdict: Verdict
    message: str = ""
    op: str = ""
    rule: str = ""
    measure: float | None = None
    limit: float | None = None
    tau: float | None = None
    bound_use: float | None = None
    where: tuple[int, ...] | None = None
    seed: int | None = None
    input_sha256: str = ""
    seconds: float = 0.0
    data: dict[str, Any] = field(default_factory=dict)
    """figures for the report: margins, gaps, the answer to a question"""

    def agreeing(self, agreement: Agreement) -> "Result":
        """Take over the outcome of a comparison: agreement -> Result."""
        changes = {k: v for k, v in agreement._asdict().items() if k != "message"}
        return dataclasses.replace(self, **changes, message=agreement.message or self.message)


@dataclass(frozen=True)
class Run:
    """All results of one engine, and what they were made with."""

    engine: dict[str, Any]
    results: tuple[Result, ...]
    vectors_id: str = ""
    seed: int | None = None
    environment: dict[str, str] = field(default_factory=dict)


def save_run(path: Path, run: Run) -> None:
    """Write a run as JSON lines, a header first: path, run."""
    header = dataclasses.asdict(dataclasses.replace(run, results=()))
    header.pop("results")
    lines = [{"schema": SCHEMA, **header}, *(dataclasses.asdict(r) for r in run.results)]
    text = "".join(json.dumps(_finite(line)) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")


def load_run(path: Path) -> Run:
    """Read what `save_run` wrote: path -> Run.

    Raises:
        InputError: the file is missing, or is no run of this schema.
    """
    try:
        header, *lines = (json.loads(line) for line in path.read_text("utf-8").splitlines())
        if header.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        return Run(results=tuple(_result(line) for line in lines), **header)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: not a run of schema {SCHEMA}: {error}") from None


_FIGURES = ("measure", "limit", "tau", "bound_use", "seconds")


def _result(line: dict[str, Any]) -> Result:
    where = line["where"]
    line |= {k: float(line[k]) for k in _FIGURES if line[k] is not None}
    return Result(
        **{
            **line,
            "verdict": Verdict(line["verdict"]),
            "where": None if where is None else tuple(where),
        }
    )


def _finite(value: Any) -> Any:
    """Write infinities and NaN as words, which JSON lacks: value -> value."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value


def count(results: Iterable[Result]) -> dict[Verdict, int]:
    """Count verdicts: results -> verdict to number, every verdict named."""
    counts = dict.fromkeys(Verdict, 0)
    for result in results:
        counts[result.verdict] += 1
    return counts
