"""Arrays as Python text, short and exact."""

import base64
from typing import Any

import ml_dtypes
import numpy as np

SHORT = 24  # numbers that are worth reading; more are encoded


def literal(value: Any) -> str:
    """Write a value as an expression: array or scalar -> Python text, bit for bit."""
    if not isinstance(value, np.ndarray):
        return _scalar(value)
    if value.dtype == ml_dtypes.bfloat16:
        return f"bfloat16({literal(value.view(np.uint16))})"
    kind = value.dtype.name
    if value.size <= SHORT and np.isfinite(value.astype(np.float64)).all():
        return f"np.array({value.tolist()!r}, np.{kind})"
    data = base64.b85encode(np.ascontiguousarray(value).tobytes()).decode()
    return f"decode({data!r}, np.{kind}, {value.shape!r})"


def _scalar(value: Any) -> str:
    if isinstance(value, type | np.dtype):
        return f"np.{np.dtype(value).name}"
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return f"float({str(value)!r})"
    return repr(value)


def table_text(table: dict[str, Any]) -> str:
    """Write a table as a dict display, one entry a line: table -> Python text."""
    rows = "".join(f"    {name!r}: {literal(value)},\n" for name, value in table.items())
    return "{\n" + rows + "}"
