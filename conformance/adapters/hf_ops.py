"""Single operations through the modules of transformers and compressed-tensors.

Names and arguments are those of `k2ref.oracle`. What the library has no function for is not here;
an argument that it has no switch for is `NotOffered`.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as modeling

from conformance.adapters.torch_arrays import interleave, to_numpy, to_torch
from conformance.engine import NotOffered
from k2ref.oracle import Expert, Routing, Weight, dense


def _only(offered: bool, what: str) -> None:
    if not offered:
        raise NotOffered(f"transformers has no switch for {what}")


def rms_norm(
    x_TD: np.ndarray, gain_D: np.ndarray, eps: float, *, round_before_gain: bool = True
) -> np.ndarray:
    """Run DeepseekV3RMSNorm: x_TD, gain_D -> out_TD."""
    _only(round_before_gain or x_TD.dtype.itemsize >= 4, "rounding after the gain")
    norm = modeling.DeepseekV3RMSNorm(x_TD.shape[-1], eps)
    norm.weight = torch.nn.Parameter(to_torch(gain_D.astype(x_TD.dtype)))
    return to_numpy(norm(to_torch(x_TD)))


def linear(x_TL: np.ndarray, w_ML: np.ndarray) -> np.ndarray:
    """Multiply: x_TL, w_ML -> out_TM."""
    return to_numpy(torch.nn.functional.linear(to_torch(x_TL), to_torch(w_ML.astype(x_TL.dtype))))


def silu(x: np.ndarray) -> np.ndarray:
    """Run the activation: x -> out."""
    return to_numpy(ACT2FN["silu"](to_torch(x)))


def rotate(
    x: np.ndarray, angle_TZ: np.ndarray, *, amplitude: float = 1.0, rope_dtype: Any = None
) -> np.ndarray:
    """Turn pairs with apply_rotary_pos_emb_interleave: x, angle_TZ -> out, in pairs."""
    _only(rope_dtype is None or np.dtype(rope_dtype) == x.dtype, "another precision of cosines")
    _only(angle_TZ.dtype == np.float32, "angles that are not float32")
    tensor, angle = to_torch(x), to_torch(angle_TZ)
    both = torch.cat((angle, angle), dim=-1)
    cos, sin = ((f * amplitude).to(tensor.dtype)[None] for f in (both.cos(), both.sin()))
    heads = tensor[None, None] if x.ndim == 2 else tensor.transpose(0, 1)[None]
    turned, _ = modeling.apply_rotary_pos_emb_interleave(heads, heads, cos, sin)
    pairs = interleave(turned)[0]
    return to_numpy(pairs[0] if x.ndim == 2 else pairs.transpose(0, 1))


def yarn_inv_freq(
    rope_width: int,
    base: float,
    *,
    factor: float = 1.0,
    original_positions: int = 4096,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    dtype: Any = np.float64,
) -> np.ndarray:
    """Compute frequencies as the library does: scalars -> inv_freq_Z float32, whatever dtype."""
    rope = {"rope_theta": base, "rope_type": "yarn", "factor": factor, "beta_fast": beta_fast}
    rope |= {"original_max_position_embeddings": original_positions, "beta_slow": beta_slow}
    config = transformers.DeepseekV3Config(
        qk_rope_head_dim=rope_width,
        max_position_embeddings=int(original_positions * factor),
        rope_parameters=rope if factor != 1.0 else {"rope_theta": base, "rope_type": "default"},
    )
    if factor == 1.0:
        return to_numpy(
            modeling.DeepseekV3RotaryEmbedding.compute_default_rope_parameters(config)[0]
        )
    return to_numpy(ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")[0])


def yarn_mscale(factor: float, mscale: float) -> float:
    """Compute YaRN's m: factor, mscale -> m."""
    return float(modeling.yarn_get_mscale(factor, mscale))


def router_logits(x_TD: np.ndarray, w_ED: np.ndarray, *, in_float32: bool = True) -> np.ndarray:
    """Score experts with DeepseekV3TopkRouter: x_TD, w_ED -> logits_TE."""
    _only(in_float32, "a router in another precision than float32")
    gate = _gate(w_ED.astype(np.float32), np.zeros(len(w_ED), np.float32), top_k=1)
    return to_numpy(gate(to_torch(x_TD))[0])


def route(
    logits_TE: np.ndarray,
    bias_E: np.ndarray,
    *,
    top_k: int,
    scale: float,
    n_group: int = 1,
    topk_group: int = 1,
    renormalise: bool = True,
    renorm_eps: float = 1e-20,
    mask_fill: float = -np.inf,
    tie_rule: str = "lower_index",
) -> Routing:
    """Choose with DeepseekV3TopkRouter: logits_TE, bias_E -> experts_TK, weights_TK."""
    _only(mask_fill == -np.inf, "another fill than -inf")
    _only(renorm_eps == 1e-20, "another renorm_eps than 1e-20")
    E = len(bias_E)
    gate = _gate(  # an identity hands the logits through exactly
        np.eye(E, dtype=np.float32),
        bias_E,
        top_k=top_k,
        scale=scale,
        n_group=n_group,
        topk_group=topk_group,
        renormalise=renormalise,
    )
    _, weights_TK, experts_TK = gate(to_torch(logits_TE.astype(np.float32)))
    return Routing(to_numpy(experts_TK), to_numpy(weights_TK))


def _gate(
    w_ED: np.ndarray,
    bias_E: np.ndarray,
    *,
    top_k: int,
    scale: float = 1.0,
    n_group: int = 1,
    topk_group: int = 1,
    renormalise: bool = True,
) -> Any:
    E, D = w_ED.shape
    config = transformers.DeepseekV3Config(
        hidden_size=D,
        n_routed_experts=E,
        num_experts_per_tok=top_k,
        routed_scaling_factor=scale,
        n_group=n_group if 2 * n_group <= E else 1,
        topk_group=topk_group,
        norm_topk_prob=renormalise,
    )
    gate = modeling.DeepseekV3TopkRouter(config)
    gate.weight = torch.nn.Parameter(to_torch(w_ED))
    gate.e_score_correction_bias = to_torch(bias_E.astype(np.float32))
    return gate


def expert_ffn(x_TD: np.ndarray, expert: Expert, *, dequant: str = "exact") -> np.ndarray:
    """Run DeepseekV3MLP: x_TD, expert -> out_TD."""
    gate_FD, up_FD, down_DF = (_dense(w, x_TD.dtype, dequant) for w in expert)
    F, D = gate_FD.shape
    mlp = modeling.DeepseekV3MLP(transformers.DeepseekV3Config(hidden_size=D), F)
    for module, weight in zip(
        (mlp.gate_proj, mlp.up_proj, mlp.down_proj), (gate_FD, up_FD, down_DF), strict=True
    ):
        module.weight = torch.nn.Parameter(weight)
    return to_numpy(mlp(to_torch(x_TD)))


def moe(x_TD: np.ndarray, routing: Routing, experts: Any, *, dequant: str = "exact") -> np.ndarray:
    """Run DeepseekV3Experts: x_TD, routing, experts -> out_TD."""
    used, place = np.unique(routing.experts_TK, return_inverse=True)
    triples = [[_dense(w, x_TD.dtype, dequant) for w in experts[int(e)]] for e in used]
    F, D = triples[0][0].shape
    config = transformers.DeepseekV3Config(
        hidden_size=D, moe_intermediate_size=F, n_routed_experts=len(used)
    )
    config._experts_implementation = "eager"
    module = modeling.DeepseekV3Experts(config)
    stacked = torch.stack([torch.cat((gate, up)) for gate, up, _ in triples])
    module.gate_up_proj = torch.nn.Parameter(stacked)
    module.down_proj = torch.nn.Parameter(torch.stack([down for _, _, down in triples]))
    index = torch.from_numpy(place.reshape(routing.experts_TK.shape).astype(np.int64))
    weights = to_torch(routing.weights_TK.astype(np.float32))
    return to_numpy(module(to_torch(x_TD), index, weights))


def _dense(weight: Weight, dtype: Any, dequant: str) -> Any:
    return to_torch(dense(weight, dequant=dequant).astype(dtype))  # type: ignore[arg-type]


def attend_expanded(
    q_nope_THN: np.ndarray,
    q_rope_THR: np.ndarray,
    latent_SC: np.ndarray,
    key_rope_SR: np.ndarray,
    *,
    w_uk_HNC: np.ndarray,
    w_uv_HVC: np.ndarray,
    scale: float,
    first_query: int,
    block: int = 64,
) -> np.ndarray:
    """Run expand_kv and eager attention: queries, latent_SC, key_rope_SR -> out_THV."""
    (_, N, C), V = w_uk_HNC.shape, w_uv_HVC.shape[1]
    (T, _, R), S = q_rope_THR.shape, len(latent_SC)
    dtype = latent_SC.dtype
    kv_b = to_torch(np.concatenate([w_uk_HNC, w_uv_HVC], axis=1).reshape(-1, C).astype(dtype))
    attention = SimpleNamespace(
        kv_b_proj=lambda latent: torch.nn.functional.linear(latent, kv_b),
        qk_nope_head_dim=N,
        qk_rope_head_dim=R,
        v_head_dim=V,
        num_key_value_groups=1,
        training=False,
    )
    latent = to_torch(latent_SC).view(1, 1, S, C)
    key, value = modeling.DeepseekV3Attention.expand_kv(
        attention, latent, to_torch(key_rope_SR).view(1, 1, S, R)
    )
    query = to_torch(np.concatenate([q_nope_THN, q_rope_THR], axis=2)).transpose(0, 1)[None]
    later = torch.arange(S)[None] > first_query + torch.arange(T)[:, None]
    mask = torch.zeros(1, 1, T, S, dtype=query.dtype)
    mask.masked_fill_(later, torch.finfo(query.dtype).min)
    out, _ = modeling.eager_attention_forward(attention, query, key, value, mask, scaling=scale)
    return to_numpy(out[0])


def int4_pack(codes_ML: np.ndarray) -> np.ndarray:
    """Pack with compressed-tensors: codes_ML -> packed_MP int32."""
    return to_numpy(pack_to_int32(to_torch(codes_ML.astype(np.int8)), 4))


def int4_unpack(packed_MP: np.ndarray, columns: int) -> np.ndarray:
    """Unpack with compressed-tensors: packed_MP int32 -> codes_ML int8."""
    shape = torch.Size((len(packed_MP), columns))
    return to_numpy(unpack_from_int32(to_torch(packed_MP), 4, shape))


def int4_dequantize(
    packed_MP: np.ndarray,
    scale_MG: np.ndarray,
    columns: int,
    *,
    group_size: int = 32,
    dequant: str = "exact",
) -> np.ndarray:
    """Dequantise with compressed-tensors: packed_MP, scale_MG -> w_ML float32."""
    _only(columns % group_size == 0, "a last group that is not full")
    codes_ML = to_torch(int4_unpack(packed_MP, columns))
    rule = QuantizationArgs(num_bits=4, symmetric=True, strategy="group", group_size=group_size)
    dtype = torch.bfloat16 if dequant == "bf16" else torch.float32
    scale = to_torch(scale_MG.astype(np.float32)).to(dtype)
    return to_numpy(dequantize(codes_ML, scale, args=rule, dtype=dtype).float())


OPERATIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        attend_expanded,
        expert_ffn,
        int4_dequantize,
        int4_pack,
        int4_unpack,
        linear,
        moe,
        rms_norm,
        rotate,
        route,
        router_logits,
        silu,
        yarn_inv_freq,
        yarn_mscale,
    )
}


def without_gradients(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run a function as inference does: function -> function."""
    return torch.no_grad()(function)
