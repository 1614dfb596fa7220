"""A wrong tensor of a model in transformers as a file: the smallest config that still shows it.

The config shrinks instead of the input: layers, experts, heads, widths and tokens are halved for as
long as the same tensor is the first wrong one. Weights come from a seed, so the file stays small.
"""

import dataclasses
import inspect
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file

from conformance.adapters.address import split_address
from conformance.bisect import judge_taps
from conformance.checks.observe import observe
from conformance.compare import TAU_LIMIT, find_precision
from conformance.engine import Engine, EngineError
from conformance.forcing import Forced, Reference, stage_noise
from conformance.profiles import Prompt
from conformance.repro import draw_weights
from conformance.repro.operation import HERE, fill
from conformance.repro.text import literal
from k2ref.config import Config, write_config
from k2ref.errors import InputError
from k2ref.presets import NANO
from k2ref.tensors import tensors

SEED = 1
START = dataclasses.replace(NANO, num_hidden_layers=2, n_routed_experts=16, vocab_size=256)
POSITIONS = (0, 1, 2, 3, 100, 4097, 65_535, 262_142)
HALVED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "n_routed_experts",
    "num_attention_heads",
    "q_lora_rank",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "num_experts_per_tok",
)
SMALLEST = {"hidden_size": 16, "moe_intermediate_size": 8, "qk_rope_head_dim": 4, "vocab_size": 8}


class Shown(NamedTuple):
    """A model that shows a wrong tensor, and what is wanted there."""

    config: Config
    ids_T: np.ndarray
    position_T: np.ndarray
    tap: str
    message: str
    expected: np.ndarray
    allowed: np.ndarray


def script(engine: Engine, address: str, case: str | None) -> str:
    """Write the file: engine, its address, tensor or None -> Python text."""
    _, options = split_address(
        address.partition(":")[2], {"dtype": "float32", "weights": "exact", "patch": ""}
    )
    if options["dtype"] != "float32":
        raise InputError("repro of hf: runs in float32; leave dtype out")
    shown = _smallest(engine, case)
    config = write_config(shown.config, quant="f32")
    fields = {
        "title": f"{engine.info.name} {engine.info.version}: {shown.tap} differs.",
        "message": shown.message,
        "patch": Path(options["patch"]).read_text("utf-8") if options["patch"] else "",
        "config": json.dumps(config, indent=1)
        .replace("true", "True")
        .replace("false", "False")
        .replace("null", "None"),
        "shapes": "{\n"
        + "".join(f"    {t.name!r}: {t.shape},\n" for t in tensors(shown.config))
        + "}",
        "ids": repr(shown.ids_T.tolist()),
        "positions": repr(shown.position_T.tolist()),
        "tap": repr(shown.tap),
        "expected": literal(shown.expected),
        "allowed": literal(shown.allowed),
        "draw": inspect.getsource(draw_weights.draw),
        "seed": str(SEED),
    }
    return fill((HERE / "transformers_model.py.txt").read_text("utf-8"), fields)


def _smallest(engine: Engine, case: str | None) -> Shown:
    count = len(POSITIONS)
    ids_T = np.random.default_rng(SEED).integers(0, SMALLEST["vocab_size"], count)
    shown = _look(engine, START, ids_T, np.array(POSITIONS))
    if shown is None or (case and not shown.tap.endswith(case.split(".", 1)[-1])):
        found = "none" if shown is None else shown.tap
        raise InputError(f"the first wrong tensor of {engine.info.name} is {found}; see bisect")
    wanted = _suffix(shown.tap)
    smaller = True
    while smaller:
        smaller = False
        for config, rows in _candidates(shown):
            found_there = _look(engine, config, shown.ids_T[rows], shown.position_T[rows])
            if found_there is not None and _suffix(found_there.tap) == wanted:
                shown, smaller = found_there, True
                break
    return shown


def _suffix(tap: str) -> str:
    return tap.split(".", 1)[1] if tap.startswith("L") else tap


def _candidates(shown: Shown) -> Iterator[tuple[Config, slice]]:
    config, everything = shown.config, slice(None)
    T = len(shown.ids_T)
    if T > 1:
        yield config, slice(T // 2)
        yield config, slice(T // 2, T)
    if config.num_hidden_layers > 1:
        layer = int(shown.tap[1:].split(".")[0]) if shown.tap.startswith("L") else 0
        dense = 0 if config.is_sparse(layer) else 1
        one = dataclasses.replace(config, num_hidden_layers=1, first_k_dense_replace=dense)
        yield one, everything
    for name in HALVED:
        half = (getattr(config, name) or 0) // 2
        if half >= SMALLEST.get(name, 1):
            fewer: dict[str, Any] = {name: half}
            yield dataclasses.replace(config, **fewer), everything


def _look(
    engine: Engine, config: Config, ids_T: np.ndarray, position_T: np.ndarray
) -> Shown | None:
    """Find the first wrong tensor of a model: -> Shown, None where all are right or none runs."""
    if config.num_experts_per_tok > config.n_routed_experts:
        return None
    with tempfile.TemporaryDirectory(prefix="k2repro-") as folder:
        checkpoint = Path(folder)
        write_checkpoint(checkpoint, config)
        prompt = Prompt("repro", "model:logits", ids_T, position_T)
        try:
            runner = engine.load(checkpoint)
            if runner is None:
                return None
            observed = observe(runner, prompt, checkpoint)
            first = judge_taps(engine, checkpoint, prompt, observed).first
        except (EngineError, InputError, RuntimeError, ValueError, IndexError):
            return None
        if first is None:
            return None
        wanted = _wanted(engine, checkpoint, prompt, observed.taps, first.tap)
        return Shown(config, ids_T, position_T, first.tap, first.agreement.message, *wanted)


def _wanted(
    engine: Engine, checkpoint: Path, prompt: Prompt, taps: dict[str, np.ndarray], tap: str
) -> tuple[np.ndarray, np.ndarray]:
    """Work out what a tensor should be, and how far each row may be from it."""
    reference = Reference(checkpoint, engine.info.numerics)
    expected = Forced(reference.model(), taps).run(prompt.ids_T, prompt.position_T)[tap]
    if tap.endswith(".experts"):
        return expected, np.zeros(len(expected))
    precision = find_precision(engine.info.precision)
    sigma = stage_noise(reference, prompt.ids_T, prompt.position_T, taps, precision)[tap]
    size = np.sqrt(np.mean(np.square(expected), axis=-1))
    # what came before is no longer the engine's own: its noise of some ulp is allowed on top
    return expected.astype(np.float32), TAU_LIMIT * sigma + 2.0**-16 * size


def write_checkpoint(directory: Path, config: Config) -> None:
    """Write a float32 checkpoint of drawn weights: directory, config."""
    arrays = {t.name: draw_weights.draw(SEED, t.name, t.shape) for t in tensors(config)}
    save_file(arrays, directory / "model.safetensors", metadata={"format": "pt"})
    table: dict[str, Any] = write_config(config, quant="f32")
    (directory / "config.json").write_text(json.dumps(table), encoding="utf-8")
