"""Known bugs as small changes to a correct engine, each with the place where it was told."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from conformance.variant import Variant
from k2ref.model import Model
from k2ref.trace import Trace, ignore


@dataclass(frozen=True)
class Bug:
    """One bug: what it changes in the operations, and what in the model around them."""

    name: str
    area: str
    what: str
    thread: str = ""
    ops: Callable[[Variant], None] | None = None
    model: Callable[[Model], None] | None = None
    legal_in: tuple[str, ...] = ()
    """precisions of which this is an allowed choice"""
    proof: str = ""
    """why it is allowed there"""


def replace(target: Any, name: str, change: Callable[..., Any]) -> None:
    """Put `change(original, *arguments)` in the place of a method: target, name, change."""
    original = getattr(target, name)
    setattr(target, name, lambda *args, **kw: change(original, *args, **kw))


def changing(name: str, change: Callable[..., Any]) -> Callable[[Any], None]:
    """Make a change of one method: name, change -> change of a target."""
    return lambda target: replace(target, name, change)


def edit_taps(model: Model, edit: Callable[[str, np.ndarray], None]) -> None:
    """Change tensors as they pass, before anyone sees them: model, edit of name and array."""
    forward = model.forward

    def edited(
        ids_T: np.ndarray, position_T: np.ndarray | None = None, *, trace: Trace = ignore, **kw: Any
    ) -> np.ndarray:
        def both(name: str, array: np.ndarray, /) -> None:
            edit(name, array)
            trace(name, array)

        return forward(ids_T, position_T, trace=both, **kw)

    model.forward = edited  # type: ignore[method-assign]
