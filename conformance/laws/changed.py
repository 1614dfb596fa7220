"""Whole models for laws: an engine is given one changed checkpoint after another, and asked.

In float32 only: lower precisions flip experts.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from safetensors.numpy import save_file

from conformance.compare import log_probabilities
from conformance.engine import Engine, EngineError, NotOffered, attempt
from conformance.laws import same
from conformance.profiles import TINY
from k2ref.config import write_config
from k2ref.synth import stored
from k2ref.tensors import tensors

Weights = dict[str, np.ndarray]
LAYERS = range(TINY.num_hidden_layers)
SPARSE = [n for n in LAYERS if TINY.is_sparse(n)]


@dataclass(frozen=True)
class ModelLaw:
    """One law of whole models: its number in the design, what it draws, and what it asks."""

    number: int
    name: str
    requirement: str
    inputs: st.SearchStrategy[dict[str, Any]]
    holds: Callable[["Models", "Drawn"], None]
    examples: int = 2
    """each loads one to five checkpoints; the first is the ordinary one"""


class Drawn(SimpleNamespace):
    """What one example drew, by name; `seed` and `size` are those of the weights."""

    def weights(self) -> Weights:
        """Make the unchanged weights: -> name to array."""
        return weights_of(self.seed, self.size)


class Models:
    """An engine of whole models, and how near its answers must be to each other."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.drawn: dict[str, Any] = {}
        """of the example that runs"""
        self.normalised = False
        """the runner gives log-probabilities: logits are compared up to a constant per token"""
        self.unit = 2.0**-12  # of the largest logit: what four layers of float32 may add up to

    @contextmanager
    def loaded(self, weights: Weights) -> Iterator[Any]:
        """Load weights into the engine: weights -> runner, for as long as it is used."""
        with tempfile.TemporaryDirectory(prefix="k2conf-") as folder:
            write(Path(folder), weights)
            runner = attempt(self.engine.load, Path(folder))
            if runner is None:
                raise NotOffered("the engine runs no checkpoint")
            self.normalised = bool(getattr(runner, "normalised", False))
            yield runner

    def logits(
        self, weights: Weights, ids_T: np.ndarray, position_T: np.ndarray, *, placed: bool = False
    ) -> np.ndarray:
        """Load weights and run tokens: weights, ids_T, position_T -> logits_TW float64.

        Unless they must be placed there, an engine that counts positions itself begins at 0.
        """
        with self.loaded(weights) as runner:
            try:
                return ask(runner, ids_T, position_T)
            except NotOffered:
                if placed:
                    raise
                return ask(runner, ids_T, np.arange(len(ids_T)))

    def near(self, found: np.ndarray, wanted: np.ndarray, what: str, units: float = 1) -> None:
        """Hold two sets of logits against each other: found, wanted, what they are."""
        if self.normalised:
            found, wanted = log_probabilities(found), log_probabilities(wanted)
        same(found, wanted, what, within=units * self.unit * float(np.abs(wanted).max()))


def ask(runner: Any, ids_T: np.ndarray, position_T: np.ndarray, **options: Any) -> np.ndarray:
    """Run tokens through what an engine loaded: runner, ids_T, position_T -> logits_TW float64."""
    found = np.asarray(attempt(runner.forward, ids_T, position_T, **options), np.float64)
    if found.shape != (len(ids_T), TINY.vocab_size):
        raise EngineError(f"logits have shape {list(found.shape)}")
    return found


def weights_of(seed: int, size: int) -> Weights:
    """Make the weights of the tiny model, embeddings times 2^size: seed, size -> name to array."""
    weights = {name: array.copy() for name, array in _made(seed).items()}
    scale(weights, "embed_tokens.weight", 2.0**size)
    return weights


@lru_cache(maxsize=4)
def _made(seed: int) -> Weights:
    made = (stored(TINY, tensor, form="f32", seed=seed) for tensor in tensors(TINY))
    return {name: array for pairs in made for name, array in pairs}


def scale(weights: Weights, ending: str, factor: float) -> None:
    """Multiply every tensor whose name ends so: weights, ending, factor."""
    for name in weights:
        if name.endswith(ending):
            weights[name] = (weights[name] * np.float32(factor)).astype(np.float32)


def write(folder: Path, weights: Weights) -> None:
    """Write a checkpoint: folder, weights."""
    (folder / "config.json").write_text(json.dumps(write_config(TINY, quant="f32")), "utf-8")
    whole = {name: np.ascontiguousarray(array) for name, array in weights.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
