"""Broken drivers: each loses one thing that users of K2 lose in practice, and one check names it.

mutants_history.py breaks what goes back to the model, mutants_loop.py what the loop does around
it; kills.py runs the checks on them.
"""

from collections.abc import Callable
from typing import NamedTuple

from conformance.agent.driver import Driver


class Mutant(NamedTuple):
    """A broken driver, the check that must catch it, and the public case it stands for."""

    name: str
    check: str
    driver: type[Driver]
    seen_in: str


MUTANTS: list[Mutant] = []


def mutant(name: str, check: str, seen_in: str = "") -> Callable[[type[Driver]], type[Driver]]:
    """Register a mutant with the check that must catch it."""

    def register(driver: type[Driver]) -> type[Driver]:
        MUTANTS.append(Mutant(name, check, driver, seen_in))
        return driver

    return register
