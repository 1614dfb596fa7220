"""Laws of whole checkpoints: pairs of small models that must give the same logits.

Each law changes the weights of a tiny checkpoint so that nothing, or something simple, should
change, loads both into the engine, and compares.
"""

import numpy as np
from hypothesis import strategies as st

from conformance.laws import Broken
from conformance.laws import prompts as p
from conformance.laws.changed import (
    LAYERS,
    SPARSE,
    Drawn,
    ModelLaw,
    Models,
    Weights,
    scale,
)
from conformance.profiles import TINY

POSITIONS_A_UNIT = 150  # correct engines differ by less the nearer to 0 they are


def _no_outputs(weights: Weights, layers: range | list[int] = LAYERS) -> None:
    """Silence blocks: their output projections become 0."""
    for layer in layers:
        for name in weights:
            if name.startswith(f"model.layers.{layer}.") and name.endswith(
                ("o_proj.weight", "down_proj.weight")
            ):
                weights[name] = np.zeros_like(weights[name])


def _no_rope(models: Models, x: Drawn) -> None:
    weights = x.weights()
    N, C = TINY.qk_nope_head_dim, TINY.kv_lora_rank
    for layer in LAYERS:
        base = f"model.layers.{layer}.self_attn"
        rows = weights[f"{base}.q_b_proj.weight"]
        rows.reshape(TINY.num_attention_heads, -1, rows.shape[1])[:, N:] = 0
        weights[f"{base}.kv_a_proj_with_mqa.weight"][C:] = 0
    still = models.logits(weights, x.ids_T, x.position_T, placed=True)
    moved = models.logits(weights, x.ids_T, x.other_T, placed=True)
    models.near(moved, still, "no rope weights, other positions")


def _shifted(models: Models, x: Drawn) -> None:
    """Float32 angles differ by their rounding, which grows with the position."""
    weights, moved_T = x.weights(), x.position_T + x.shift
    still = models.logits(weights, x.ids_T, x.position_T, placed=True)
    moved = models.logits(weights, x.ids_T, moved_T, placed=True)
    units = max(4, int(moved_T[-1]) / POSITIONS_A_UNIT)
    models.near(moved, still, f"positions + {x.shift}", units=units)


def _heads(models: Models, x: Drawn) -> None:
    weights, H = x.weights(), TINY.num_attention_heads
    plain = models.logits(weights, x.ids_T, x.position_T)
    for layer in LAYERS:
        base = f"model.layers.{layer}.self_attn"
        for part in ("q_b_proj", "kv_b_proj"):
            w = weights[f"{base}.{part}.weight"]
            weights[f"{base}.{part}.weight"] = w.reshape(H, -1, w.shape[1])[::-1].reshape(w.shape)
        w = weights[f"{base}.o_proj.weight"]
        weights[f"{base}.o_proj.weight"] = w.reshape(len(w), H, -1)[:, ::-1].reshape(w.shape)
    models.near(models.logits(weights, x.ids_T, x.position_T), plain, "heads exchanged")


def _query_norm(models: Models, x: Drawn) -> None:
    weights, factor = x.weights(), 2**x.power
    plain = models.logits(weights, x.ids_T, x.position_T)
    scale(weights, "q_a_proj.weight", factor)
    found = models.logits(weights, x.ids_T, x.position_T)
    models.near(found, plain, f"q_a_proj times {factor}")


def _latent_norm(models: Models, x: Drawn) -> None:
    weights, factor = x.weights(), 2**x.power
    plain = models.logits(weights, x.ids_T, x.position_T)
    for layer in LAYERS:
        w = weights[f"model.layers.{layer}.self_attn.kv_a_proj_with_mqa.weight"]
        w[: TINY.kv_lora_rank] *= factor
    found = models.logits(weights, x.ids_T, x.position_T)
    models.near(found, plain, f"latent rows of kv_a times {factor}")


def _renumbered(models: Models, x: Drawn) -> None:
    weights = x.weights()
    plain = models.logits(weights, x.ids_T, x.position_T)
    moved = dict(weights)
    for layer in SPARSE:
        base = f"model.layers.{layer}.mlp"
        for name in ("gate.weight", "gate.e_score_correction_bias"):
            moved[f"{base}.{name}"] = weights[f"{base}.{name}"][x.order_E]
        for place, e in enumerate(x.order_E):
            for part in ("gate", "up", "down"):
                name = f"{part}_proj.weight"
                source = f"{base}.experts.{e}.{name}"
                moved[f"{base}.experts.{place}.{name}"] = weights[source]
    models.near(models.logits(moved, x.ids_T, x.position_T), plain, "experts renumbered")


def _shared_counts_once(models: Models, x: Drawn) -> None:
    """Routed experts equal to the shared one: together 1 + the factor times the shared one."""
    alike, alone = x.weights(), x.weights()
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
    found, wanted = (models.logits(w, x.ids_T, x.position_T) for w in (alike, alone))
    models.near(found, wanted, "all experts equal the shared one")


def _residual(models: Models, x: Drawn) -> None:
    """Silent blocks leave the embedding: logits are the head of its norm."""
    weights = x.weights()
    _no_outputs(weights)
    for power in (0, x.power):
        scale(weights, "embed_tokens.weight", 2.0**power)
        hidden = weights["model.embed_tokens.weight"][x.ids_T].astype(np.float64)
        mean_T1 = np.mean(hidden**2, axis=1, keepdims=True)
        normed = hidden / np.sqrt(mean_T1 + TINY.rms_norm_eps) * weights["model.norm.weight"]
        wanted = normed @ weights["lm_head.weight"].T.astype(np.float64)
        found = models.logits(weights, x.ids_T, x.position_T)
        models.near(found, wanted, f"silent blocks, embeddings times 2^{power}")


def _every_layer_counts(models: Models, x: Drawn) -> None:
    weights = x.weights()
    plain = models.logits(weights, x.ids_T, x.position_T)
    for layer in LAYERS:
        silent = dict(weights)
        _no_outputs(silent, [layer])
        changed = models.logits(silent, x.ids_T, x.position_T) - plain
        if np.abs(changed).max() < 1e-3 * np.abs(plain).max():
            raise Broken(f"layer {layer} has no influence")


def _gain_is_linear(models: Models, x: Drawn) -> None:
    weights = x.weights()
    plain = models.logits(weights, x.ids_T, x.position_T)
    factor = 2 ** (min(x.power, 2) if models.normalised else x.power)  # float32 ends at e^-87
    weights["model.norm.weight"] *= factor
    found = models.logits(weights, x.ids_T, x.position_T)
    models.near(found, factor * plain, f"final gain times {factor}")


def _head_rows(models: Models, x: Drawn) -> None:
    weights = x.weights()
    plain = models.logits(weights, x.ids_T, x.position_T)
    weights["lm_head.weight"] = weights["lm_head.weight"][x.order_W]
    found = models.logits(weights, x.ids_T, x.position_T)
    models.near(found, plain[:, x.order_W], "rows of the head reordered")


def _normed_input(models: Models, x: Drawn) -> None:
    """What reads the second norm sees a larger gain and smaller weights."""
    weights, factor = x.weights(), 2**x.power
    plain = models.logits(weights, x.ids_T, x.position_T)
    scale(weights, "post_attention_layernorm.weight", factor)
    for ending in ("mlp.gate.weight", "gate_proj.weight", "up_proj.weight"):
        scale(weights, ending, 1 / factor)
    found = models.logits(weights, x.ids_T, x.position_T)
    models.near(found, plain, f"second gain times {factor}, its readers divided by it")


def _prefix(models: Models, x: Drawn) -> None:
    weights, cut = x.weights(), x.cut
    found = models.logits(weights, x.ids_T[:cut], x.position_T[:cut])
    whole = models.logits(weights, x.ids_T, x.position_T)
    models.near(found, whole[:cut], f"the first {cut} tokens alone")


def _powers(*powers: int) -> p.Inputs:
    return p.prompt(power=st.sampled_from(powers))


MOVED = p.model(
    ids_T=p.ids(p.T), position_T=p.places(p.T), other_T=p.places(p.T, ("far", "scattered"))
)
SHIFTED = p.model(
    ids_T=p.ids(p.T),
    position_T=p.places(p.T, ("apart", "first")),
    shift=st.sampled_from((8192, 1, 77, 1024)),
)
BEGUN = p.begun(p.T, position_T=p.places(p.T))
EXPERTS = p.prompt(order_E=p.orders(TINY.n_routed_experts))
HEAD = p.prompt(order_W=p.orders(TINY.vocab_size))

LAWS = [
    ModelLaw(13, "positions-shift", "model:long-positions", SHIFTED, _shifted),
    ModelLaw(14, "no-rope-no-positions", "model:structure", MOVED, _no_rope),
    ModelLaw(15, "model-prefix", "model:structure", BEGUN, _prefix),
    ModelLaw(21, "model-heads", "model:relabelling", p.prompt(), _heads),
    ModelLaw(22, "query-latent-is-normed", "model:structure", _powers(2, 1, 8), _query_norm),
    ModelLaw(23, "latent-is-normed", "model:structure", _powers(2, 1, 8), _latent_norm),
    ModelLaw(30, "model-experts", "model:relabelling", EXPERTS, _renumbered),
    ModelLaw(35, "shared-counts-once", "model:structure", p.prompt(), _shared_counts_once),
    ModelLaw(39, "silent-blocks", "model:structure", _powers(17, 12, -8), _residual),
    ModelLaw(39, "every-layer-counts", "model:structure", p.prompt(), _every_layer_counts),
    ModelLaw(39, "normed-input", "model:structure", _powers(1, 4, -4), _normed_input),
    ModelLaw(40, "final-gain", "model:structure", _powers(6, 1, 3), _gain_is_linear),
    ModelLaw(41, "head-rows", "model:relabelling", HEAD, _head_rows),
]
