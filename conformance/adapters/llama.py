"""llama.cpp as an engine: a GGUF file that we write, its own server over HTTP.

`gguf:[DIR][,experts=f32|q4_0][,beta_fast=FLOAT]`. llama.cpp ignores the YaRN key `beta_fast` of a
`deepseek2` file and takes 32; the config's value is therefore given by hand, unless the option says
otherwise: `beta_fast=32` shows what a user gets who does not know. The latent norms use
rms_norm_eps. With `q4_0` activations are rounded to 8 bits, so the engine declares bf16.
"""

import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from conformance.adapters.address import split_address
from conformance.adapters.gguf_file import write_gguf
from conformance.adapters.lines import LineProcess
from conformance.adapters.openai import Client, Served
from conformance.engine import Info, NotOffered
from k2ref.config import load_config
from k2ref.errors import InputError
from k2ref.numerics import Numerics

START_S = 60.0

try:
    VERSION = version("xllamacpp")
except PackageNotFoundError:
    raise InputError("gguf: needs xllamacpp: python -m pip install 'k2ref[peers-llama]'") from None


class LlamaEngine:
    """llama-server with float32 caches, one thread, no flash attention."""

    def __init__(self, directory: str = "", *, experts: str = "f32", beta_fast: str = "") -> None:
        self.checkpoint = Path(directory) if directory else None
        self._experts, self._beta_fast = experts, beta_fast
        self._served: list[tuple[LineProcess, tempfile.TemporaryDirectory[str]]] = []
        self.info = Info(
            "llama.cpp",
            f"xllamacpp {VERSION}",
            "f32" if experts == "f32" else "bf16",
            Numerics(latent_norm_eps="rms_norm_eps"),
            {"experts": experts, "yarn_beta_fast": beta_fast or "as config.json"},
        )

    def operation(self, name: str) -> Callable[..., Any] | None:
        """Offer no single operation: name -> None."""
        return None

    def load(self, directory: Path) -> "LlamaModel":
        """Convert and serve a checkpoint: directory -> model."""
        folder = tempfile.TemporaryDirectory(prefix="k2gguf-")
        path = Path(folder.name) / "model.gguf"
        write_gguf(directory, path, experts=self._experts)
        config = load_config(directory)
        beta_fast = float(self._beta_fast or config.rope.beta_fast)
        process = LineProcess(
            [sys.executable, "-m", "conformance.adapters.llama_server"], timeout_s=START_S
        )
        self._served.append((process, folder))
        address = process.ask({"path": str(path), "beta_fast": beta_fast})["address"]
        return LlamaModel(str(address), config.vocab_size)

    def close(self) -> None:
        """End the servers and remove their files."""
        for process, folder in self._served:
            process.close()
            folder.cleanup()
        self._served.clear()


def open_gguf(address: str, *, precision: str | None = None) -> LlamaEngine:
    """Open `[DIR][,experts=…][,beta_fast=…]`: address -> engine."""
    directory, options = split_address(address, {"experts": "f32", "beta_fast": ""})
    return LlamaEngine(directory, **options)


class LlamaModel:
    """One served file."""

    normalised = True

    def __init__(self, address: str, vocab_size: int) -> None:
        client = Client(f"{address}/v1", max_requests=1 << 30)
        self._served = Served(client, "model", vocab_size)

    def forward(self, ids_T: np.ndarray, position_T: np.ndarray | None = None) -> np.ndarray:
        """Collect log-probabilities of every position: ids_T -> log_probability_TW float64."""
        return self._served.forward(ids_T, position_T)

    def generate(
        self, ids_T: np.ndarray, *, max_new: int, temperature: float = 0.0, **_options: float
    ) -> list[int]:
        """Continue a prompt greedily: ids_T -> ids."""
        if temperature > 0:
            raise NotOffered(
                "llama.cpp's samplers cut by top-p before the temperature; greedy only"
            )
        return self._served.generate(ids_T, max_new=max_new)
