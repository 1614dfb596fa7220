"""Known failures of an engine: a file in its repository, kept honest.

    [[known]]
    case = "route-003"               or a requirement: "route:bias-never-weighs"
    reason = "gate kernel keeps the bias in bfloat16"
    issue = "https://…"
    expires = 2027-03-01             optional

A known failure is no regression. One that passes, or has expired, is stale and fails the run, so
that the file shrinks with the bugs.
"""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from enum import IntEnum
from pathlib import Path

from conformance.results import Result, Verdict
from k2ref.errors import InputError


class Exit(IntEnum):
    """Exit codes of the commands that judge an engine."""

    OK = 0
    REGRESSION = 1
    STALE = 2
    HARNESS = 3
    INCONCLUSIVE = 4


@dataclass(frozen=True)
class Known:
    """One known failure."""

    case: str
    reason: str
    issue: str = ""
    expires: date | None = None

    def covers(self, result: Result) -> bool:
        """Tell whether it speaks of a result: result -> bool."""
        return self.case in (result.case, result.requirement)


def load_baseline(path: Path) -> list[Known]:
    """Read a baseline file: path -> known failures.

    Raises:
        InputError: not TOML, an unknown key, or an entry without case and reason.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        if unknown := set(table) - {"known"}:
            raise ValueError(f"unknown table {', '.join(sorted(unknown))}")
        return [Known(**entry) for entry in table.get("known", [])]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: {error}; wanted [[known]] with case and reason") from None


def stale(known: Iterable[Known], results: Iterable[Result], *, today: date) -> list[str]:
    """List entries that no longer hold: known, results -> one sentence each."""
    results = list(results)
    sentences = []
    for entry in known:
        covered = [r for r in results if entry.covers(r)]
        if not covered:
            sentences.append(f"{entry.case}: no case or requirement of this name was run")
        elif not any(r.verdict.failed for r in covered):
            sentences.append(f"{entry.case}: listed as failing, and passes")
        elif entry.expires is not None and entry.expires < today:
            sentences.append(f"{entry.case}: expired on {entry.expires}")
    return sentences


def exit_code(results: Iterable[Result], known: Iterable[Known], *, today: date) -> Exit:
    """Decide the exit code: results, known failures -> Exit, the gravest that applies."""
    results, known = list(results), list(known)
    verdicts = {r.verdict for r in results}
    if Verdict.HARNESS_ERROR in verdicts:
        return Exit.HARNESS
    failures = [r for r in results if r.verdict.failed]
    if any(not any(k.covers(r) for k in known) for r in failures):
        return Exit.REGRESSION
    if stale(known, results, today=today):
        return Exit.STALE
    return Exit.INCONCLUSIVE if Verdict.INCONCLUSIVE in verdicts else Exit.OK
