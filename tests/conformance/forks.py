"""Bugs planted in transformers, as a fork would have them: source that changes its module.

Each has the tensor where it is made and the public thread of an engine that shipped it.
"""

from typing import NamedTuple


class Fork(NamedTuple):
    """One bug: the first wrong tensor, where it was seen, and the source that plants it."""

    tap: str
    seen: str
    source: str


HEAD = """
import torch
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as m
"""
GATE = (
    HEAD
    + """
right = m.DeepseekV3TopkRouter.forward
def forward(self, hidden_states):
    logits, weights, experts = right(self, hidden_states)
    {change}
    return logits, weights, experts
m.DeepseekV3TopkRouter.forward = forward
"""
)
INIT = (
    HEAD
    + """
right = m.DeepseekV3Attention.__init__
def init(self, config, layer_idx):
    right(self, config, layer_idx)
    {change}
m.DeepseekV3Attention.__init__ = init
"""
)
ROTARY = (
    HEAD
    + """
right = m.DeepseekV3RotaryEmbedding.__init__
def init(self, config):
    right(self, config)
    {change}
m.DeepseekV3RotaryEmbedding.__init__ = init
"""
)
PLAIN = "self.inv_freq = m.DeepseekV3RotaryEmbedding.compute_default_rope_parameters(config)[0]"

FORKS = {
    "rs2": Fork(
        "L1.moe.router.weights",
        "vllm-project/vllm#24119",
        GATE.format(change="weights = weights * self.routed_scaling_factor"),
    ),
    "no_rs": Fork(
        "L1.moe.router.weights",
        "sgl-project/sglang#8040",
        GATE.format(change="weights = weights / self.routed_scaling_factor"),
    ),
    "bias_w": Fork(
        "L1.moe.router.weights",
        "huggingface/transformers#41647",
        GATE.format(
            change="biased = logits.sigmoid() + self.e_score_correction_bias; "
            "weights = biased.gather(1, experts); "
            "weights = weights / weights.sum(-1, keepdim=True) * self.routed_scaling_factor"
        ),
    ),
    "no_bias": Fork(
        "L1.moe.router.experts",
        "NVIDIA/TensorRT-Model-Connect#669",
        GATE.format(change="experts = logits.topk(self.top_k)[1]"),
    ),
    "softmax": Fork(
        "L1.moe.router.weights",
        "NVIDIA/TensorRT-Model-Connect#669",
        GATE.format(
            change="weights = logits.softmax(-1).gather(1, experts); "
            "weights = weights / weights.sum(-1, keepdim=True) * self.routed_scaling_factor"
        ),
    ),
    "router_bf16": Fork(
        "L1.moe.router.logits",
        "sgl-project/sglang#38695",
        GATE.format(change="logits = logits.bfloat16().float()"),
    ),
    "halfsplit": Fork(
        "L0.attn.q_rope",
        "ml-explore/mlx-lm#512",
        HEAD + "m.apply_rotary_pos_emb_interleave = m.apply_rotary_pos_emb\n",
    ),
    "sin_neg": Fork(
        "L0.attn.q_rope",
        "catalogue, no thread",
        HEAD
        + "right = m.apply_rotary_pos_emb_interleave\n"
        + "m.apply_rotary_pos_emb_interleave = lambda q, k, c, s: right(q, k, c, -s)\n",
    ),
    "noyarn": Fork("L0.attn.q_rope", "radixark/miles#335", ROTARY.format(change=PLAIN)),
    "beta_fast": Fork(
        "L0.attn.q_rope",
        "ikawrakow/ik_llama.cpp#1298",
        ROTARY.format(
            change="from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS as R; "
            "config.rope_parameters['beta_fast'] = 32.0; self.inv_freq = R['yarn'](config)[0]"
        ),
    ),
    "mscale_rope": Fork(
        "L0.attn.q_rope", "kekzl/imp#880", ROTARY.format(change="self.attention_scaling = 1.261")
    ),
    "no_mscale": Fork(
        "L0.attn.heads",
        "huggingface/transformers#47435",
        INIT.format(change="self.scaling = self.qk_head_dim ** -0.5"),
    ),
    "kvb_swap": Fork(
        "L0.attn.heads",
        "facts, section 3.3",
        HEAD
        + "right = m.DeepseekV3Attention.expand_kv\n"
        + "def expand_kv(self, latent, k_rot):\n"
        + "    key, value = right(self, latent, k_rot)\n"
        + "    N = self.qk_nope_head_dim\n"
        + "    return torch.cat((value, key[..., N:]), -1), key[..., :N].contiguous()\n"
        + "m.DeepseekV3Attention.expand_kv = expand_kv\n",
    ),
    "eps1e-5": Fork(
        "L0.attn.q_latent",
        "spec question: vLLM's answer",
        INIT.format(
            change="for norm in (self.q_a_layernorm, self.kv_a_layernorm): "
            "norm.variance_epsilon = 1e-2"
        ),
    ),
    "no_kvnorm": Fork(
        "L0.attn.latent",
        "catalogue, no thread",
        INIT.format(change="self.kv_a_layernorm.forward = lambda x: x"),
    ),
    "gain1p": Fork(
        "L0.attn.norm",
        "catalogue, no thread",
        HEAD
        + "right = m.DeepseekV3RMSNorm.forward\n"
        + "m.DeepseekV3RMSNorm.forward = lambda self, x: right(self, x) * (1 + self.weight)"
        + " / self.weight\n",
    ),
    "gelu": Fork(
        "L0.ffn.out",
        "catalogue, no thread",
        HEAD
        + "right = m.DeepseekV3MLP.__init__\n"
        + "def init(self, *args, **kwargs):\n"
        + "    right(self, *args, **kwargs)\n"
        + "    self.act_fn = torch.nn.GELU()\n"
        + "m.DeepseekV3MLP.__init__ = init\n",
    ),
    "gate_up": Fork(
        "L1.moe.routed",
        "catalogue, no thread",
        HEAD
        + "right = m.DeepseekV3Experts.forward\n"
        + "def forward(self, x, experts, weights):\n"
        + "    gate, up = self.gate_up_proj.data.chunk(2, 1)\n"
        + "    kept, self.gate_up_proj.data = self.gate_up_proj.data, torch.cat((up, gate), 1)\n"
        + "    try: return right(self, x, experts, weights)\n"
        + "    finally: self.gate_up_proj.data = kept\n"
        + "m.DeepseekV3Experts.forward = forward\n",
    ),
    "no_shared": Fork(
        "L1.ffn.out",
        "catalogue, no thread",
        HEAD
        + "right = m.DeepseekV3MoE.forward\n"
        + "m.DeepseekV3MoE.forward = lambda self, x: right(self, x) - self.shared_experts(x)\n",
    ),
    "shared_rs": Fork(
        "L1.ffn.out",
        "catalogue, no thread",
        HEAD
        + "right = m.DeepseekV3MoE.forward\n"
        + "m.DeepseekV3MoE.forward = lambda self, x: right(self, x) + 1.827 * "
        + "self.shared_experts(x)\n",
    ),
}
