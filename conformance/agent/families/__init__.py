"""The eight families: `FAMILIES[name](seed, n) -> Task`, n calls long."""

from collections.abc import Callable

from conformance.agent.families import (
    chase,
    dossier,
    ledger,
    needle,
    proof,
    repair,
    report,
    stop,
)
from conformance.agent.tasks import Task
from k2ref.errors import InputError

FAMILIES: dict[str, Callable[[str, int], Task]] = {
    "chase": chase.make,
    "ledger": ledger.make,
    "dossier": dossier.make,
    "repair": repair.make,
    "report": report.make,
    "proof": proof.make,
    "needle": needle.make,
    "stop": stop.make,
}
HORIZONS = (10, 30, 100, 200, 300)


def make(family: str, seed: str, n: int) -> Task:
    """Make one task by the name of its family."""
    if family not in FAMILIES:
        raise InputError(f"no family is called {family!r}; there are {', '.join(FAMILIES)}")
    if n < 10:
        raise InputError(f"a task needs n of at least 10 calls, got {n}")
    return FAMILIES[family](seed, n)
