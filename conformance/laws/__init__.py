"""Laws that need no reference: what must hold between an engine's own answers.

Laws test structure; constants are the business of vectors. A law draws its inputs from Hypothesis
through scale-aware strategies (`draws`, `prompts`), asks the engine twice, and compares.

    exact   bits, zeros, sets        rounding   within 16 units of the declared precision, of the
                                                largest value of the row and what conditions it
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from conformance.compare import Precision
from conformance.engine import Engine, EngineError, NotOffered

UNITS = 16
AS_GIVEN = ("angles", "yarn_inv_freq", "yarn_mscale", "int4_pack", "int4_unpack", "int4_quantize")
IN_FLOAT32 = ("route", "router_scores")
KEPT = (("rotate", 1), ("int4_dequantize", 1), ("int4_linear", 2))  # angles and scales


class Broken(AssertionError):
    """A law does not hold; the message says what was compared."""


@dataclass(frozen=True)
class Law:
    """One law: its number in the design, the requirement it speaks of, what it needs and asks."""

    number: int
    name: str
    requirement: str
    needs: tuple[str, ...]
    holds: Callable[["Ops", st.DataObject], None]


class Ops:
    """An engine's operations in its precision, with float64 answers."""

    def __init__(self, engine: Engine, precision: Precision) -> None:
        self.engine = engine
        self.precision = precision
        self.unit = precision.store
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        """what the example that runs has asked so far"""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = self.engine.operation(name)
        if function is None:
            raise EngineError(f"{name} is not offered")
        precise = name in AS_GIVEN

        def called(*args: Any, **kw: Any) -> Any:
            cast = [
                a if precise or (name, i) in KEPT else self._cast(name, a)
                for i, a in enumerate(args)
            ]
            given = {k: self._cast(name, v) for k, v in kw.items()}
            self.calls.append((name, tuple(cast), given))
            with np.errstate(all="ignore"):
                return _wide(_called(function, cast, given))

        return called

    def _cast(self, op: str, value: Any) -> Any:
        """Give a floating array the engine's precision; weights stay: value -> value."""
        dtype: Any = self.precision.dtype
        if op in IN_FLOAT32:
            dtype = np.result_type(np.float32, dtype)
        floating = isinstance(value, np.ndarray) and value.dtype in (np.float32, np.float64)
        return value.astype(dtype) if floating else value

    def near(
        self,
        found: np.ndarray,
        wanted: np.ndarray,
        what: str,
        *,
        size: Any = None,
        units: float = 1,
    ) -> None:
        """Hold two answers against each other: found, wanted, what they are."""
        scale = np.abs(wanted).max(axis=-1, keepdims=True) if size is None else size
        same(found, wanted, what, within=UNITS * units * self.unit * scale)


def same(found: Any, wanted: Any, what: str, *, within: Any = 0.0) -> None:
    """Raise unless two arrays are equal, or as near as allowed: found, wanted, what."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    if found.shape != wanted.shape:
        raise Broken(f"{what}: wanted shape {wanted.shape}, got {found.shape}")
    with np.errstate(invalid="ignore"):
        fits = np.abs(found - wanted) <= within
    if not fits.all():
        where = tuple(np.argwhere(~fits)[0].tolist())
        raise Broken(f"{what}: at {list(where)} {wanted[where]} became {found[where]}")


def _called(function: Callable[..., Any], args: list[Any], kw: dict[str, Any]) -> Any:
    """Call in this thread: a law asks thousands of times, and hangs show in the cases before."""
    try:
        return function(*args, **kw)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | NotOffered):
            raise
        raise EngineError(f"{type(error).__name__}: {error}") from error


def _wide(value: Any) -> Any:
    if isinstance(value, tuple | list):
        wide = [_wide(v) for v in value]
        return type(value)(*wide) if hasattr(value, "_fields") else tuple(wide)
    floating = isinstance(value, np.ndarray) and (
        value.dtype.kind == "f" or value.dtype == ml_dtypes.bfloat16
    )
    return value.astype(np.float64) if floating else value
