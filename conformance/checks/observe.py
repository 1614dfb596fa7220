"""Running a checkpoint in an engine, and refusing what cannot be compared."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conformance.compare import TABLE_UNITS, bounded, misfit
from conformance.engine import Engine, EngineError, Runner, attempt
from conformance.profiles import Prompt
from conformance.results import Verdict
from k2ref.config import load_config
from k2ref.numerics import Numerics
from k2ref.rope_table import inv_freq


@dataclass(frozen=True)
class Observed:
    """What an engine made of a prompt."""

    logits_TW: np.ndarray
    taps: dict[str, np.ndarray]
    normalised: bool = False
    """the logits are log-probabilities: a server gives no others"""
    inv_freq_Z: np.ndarray | None = None
    """the engine's own frequency table, which the reference rotates with as well if it is right"""


class Collector:
    """A trace that keeps the last array of each name."""

    def __init__(self) -> None:
        self.taps: dict[str, np.ndarray] = {}

    def __call__(self, name: str, array: Any, /) -> None:
        """Keep a copy: name, array."""
        self.taps[name] = np.array(array)


def load(engine: Engine, checkpoint: Path) -> Runner | None:
    """Load a checkpoint: engine, directory -> Runner, None where the engine runs none."""
    runner: Runner | None = attempt(engine.load, checkpoint)
    return runner


def traced(runner: Any, collector: Collector) -> dict[str, Any]:
    """Ask for tensors where the engine reports any: runner, collector -> options of `forward`."""
    return {"trace": collector} if "trace" in inspect.signature(runner.forward).parameters else {}


def observe(runner: Runner, prompt: Prompt, checkpoint: Path) -> Observed:
    """Run a prompt: runner, prompt -> logits and taps.

    Raises:
        EngineError: the engine failed, or its logits have another shape or type, or are not finite.
    """
    collector = Collector()
    options = traced(runner, collector)
    logits_TW = attempt(runner.forward, prompt.ids_T, prompt.position_T, **options)
    wanted_TW = np.zeros((len(prompt.ids_T), load_config(checkpoint).vocab_size))
    if problem := misfit(logits_TW, wanted_TW):
        raise EngineError(f"logits: {problem}")
    return Observed(
        logits_TW,
        collector.taps,
        normalised=bool(getattr(runner, "normalised", False)),
        inv_freq_Z=_own_table(runner, checkpoint),
    )


def _own_table(runner: Runner, checkpoint: Path) -> np.ndarray | None:
    """Take an engine's frequency table where only roundings set it apart: -> inv_freq_Z or None.

    The reference must not follow a table that is wrong.
    """
    found = getattr(runner, "inv_freq_Z", None)
    right_Z = inv_freq(load_config(checkpoint), Numerics(angle_precision="float64"))
    if found is None or misfit(found, right_Z):
        return None
    allowed_Z = TABLE_UNITS * 2.0**-23 * right_Z
    return found if bounded(found, right_Z, allowed_Z).verdict is Verdict.PASS else None
