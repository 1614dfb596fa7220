"""What travels between the kit and an engine in another process: names to arrays, names to scalars.

Nested values are flattened with dots, so that a client needs no structures: `expert.gate.scale_MG`
is an array, `expert.gate.group_size` a scalar, `experts.3.up` the matrix of expert 3.
"""

import inspect
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from conformance.engine import EngineError
from k2ref import oracle


def flatten(value: Any, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Take a value apart: value, its name -> arrays and scalars by dotted name."""
    if isinstance(value, np.ndarray):
        return {name: value}, {}
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {}, {name: plain(value)}
    arrays: dict[str, np.ndarray] = {}
    scalars: dict[str, Any] = {}
    for key, part in value.items():
        more_arrays, more_scalars = flatten(part, f"{name}.{key}" if name else str(key))
        arrays |= more_arrays
        scalars |= more_scalars
    return arrays, scalars


def plain(value: Any) -> Any:
    """Make a scalar fit for JSON, which knows no infinity: value -> value, or its name as text."""
    if isinstance(value, type):
        return np.dtype(value).name
    if isinstance(value, np.generic):
        value = value.item()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def output_names(operation: str) -> list[str]:
    """Read what an operation returns from its docstring's arrow: operation -> array names."""
    returned = (inspect.getdoc(getattr(oracle, operation)) or "").partition("->")[2]
    first = returned.partition(".")[0].partition("\n")[0]
    return re.findall(r"\b[a-z]+(?:_[a-z]+)*_[A-Z]+\b", first) or ["out"]


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a safetensors file: path, arrays by name."""
    save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, path)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read a file that an engine wrote: path -> arrays by name.

    Raises:
        EngineError: the file is missing, or it is not a whole safetensors file.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise EngineError(f"{path.name} is not a whole safetensors file: {error}") from None


def result_of(operation: str, arrays: dict[str, np.ndarray]) -> Any:
    """Give an answer the form of the oracle's: operation, arrays -> array or tuple of arrays.

    Raises:
        EngineError: an array that the operation returns is not there.
    """
    wanted = output_names(operation)
    if missing := [name for name in wanted if name not in arrays]:
        found = ", ".join(arrays) or "no array"
        raise EngineError(f"{operation} must return {', '.join(missing)}, found {found}")
    parts = [arrays[name] for name in wanted]
    if operation == "route":
        return oracle.Routing(*parts)
    return parts[0] if len(parts) == 1 else tuple(parts)
