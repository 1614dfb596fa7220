"""Shapes by name: the published models, and small ones with every mechanism of theirs."""

import dataclasses

from k2ref.config import KIMI_VOCABULARY, Config, Rope
from k2ref.quantization import fp8_config, int4_config, read_quantization

_YARN_32 = Rope(50000.0, 32.0, 4096, 1.0, 1.0, 1.0, 1.0)
_YARN_64 = dataclasses.replace(_YARN_32, factor=64.0)

K2_INSTRUCT = Config(
    model_type="kimi_k2",
    vocab_size=KIMI_VOCABULARY,
    hidden_size=7168,
    num_hidden_layers=61,
    first_k_dense_replace=1,
    intermediate_size=18432,
    moe_intermediate_size=2048,
    n_routed_experts=384,
    num_experts_per_tok=8,
    n_shared_experts=1,
    num_attention_heads=64,
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    rms_norm_eps=1e-6,
    routed_scaling_factor=2.827,
    max_position_embeddings=131072,
    rope=_YARN_32,
    bos_token_id=163584,
    eos_token_ids=(163585,),
    quantization=read_quantization(fp8_config()),
)
K2_THINKING = dataclasses.replace(
    K2_INSTRUCT,
    rms_norm_eps=1e-5,
    max_position_embeddings=262144,
    rope=_YARN_64,
    eos_token_ids=(163586,),
    quantization=read_quantization(int4_config()),
)
K2_5 = dataclasses.replace(
    K2_THINKING,
    model_type="kimi_k25",
    rope=dataclasses.replace(_YARN_64, beta_fast=32.0),
    eos_token_ids=(163585,),
    prefix="language_model.",
)
# Every mechanism of the family in 4 layers; `deepseek_v3` so that other libraries load it.
NANO = dataclasses.replace(
    K2_THINKING,
    model_type="deepseek_v3",
    vocab_size=1024,
    hidden_size=256,
    num_hidden_layers=4,
    intermediate_size=512,
    moe_intermediate_size=64,
    n_routed_experts=64,
    num_attention_heads=4,
    q_lora_rank=96,
    kv_lora_rank=64,
    qk_nope_head_dim=32,
    qk_rope_head_dim=16,
    v_head_dim=32,
    rms_norm_eps=1e-6,
    bos_token_id=1,
    eos_token_ids=(2,),
)
# The widths that kernels are written for, at a size that fits a laptop.
KERNEL = dataclasses.replace(
    NANO,
    hidden_size=1024,
    num_hidden_layers=2,
    intermediate_size=2048,
    moe_intermediate_size=256,
    n_routed_experts=32,
    q_lora_rank=384,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
)
# One sparse layer of the real width; a small vocabulary keeps the file at the size of the layer.
THINKING_LAYER = dataclasses.replace(
    K2_THINKING,
    vocab_size=4096,
    num_hidden_layers=1,
    first_k_dense_replace=0,
    bos_token_id=1,
    eos_token_ids=(2,),
)
PRESETS = {
    "nano": NANO,
    "kernel": KERNEL,
    "thinking-layer": THINKING_LAYER,
    "instruct": K2_INSTRUCT,
    "thinking": K2_THINKING,
    "k2.5": K2_5,
}
