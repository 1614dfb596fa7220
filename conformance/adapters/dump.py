"""What an engine wrote on its own, as an engine: no code of ours runs where it ran.

`k2conf export` writes a checkpoint and prompts; the engine writes, beside them,

    outputs/engine.json           {"name": …, "version": …, "precision": "f32"}
    outputs/PROMPT.safetensors    logits_TW, and any named tensors (spec/taps.toml) it can give

engine.json may hold `numerics` (answers to open questions) and `"normalised": true` where the
logits are log-probabilities.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conformance.adapters.messages import read_arrays
from conformance.compare import find_precision
from conformance.engine import EngineError, Info, NotOffered
from k2ref.errors import InputError
from k2ref.numerics import Numerics
from k2ref.trace import Trace, ignore

SCHEMA = "dump.1"


@dataclass(frozen=True)
class Exported:
    """One prompt that was exported."""

    name: str
    ids: list[int]
    positions: list[int]


def read_manifest(directory: Path) -> tuple[int, list[Exported]]:
    """Read what was exported: directory -> seed, prompts.

    Raises:
        InputError: the directory is no export.
    """
    try:
        table = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        if table["schema"] != SCHEMA:
            raise ValueError(f"schema {table['schema']}")
        return int(table["seed"]), [Exported(**prompt) for prompt in table["prompts"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{directory}: not written by k2conf export: {error!r}") from None


class DumpEngine:
    """Files in the place of an engine."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.checkpoint = directory / "checkpoint"
        self.seed, self._prompts = read_manifest(directory)
        self.info, self._normalised = _read_engine(directory / "outputs" / "engine.json")

    def operation(self, name: str) -> Callable[..., Any] | None:
        """Offer no single operation: name -> None."""
        return None

    def load(self, directory: Path) -> "Dumped | None":
        """Hand out the files, where the checkpoint is the exported one: directory -> model."""
        if directory.resolve() != self.checkpoint.resolve():
            return None
        return Dumped(self.directory / "outputs", self._prompts, self._normalised)

    def close(self) -> None:
        """Hold nothing."""


def open_dump(address: str, *, precision: str | None = None) -> DumpEngine:
    """Open an exported directory with outputs in it: address -> engine."""
    if precision is not None:
        raise InputError("dump: outputs/engine.json declares the precision")
    return DumpEngine(Path(address))


def _read_engine(path: Path) -> tuple[Info, bool]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        info = Info(
            str(table["name"]),
            str(table["version"]),
            find_precision(table["precision"]).name,
            Numerics(**table.get("numerics", {})),
        )
        return info, bool(table.get("normalised", False))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: wanted name, version and precision: {error!r}") from None


class Dumped:
    """The outputs of one engine."""

    def __init__(self, directory: Path, exported: list[Exported], normalised: bool) -> None:
        self._directory, self._exported, self.normalised = directory, exported, normalised

    def forward(
        self, ids_T: np.ndarray, position_T: np.ndarray, *, trace: Trace = ignore
    ) -> np.ndarray:
        """Read what the engine wrote for a prompt: ids_T, position_T -> logits_TW."""
        asked = [int(i) for i in ids_T], [int(p) for p in position_T]
        name = next((e.name for e in self._exported if (e.ids, e.positions) == asked), None)
        if name is None:
            raise NotOffered("this prompt was not exported; give the seed of the export")
        path = self._directory / f"{name}.safetensors"
        if not path.exists():
            raise NotOffered(f"outputs/{path.name} was not written")
        arrays = read_arrays(path)
        if "logits_TW" not in arrays:
            raise EngineError(f"outputs/{path.name} has no logits_TW, only {', '.join(arrays)}")
        for tap, array in arrays.items():
            if tap != "logits_TW":
                trace(tap, array)
        if not self.normalised:
            trace("logits", arrays["logits_TW"])
        return arrays["logits_TW"]
