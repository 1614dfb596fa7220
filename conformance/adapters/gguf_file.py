"""A checkpoint as a GGUF file of the architecture `deepseek2`, without losing a bit.

`f32` dequantises exactly. `q4_0` repacks INT4: both formats hold code + 8 in a nibble and one scale
per 32 columns, in another order and with a float16 scale instead of bfloat16. That conversion is
exact where a scale is 0 or in 2⁻¹⁷ … 65504, which is checked for every one.

Reading such a file is another matter: llama.cpp multiplies Q4_0 with activations of 8 bits.
"""

from pathlib import Path
from typing import Any

import numpy as np

from conformance.engine import NotOffered
from k2ref import Checkpoint, InputError
from k2ref.config import Config
from k2ref.oracle import Int4, Weight, dense, int4_dequantize, int4_unpack, split_kv_b

try:
    import gguf
except ImportError as error:
    raise InputError(
        f"writing GGUF needs gguf ({error}): python -m pip install 'k2ref[peers-llama]'"
    ) from None

BLOCK = 32
PLAIN = {
    "attn_norm": "input_layernorm",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
LINEAR = {
    "attn_q": "self_attn.q_proj",
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_output": "self_attn.o_proj",
}


def write_gguf(directory: Path, target: Path, *, experts: str = "f32") -> None:
    """Write a checkpoint as GGUF: directory, target. Experts as f32 or q4_0, the rest as f32."""
    if experts not in ("f32", "q4_0"):
        raise InputError(f"experts must be f32 or q4_0, got {experts!r}")
    checkpoint = Checkpoint(directory)
    writer = gguf.GGUFWriter(target, "deepseek2")
    _write_keys(writer, checkpoint.config)
    _write_vocabulary(writer, checkpoint.config)
    _add(writer, "token_embd.weight", checkpoint["model.embed_tokens.weight"])
    _add(writer, "output_norm.weight", checkpoint["model.norm.weight"])
    tied = checkpoint.config.tie_word_embeddings
    _add(
        writer,
        "output.weight",
        checkpoint["model.embed_tokens.weight" if tied else "lm_head.weight"],
    )
    for layer in range(checkpoint.config.num_hidden_layers):
        _write_layer(writer, checkpoint, layer, packed=experts == "q4_0")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def repack_q4_0(weight: Int4) -> np.ndarray:
    """Turn packed INT4 into blocks of Q4_0: weight -> blocks, 18 bytes for 32 columns of a row.

    Raises:
        InputError: groups that are not 32 wide, or a scale that float16 cannot hold.
    """
    M, L = len(weight.packed_MP), weight.columns
    if weight.group_size != BLOCK or L % BLOCK:
        raise InputError(
            f"Q4_0 needs groups of {BLOCK} and full rows, got {weight.group_size}, {L}"
        )
    scale_MG = weight.scale_MG.astype(np.float32)
    half_MG = scale_MG.astype(np.float16)
    if (half_MG.astype(np.float32) != scale_MG).any():
        raise InputError("a scale does not fit float16: Q4_0 would change the weights")
    stored = (int4_unpack(weight.packed_MP, L) + 8).astype(np.uint8).reshape(M, -1, BLOCK)
    nibbles = stored[:, :, : BLOCK // 2] | stored[:, :, BLOCK // 2 :] << 4
    blocks = np.concatenate([half_MG[:, :, None].view(np.uint8), nibbles], axis=2).reshape(M, -1)
    exact = int4_dequantize(weight.packed_MP, weight.scale_MG, L)
    assert (gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q4_0) == exact).all()
    return blocks


def _write_keys(writer: Any, config: Config) -> None:
    C, R = config.kv_lora_rank, config.qk_rope_head_dim
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if config.q_lora_rank is not None:
        writer.add_q_lora_rank(config.q_lora_rank)
    writer.add_kv_lora_rank(C)
    writer.add_key_length(C + R)
    writer.add_value_length(C)
    writer.add_key_length_mla(config.qk_nope_head_dim + R)
    writer.add_value_length_mla(config.v_head_dim)
    writer.add_leading_dense_block_count(config.first_k_dense_replace)
    writer.add_expert_count(config.n_routed_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_shared_count(config.n_shared_experts)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_expert_weights_scale(config.routed_scaling_factor)
    writer.add_expert_weights_norm(config.norm_topk_prob)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_expert_group_count(config.n_group)
    writer.add_expert_group_used_count(config.topk_group)
    _write_rope(writer, config)


def _write_rope(writer: Any, config: Config) -> None:
    rope = config.rope
    writer.add_rope_dimension_count(config.qk_rope_head_dim)
    writer.add_rope_freq_base(rope.rope_theta)
    if rope.factor == 1.0:
        return
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope.factor)
    writer.add_rope_scaling_orig_ctx_len(rope.original_max_position_embeddings)
    writer.add_rope_scaling_yarn_log_mul(0.1 * rope.mscale_all_dim)
    writer.add_rope_scaling_yarn_beta_fast(rope.beta_fast)
    writer.add_rope_scaling_yarn_beta_slow(rope.beta_slow)


def _write_vocabulary(writer: Any, config: Config) -> None:
    """Write one made-up word per id: the engine is asked with ids, but insists on a vocabulary."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("kimi-k2")
    writer.add_token_list([f"w{id_}" for id_ in range(config.vocab_size)])
    types = [gguf.TokenType.NORMAL] * config.vocab_size
    for stop in config.stops[:1]:  # the format holds one
        types[stop] = gguf.TokenType.CONTROL
        writer.add_eos_token_id(stop)
    writer.add_token_types(types)
    writer.add_token_merges(["w 0"])
    writer.add_add_bos_token(False)


def _write_layer(writer: Any, checkpoint: Checkpoint, layer: int, *, packed: bool) -> None:
    config, base = checkpoint.config, f"model.layers.{layer}"
    for name, tensor in PLAIN.items():
        if config.q_lora_rank is not None or name != "attn_q_a_norm":
            _add(writer, f"blk.{layer}.{name}.weight", checkpoint[f"{base}.{tensor}.weight"])
    absent = {"attn_q"} if config.q_lora_rank is not None else {"attn_q_a", "attn_q_b"}
    for name in LINEAR.keys() - absent:
        _add(writer, f"blk.{layer}.{name}.weight", checkpoint.weight(f"{base}.{LINEAR[name]}"))
    kv_b = dense(checkpoint.weight(f"{base}.self_attn.kv_b_proj"))
    w_uk_HNC, w_uv_HVC = split_kv_b(kv_b, config.num_attention_heads, config.qk_nope_head_dim)
    _add(writer, f"blk.{layer}.attn_k_b.weight", w_uk_HNC.transpose(0, 2, 1))
    _add(writer, f"blk.{layer}.attn_v_b.weight", w_uv_HVC)
    if not config.is_sparse(layer):
        for part in ("gate", "up", "down"):
            _add(
                writer,
                f"blk.{layer}.ffn_{part}.weight",
                checkpoint.weight(f"{base}.mlp.{part}_proj"),
            )
        return
    gate = f"{base}.mlp.gate"
    _add(writer, f"blk.{layer}.ffn_gate_inp.weight", checkpoint[f"{gate}.weight"])
    _add(writer, f"blk.{layer}.exp_probs_b.bias", checkpoint[f"{gate}.e_score_correction_bias"])
    for part in ("gate", "up", "down"):
        _write_experts(writer, checkpoint, layer, part, packed=packed)
        if config.n_shared_experts:
            shared = checkpoint.weight(f"{base}.mlp.shared_experts.{part}_proj")
            _add(writer, f"blk.{layer}.ffn_{part}_shexp.weight", shared)


def _write_experts(
    writer: Any, checkpoint: Checkpoint, layer: int, part: str, *, packed: bool
) -> None:
    base = f"model.layers.{layer}.mlp.experts"
    experts = range(checkpoint.config.n_routed_experts)
    weights = [checkpoint.weight(f"{base}.{e}.{part}_proj") for e in experts]
    name = f"blk.{layer}.ffn_{part}_exps.weight"
    if not packed:
        writer.add_tensor(name, np.stack([dense(w).astype(np.float32) for w in weights]))
        return
    packed_weights = [w for w in weights if isinstance(w, Int4)]
    if len(packed_weights) != len(weights):
        raise NotOffered("q4_0 repacks INT4 experts; this checkpoint's are not INT4")
    blocks = np.stack([repack_q4_0(w) for w in packed_weights])
    writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_0)


def _add(writer: Any, name: str, weight: Weight) -> None:
    writer.add_tensor(name, np.ascontiguousarray(dense(weight), np.float32))
