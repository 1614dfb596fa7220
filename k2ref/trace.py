"""Every named intermediate tensor of a forward pass.

A trace is any callable `trace(name, array)`. The names are those of `spec/taps.toml`, with the
layer in front: `L3.attn.q_rope`.
"""

from typing import Protocol

import numpy as np

from k2ref.config import Config
from k2ref.spec import read_toml


class Trace(Protocol):
    """What a model calls with each tensor; an array of T rows, one per token of the call."""

    def __call__(self, name: str, array: np.ndarray, /) -> None: ...


def ignore(name: str, array: np.ndarray, /) -> None:
    """Do nothing with a tensor: name, array."""


def tap_names(config: Config) -> list[str]:
    """List the taps of a model in causal order: config -> names."""
    taps = read_toml("taps.toml")["tap"]
    names = [t["name"] for t in taps if t["where"] == "before"]
    for layer in range(config.num_hidden_layers):
        kinds = {"layer", "sparse" if config.is_sparse(layer) else "dense"}
        if config.n_shared_experts and "sparse" in kinds:
            kinds.add("shared")
        names += [f"L{layer}.{t['name']}" for t in taps if t["where"] in kinds]
    return names + [t["name"] for t in taps if t["where"] == "after"]


class Recorder:
    """A trace that keeps what it is given, chunks joined along the tokens."""

    def __init__(self, *parts: str) -> None:
        """Choose what to keep: taps whose name holds one of `parts`; all without parts."""
        self._parts = parts
        self._chunks: dict[str, list[np.ndarray]] = {}

    def __call__(self, name: str, array: np.ndarray, /) -> None:
        """Keep a copy: name, array."""
        if not self._parts or any(part in name for part in self._parts):
            self._chunks.setdefault(name, []).append(array.copy())

    def __getitem__(self, name: str) -> np.ndarray:
        """Return a tap over all tokens: name -> array."""
        return np.concatenate(self._chunks[name])

    def names(self) -> list[str]:
        """List what was recorded, in the order it came: -> names."""
        return list(self._chunks)
