"""Laws of whole checkpoints: pairs of small models that must give the same logits.

Each law changes the weights of a tiny checkpoint so that nothing, or something simple, should
change, loads both into the engine, and compares. In float32 only: lower precisions flip experts.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from conformance.compare import log_probabilities
from conformance.engine import Engine, EngineError, NotOffered, attempt
from conformance.laws import Broken, same
from conformance.profiles import TINY
from k2ref.config import write_config
from k2ref.synth import stored
from k2ref.tensors import tensors

Weights = dict[str, np.ndarray]
T = 10
NEAR = np.arange(T) * 400
NAMES = {t.name: t for t in tensors(TINY)}
LAYERS = range(TINY.num_hidden_layers)
SPARSE = [n for n in LAYERS if TINY.is_sparse(n)]


@dataclass(frozen=True)
class ModelLaw:
    """One law of whole models."""

    number: int
    name: str
    requirement: str
    holds: Callable[["Models"], None]


class Models:
    """An engine that is given one changed checkpoint after another."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.engine = engine
        self.seed = seed
        self.ids_T = np.random.default_rng(seed).integers(0, TINY.vocab_size, T)
        self.normalised = False
        """the runner gives log-probabilities: logits are compared up to a constant per token"""
        self.unit = 2.0**-12  # of the largest logit: what four layers of float32 may add up to

    def weights(self) -> Weights:
        """Make the unchanged weights: -> name to array, writable."""
        made = (stored(TINY, tensor, form="f32", seed=self.seed) for tensor in NAMES.values())
        return {name: array.copy() for pairs in made for name, array in pairs}

    @contextmanager
    def loaded(self, weights: Weights | None = None) -> Iterator[Any]:
        """Load weights, unchanged ones if none are given: -> runner, for as long as it is used."""
        with tempfile.TemporaryDirectory(prefix="k2conf-") as folder:
            write(Path(folder), self.weights() if weights is None else weights)
            runner = attempt(self.engine.load, Path(folder))
            if runner is None:
                raise NotOffered("the engine runs no checkpoint")
            self.normalised = bool(getattr(runner, "normalised", False))
            yield runner

    def logits(
        self,
        weights: Weights,
        position_T: np.ndarray | None = None,
        ids_T: np.ndarray | None = None,
    ) -> np.ndarray:
        """Load weights into the engine and run it: weights, position_T -> logits_TW float64.

        Without positions they are 400 apart, or from 0 on where the engine counts them itself.
        """
        ids_T = self.ids_T if ids_T is None else ids_T
        with self.loaded(weights) as runner:
            if position_T is not None:
                return ask(runner, ids_T, position_T)
            try:
                return ask(runner, ids_T, NEAR[: len(ids_T)])
            except NotOffered:
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


def write(folder: Path, weights: Weights) -> None:
    """Write a checkpoint: folder, weights."""
    (folder / "config.json").write_text(json.dumps(write_config(TINY, quant="f32")), "utf-8")
    whole = {name: np.ascontiguousarray(array) for name, array in weights.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})


def _scale(weights: Weights, ending: str, factor: float) -> None:
    for name in weights:
        if name.endswith(ending):
            weights[name] = (weights[name] * np.float32(factor)).astype(np.float32)


def _no_outputs(weights: Weights, layers: range | list[int] = LAYERS) -> None:
    """Silence blocks: their output projections become 0."""
    for layer in layers:
        for name in weights:
            if name.startswith(f"model.layers.{layer}.") and name.endswith(
                ("o_proj.weight", "down_proj.weight")
            ):
                weights[name] = np.zeros_like(weights[name])


def _no_rope(models: Models) -> None:
    weights = models.weights()
    N, C = TINY.qk_nope_head_dim, TINY.kv_lora_rank
    for layer in LAYERS:
        base = f"model.layers.{layer}.self_attn"
        rows = weights[f"{base}.q_b_proj.weight"]
        rows.reshape(TINY.num_attention_heads, -1, rows.shape[1])[:, N:] = 0
        weights[f"{base}.kv_a_proj_with_mqa.weight"][C:] = 0
    still = models.logits(weights)
    models.near(models.logits(weights, NEAR + 777), still, "no rope weights, other positions")


def _shifted(models: Models) -> None:
    weights = models.weights()
    moved = models.logits(weights, NEAR + 8192)
    models.near(moved, models.logits(weights), "positions + 8192", units=80)


def _heads(models: Models) -> None:
    weights = models.weights()
    plain, H = models.logits(weights), TINY.num_attention_heads
    for layer in LAYERS:
        base = f"model.layers.{layer}.self_attn"
        for part in ("q_b_proj", "kv_b_proj"):
            w = weights[f"{base}.{part}.weight"]
            weights[f"{base}.{part}.weight"] = w.reshape(H, -1, w.shape[1])[::-1].reshape(w.shape)
        w = weights[f"{base}.o_proj.weight"]
        weights[f"{base}.o_proj.weight"] = w.reshape(len(w), H, -1)[:, ::-1].reshape(w.shape)
    models.near(models.logits(weights), plain, "heads exchanged")


def _query_norm(models: Models) -> None:
    weights = models.weights()
    plain = models.logits(weights)
    _scale(weights, "q_a_proj.weight", 4)
    models.near(models.logits(weights), plain, "q_a_proj times 4")


def _latent_norm(models: Models) -> None:
    weights = models.weights()
    plain = models.logits(weights)
    for layer in LAYERS:
        w = weights[f"model.layers.{layer}.self_attn.kv_a_proj_with_mqa.weight"]
        w[: TINY.kv_lora_rank] *= 4
    models.near(models.logits(weights), plain, "latent rows of kv_a times 4")


def _renumbered(models: Models) -> None:
    weights = models.weights()
    plain = models.logits(weights)
    order = np.random.default_rng(models.seed).permutation(TINY.n_routed_experts)
    moved = dict(weights)
    for layer in SPARSE:
        base = f"model.layers.{layer}.mlp"
        for name in ("gate.weight", "gate.e_score_correction_bias"):
            moved[f"{base}.{name}"] = weights[f"{base}.{name}"][order]
        for place, e in enumerate(order):
            for part in ("gate", "up", "down"):
                name = f"{part}_proj.weight"
                source = f"{base}.experts.{e}.{name}"
                moved[f"{base}.experts.{place}.{name}"] = weights[source]
    models.near(models.logits(moved), plain, "experts renumbered")


def _shared_counts_once(models: Models) -> None:
    """Routed experts equal to the shared one: together 1 + the factor times the shared one."""
    alike, alone = models.weights(), models.weights()
    for layer in SPARSE:
        base = f"model.layers.{layer}.mlp"
        for part in ("gate", "up", "down"):
            shared = alike[f"{base}.shared_experts.{part}_proj.weight"]
            for e in range(TINY.n_routed_experts):
                alike[f"{base}.experts.{e}.{part}_proj.weight"] = shared
                if part == "down":
                    alone[f"{base}.experts.{e}.down_proj.weight"] = np.zeros_like(shared)
        whole = np.float32(1 + TINY.routed_scaling_factor)
        alone[f"{base}.shared_experts.down_proj.weight"] *= whole
    models.near(models.logits(alike), models.logits(alone), "all experts equal the shared one")


def _residual(models: Models) -> None:
    """Silent blocks leave the embedding: logits are the head of its norm."""
    weights = models.weights()
    _no_outputs(weights)
    hidden = weights["model.embed_tokens.weight"][models.ids_T].astype(np.float64)
    unit = hidden / np.sqrt(np.mean(hidden**2, axis=1, keepdims=True))
    wanted = unit * weights["model.norm.weight"] @ weights["lm_head.weight"].T.astype(np.float64)
    models.near(models.logits(weights), wanted, "silent blocks")
    _scale(weights, "embed_tokens.weight", 2.0**17)
    models.near(models.logits(weights), wanted, "silent blocks, embeddings times 2^17")


def _every_layer_counts(models: Models) -> None:
    weights = models.weights()
    plain = models.logits(weights)
    for layer in LAYERS:
        silent = dict(weights)
        _no_outputs(silent, [layer])
        if np.abs(models.logits(silent) - plain).max() < 1e-3 * np.abs(plain).max():
            raise Broken(f"layer {layer} has no influence")


def _gain_is_linear(models: Models) -> None:
    weights = models.weights()
    plain = models.logits(weights)
    factor = 8 if models.normalised else 64  # log-probabilities below -87 underflow in float32
    weights["model.norm.weight"] *= factor
    models.near(models.logits(weights), factor * plain, f"final gain times {factor}")


def _head_rows(models: Models) -> None:
    weights = models.weights()
    plain = models.logits(weights)
    weights["lm_head.weight"] = weights["lm_head.weight"][::-1]
    models.near(models.logits(weights), plain[:, ::-1], "rows of the head reversed")


def _normed_input(models: Models) -> None:
    """What reads the second norm sees twice the gain and half the weight."""
    weights = models.weights()
    plain = models.logits(weights)
    _scale(weights, "post_attention_layernorm.weight", 2)
    for ending in ("mlp.gate.weight", "gate_proj.weight", "up_proj.weight"):
        _scale(weights, ending, 0.5)
    models.near(models.logits(weights), plain, "second gain doubled, its readers halved")


def _prefix(models: Models) -> None:
    weights = models.weights()
    begun = models.logits(weights, ids_T=models.ids_T[:6])
    models.near(begun, models.logits(weights)[:6], "the first 6 tokens alone")


LAWS = [
    ModelLaw(13, "positions-shift", "model:long-positions", _shifted),
    ModelLaw(14, "no-rope-no-positions", "model:structure", _no_rope),
    ModelLaw(15, "model-prefix", "model:structure", _prefix),
    ModelLaw(21, "model-heads", "model:relabelling", _heads),
    ModelLaw(22, "query-latent-is-normed", "model:structure", _query_norm),
    ModelLaw(23, "latent-is-normed", "model:structure", _latent_norm),
    ModelLaw(30, "model-experts", "model:relabelling", _renumbered),
    ModelLaw(35, "shared-counts-once", "model:structure", _shared_counts_once),
    ModelLaw(39, "silent-blocks", "model:structure", _residual),
    ModelLaw(39, "every-layer-counts", "model:structure", _every_layer_counts),
    ModelLaw(39, "normed-input", "model:structure", _normed_input),
    ModelLaw(40, "final-gain", "model:structure", _gain_is_linear),
    ModelLaw(41, "head-rows", "model:relabelling", _head_rows),
]
