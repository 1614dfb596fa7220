"""The inputs that engines are given, engineered so that each known bug shows.

Every module has `cases(draw)`, which makes the same cases from any seed: seed 0 is frozen in
`spec/vectors/`, a fresh seed at run time catches an engine that has learnt the answers. Activations
and weights are bfloat16 values whatever the precision, so that every engine gets the same numbers.
"""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np

from conformance.compare import Precision
from conformance.draw import Draw

Rule = Literal["exact", "bound", "noise", "units", "route", "choice", "law"]
MODULES = ("int4", "layers", "rope", "attention", "router", "experts")
# arrays that keep their type whatever the engine's precision; the others follow it
FIXED = ("angle_TZ", "inv_freq_Z", "scale_MG", "scale_UJ", "values_ML")
IN_FLOAT32 = ("bias_E", "logits_TE", "weights_TK")


@dataclass(frozen=True, eq=False)
class Case:
    """One input of one operation, and how its answer is judged. Equal only to itself."""

    id: str
    requirement: str
    op: str
    rule: Rule
    why: str
    table: dict[str, Any]
    """arrays and scalars under the names of the oracle's parameters"""
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """of a question: the name of each answer, and the options that make the oracle give it"""
    seed: int = 0

    @property
    def is_question(self) -> bool:
        """Tell whether correct engines differ here: -> bool."""
        return bool(self.answers)

    def inputs(self, precision: Precision) -> dict[str, Any]:
        """Give the inputs in an engine's precision: precision -> table."""
        return {name: _cast(name, value, precision) for name, value in self.table.items()}


def _cast(name: str, value: Any, precision: Precision) -> Any:
    leaf = name.rsplit(".", 1)[-1].replace("_EM", "_M")
    if not isinstance(value, np.ndarray) or value.dtype.kind in "iu" or leaf in FIXED:
        return value
    if leaf in IN_FLOAT32:
        return value.astype(np.result_type(np.float32, precision.dtype))
    return value.astype(precision.dtype)


@cache
def all_cases(seed: int) -> tuple[Case, ...]:
    """Make every case from a seed: seed -> cases; the ids do not depend on the seed."""
    return tuple(case for module in MODULES for case in _cases(module, seed))


def _cases(module: str, seed: int) -> Iterator[Case]:
    made = importlib.import_module(f"conformance.cases.{module}").cases(Draw(seed, module))
    for case in made:
        object.__setattr__(case, "seed", seed)
        yield case
