"""Values out of parsed JSON, each of the kind it must have or a sentence that says otherwise."""

import json
from pathlib import Path
from typing import Any

from k2ref.errors import InputError

Table = dict[str, Any]
LARGEST = 2**53  # above it a float64 no longer counts, and no number of a model is near it


def read_json(path: Path) -> Table:
    """Read a JSON object from a file. Raises InputError."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable JSON file: {error}") from None
    if not isinstance(table, dict):
        raise InputError(f"{path}: wanted a JSON object, found {type(table).__name__}")
    return table


def child(table: Table, key: str) -> Table:
    """Get an object inside an object; {} where it is absent or null."""
    value = table.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{key} must be an object, got {value!r}")
    return value


def whole(name: str, value: Any, *, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST:
        raise InputError(
            f"{name} must be a whole number from {least} to 2**53, got {repr(value)[:60]}"
        )
    return value


def real(name: str, value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= LARGEST:
        raise InputError(f"{name} must be a number from 0 to 2**53, got {repr(value)[:60]}")
    return float(value)


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false, got {value!r}")
    return value


def strings(name: str, value: Any) -> tuple[str, ...]:
    """Check a list of strings; () where it is null."""
    if not isinstance(value or [], list) or not all(isinstance(v, str) for v in value or []):
        raise InputError(f"{name} must be a list of strings, got {value!r}")
    return tuple(value or ())
