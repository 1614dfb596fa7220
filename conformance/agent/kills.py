"""Which check catches which mutant.

`kill_table` runs on each mutant the check that names it. A mutant that passes is a hole in the
kit; a right driver that fails a check is a false alarm.
"""

from typing import NamedTuple

from conformance.agent import mutants_history, mutants_loop  # noqa: F401  they register themselves
from conformance.agent.driver_checks import CHECKS
from conformance.agent.mutants import MUTANTS, Mutant


class Kill(NamedTuple):
    """One row of the table: the mutant, whether its check caught it, and what it said."""

    mutant: Mutant
    killed: bool
    said: str


def kill_table() -> list[Kill]:
    """Run the named check on each mutant."""
    rows = []
    for each in MUTANTS:
        said = _said(each)
        rows.append(Kill(each, bool(said), said))
    return rows


def _said(each: Mutant) -> str:
    try:
        return CHECKS[each.check](each.driver)
    except (LookupError, ValueError, TypeError) as error:
        return f"the driver broke: {error!r}"
