"""The tensors a checkpoint must hold: every name with its shape, from the config alone.

Names and shapes are those of the published files; linear weights are stored [out, in]. A linear
module `m` has one of three forms:

    plain   m.weight                                                   bf16 or float32
    int4    m.weight_packed int32, m.weight_scale bf16, m.weight_shape any integer type
    fp8     m.weight e4m3, m.weight_scale_inv float32 per block
"""

from collections.abc import Iterator
from typing import NamedTuple

from k2ref.config import Config


class Tensor(NamedTuple):
    """One tensor: name without prefix, shape, and whether a linear module owns it."""

    name: str
    shape: tuple[int, ...]
    linear: bool = False

    @property
    def module(self) -> str:
        """The name of the module the weight belongs to."""
        return self.name.removesuffix(".weight")


def tensors(config: Config) -> Iterator[Tensor]:
    """List all tensors as if none were quantised: config -> tensors, in the order of use."""
    D, W = config.hidden_size, config.vocab_size
    yield Tensor("model.embed_tokens.weight", (W, D))
    for layer in range(config.num_hidden_layers):
        yield from layer_tensors(config, layer)
    yield Tensor("model.norm.weight", (D,))
    if not config.tie_word_embeddings:
        yield Tensor("lm_head.weight", (W, D))


def layer_tensors(config: Config, layer: int) -> Iterator[Tensor]:
    """List the tensors of one layer: config, layer -> tensors."""
    base, D = f"model.layers.{layer}", config.hidden_size
    yield Tensor(f"{base}.input_layernorm.weight", (D,))
    yield from _attention(config, f"{base}.self_attn")
    yield Tensor(f"{base}.post_attention_layernorm.weight", (D,))
    if not config.is_sparse(layer):
        yield from _feed_forward(f"{base}.mlp", D, config.intermediate_size)
        return
    E, F = config.n_routed_experts, config.moe_intermediate_size
    yield Tensor(f"{base}.mlp.gate.weight", (E, D))
    yield Tensor(f"{base}.mlp.gate.e_score_correction_bias", (E,))
    if config.n_shared_experts:
        yield from _feed_forward(f"{base}.mlp.shared_experts", D, F * config.n_shared_experts)
    for expert in range(E):
        yield from _feed_forward(f"{base}.mlp.experts.{expert}", D, F)


def _attention(config: Config, base: str) -> Iterator[Tensor]:
    D, H, C = config.hidden_size, config.num_attention_heads, config.kv_lora_rank
    N, R, V = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
    if config.q_lora_rank is None:
        yield Tensor(f"{base}.q_proj.weight", (H * (N + R), D), linear=True)
    else:
        Q = config.q_lora_rank
        yield Tensor(f"{base}.q_a_proj.weight", (Q, D), linear=True)
        yield Tensor(f"{base}.q_a_layernorm.weight", (Q,))
        yield Tensor(f"{base}.q_b_proj.weight", (H * (N + R), Q), linear=True)
    yield Tensor(f"{base}.kv_a_proj_with_mqa.weight", (C + R, D), linear=True)
    yield Tensor(f"{base}.kv_a_layernorm.weight", (C,))
    yield Tensor(f"{base}.kv_b_proj.weight", (H * (N + V), C), linear=True)
    yield Tensor(f"{base}.o_proj.weight", (D, H * V), linear=True)


def _feed_forward(base: str, width: int, inner: int) -> Iterator[Tensor]:
    yield Tensor(f"{base}.gate_proj.weight", (inner, width), linear=True)
    yield Tensor(f"{base}.up_proj.weight", (inner, width), linear=True)
    yield Tensor(f"{base}.down_proj.weight", (width, inner), linear=True)


def parameters(config: Config) -> tuple[int, int]:
    """Count parameters: config -> total, active for one token (embeddings and head included)."""
    total = active = 0
    for tensor in tensors(config):
        size = 1
        for length in tensor.shape:
            size *= length
        total += size
        active += 0 if ".mlp.experts." in tensor.name else size
    expert = 3 * config.hidden_size * config.moe_intermediate_size
    sparse = sum(config.is_sparse(layer) for layer in range(config.num_hidden_layers))
    return total, active + sparse * config.num_experts_per_tok * expert
