"""`k2ref demo`: a small INT4 checkpoint in the published format, run from disk."""

import importlib
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from k2ref import oracle
from k2ref.checkpoint import Checkpoint
from k2ref.generate import generate
from k2ref.model import Model
from k2ref.presets import NANO
from k2ref.synth import make_checkpoint
from k2ref.tensors import parameters
from k2ref.trace import Recorder

PROMPT = np.array([314, 159, 265, 358, 979, 323, 846, 264])


def demo() -> None:
    """Make, run and explain a small checkpoint."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        make_checkpoint(Path(folder) / "nano", NANO, form="int4", seed=0)
        checkpoint = Checkpoint(Path(folder) / "nano")
        _show_checkpoint(console, checkpoint, time.perf_counter() - start)
        model = Model(checkpoint, ops=oracle)
        recorder = Recorder()
        logits_TW = model.forward(PROMPT, trace=recorder)
        _show_logits(console, logits_TW[-1])
        _show_experts(console, recorder)
        _show_reading(console, checkpoint)
        _show_decoding(console, model)
        _show_kernels(console, model)


def _show_checkpoint(console: Console, checkpoint: Checkpoint, seconds: float) -> None:
    total, active = parameters(checkpoint.config)
    config = checkpoint.config
    console.print(
        f"A checkpoint in the format of Kimi K2 Thinking, {seconds:.1f} s to make: "
        f"{config.num_hidden_layers} layers, {config.n_routed_experts} INT4 experts, "
        f"{total / 1e6:.1f} M parameters, {active / 1e6:.1f} M per token, "
        f"{checkpoint.nbytes / 1e6:.1f} MB.\n"
    )


def _show_logits(console: Console, logits_W: np.ndarray) -> None:
    probability_W = oracle.softmax(logits_W)
    table = Table("token", "logit", "probability", title="After the prompt of 8 tokens")
    for token in np.argsort(-logits_W)[:5]:
        table.add_row(str(token), f"{logits_W[token]:.4f}", f"{probability_W[token]:.4f}")
    console.print(table)


def _show_experts(console: Console, recorder: Recorder) -> None:
    table = Table("layer", "experts of the last token", "weights", title="Routing")
    for layer in range(1, NANO.num_hidden_layers):
        experts_K = recorder[f"L{layer}.moe.router.experts"][-1]
        weights_K = recorder[f"L{layer}.moe.router.weights"][-1]
        table.add_row(
            str(layer),
            " ".join(f"{e:2d}" for e in experts_K),
            " ".join(f"{w:.2f}" for w in weights_K),
        )
    console.print(table)


def _show_reading(console: Console, checkpoint: Checkpoint) -> None:
    read = {name.rsplit(".", 2)[0] for name in checkpoint.bytes_read if ".mlp.experts." in name}
    sparse = NANO.num_hidden_layers - NANO.first_k_dense_replace
    console.print(
        f"Read from disk: {len(read)} of {sparse * NANO.n_routed_experts} experts, "
        f"{sum(checkpoint.bytes_read.values()) / 1e6:.1f} MB of {checkpoint.nbytes / 1e6:.1f} MB."
    )


def _show_decoding(console: Console, model: Model) -> None:
    new = list(generate(model, PROMPT, max_new=12))
    console.print(f"Greedy continuation: {' '.join(map(str, new))}")
    whole = np.concatenate([PROMPT, new])
    at_once_TW = model.forward(whole)
    cache = model.new_cache()
    steps = [model.forward(whole[t : t + 1], cache=cache) for t in range(len(whole))]
    one_by_one_TW = np.concatenate(steps)
    difference = np.abs(at_once_TW - one_by_one_TW).max() / np.abs(at_once_TW).max()
    console.print(
        f"Decoding token by token from the latent cache ({cache.nbytes / 1e3:.0f} kB) equals "
        f"one prefill of all {len(whole)}: they differ by {difference:.0e} of the largest logit."
    )


def _show_kernels(console: Console, model: Model) -> None:
    with Console(stderr=True).status("compiling the kernels, once"):
        compiled = Model(model.checkpoint, ops=importlib.import_module("k2ref.kernels"))
        list(generate(compiled, PROMPT, max_new=2))  # a prompt and a token: all that is compiled
    difference = np.abs(compiled.forward(PROMPT) - model.forward(PROMPT)).max()
    difference /= np.abs(model.forward(PROMPT)).max()
    seconds = {}
    for name, runner in (("NumPy", model), ("kernels", compiled)):
        start = time.perf_counter()
        list(generate(runner, PROMPT, max_new=12))
        seconds[name] = time.perf_counter() - start
    console.print(
        f"The compiled kernels differ from NumPy by {difference:.0e}; 12 tokens in "
        f"{seconds['kernels']:.2f} s, {seconds['NumPy']:.2f} s in NumPy."
    )
