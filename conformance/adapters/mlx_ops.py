"""Single operations through mlx and mlx-lm, float32 on the CPU.

Names and arguments are those of `k2ref.oracle`. mlx rotates from an offset instead of by angles,
and mlx-lm keeps its attention inside one module: neither is offered as an operation.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx_lm.models import deepseek_v3
from mlx_lm.models.activations import swiglu as fused_swiglu
from mlx_lm.models.rope_utils import YarnRoPE

from conformance.engine import NotOffered
from k2ref.oracle import Routing


def _only(offered: bool, what: str) -> None:
    if not offered:
        raise NotOffered(f"mlx-lm has no switch for {what}")


def _array(x: np.ndarray) -> Any:
    return mx.array(x.astype(np.float32))


def rms_norm(
    x_TD: np.ndarray, gain_D: np.ndarray, eps: float, *, round_before_gain: bool = True
) -> np.ndarray:
    """Run nn.RMSNorm: x_TD, gain_D -> out_TD."""
    norm = nn.RMSNorm(x_TD.shape[-1], eps)
    norm.weight = _array(gain_D)
    return np.array(norm(_array(x_TD)))


def linear(x_TL: np.ndarray, w_ML: np.ndarray) -> np.ndarray:
    """Multiply: x_TL, w_ML -> out_TM."""
    return np.array(_array(x_TL) @ _array(w_ML).T)


def silu(x: np.ndarray) -> np.ndarray:
    """Run nn.silu: x -> out."""
    return np.array(nn.silu(_array(x)))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Run mx.softmax: logits -> probabilities."""
    return np.array(mx.softmax(_array(logits), axis=-1, precise=True))


def swiglu(gate_TF: np.ndarray, up_TF: np.ndarray) -> np.ndarray:
    """Run mlx-lm's swiglu: gate_TF, up_TF -> out_TF."""
    return np.array(fused_swiglu(_array(gate_TF), _array(up_TF)))


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
    """Compute frequencies with YarnRoPE: scalars -> inv_freq_Z float32, whatever dtype."""
    rope = YarnRoPE(
        rope_width,
        base=base,
        scaling_factor=factor,
        original_max_position_embeddings=original_positions,
        beta_fast=beta_fast,
        beta_slow=beta_slow,
    )
    return 1 / np.array(rope._freqs)


def router_logits(x_TD: np.ndarray, w_ED: np.ndarray, *, in_float32: bool = True) -> np.ndarray:
    """Score experts as MoEGate does: x_TD, w_ED -> logits_TE."""
    return linear(x_TD, w_ED)


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
    """Choose with group_expert_select: logits_TE, bias_E -> experts_TK, weights_TK."""
    _only(n_group == 1 or mask_fill == 0, "another fill than 0")
    _only(top_k > 1 or not renormalise, "renormalising a single expert")
    experts_TK, weights_TK = deepseek_v3.group_expert_select(
        _array(logits_TE), _array(bias_E), top_k, n_group, topk_group, scale, renormalise
    )
    return Routing(np.array(experts_TK).astype(np.int64), np.array(weights_TK))


def int4_dequantize(
    packed_MP: np.ndarray,
    scale_MG: np.ndarray,
    columns: int,
    *,
    group_size: int = 32,
    dequant: str = "exact",
) -> np.ndarray:
    """Dequantise with mx.dequantize: packed_MP, scale_MG -> w_ML float32."""
    _only(dequant == "exact", "weights rounded to bfloat16")
    _only(columns % group_size == 0 and group_size in (32, 64, 128), f"{columns} columns")
    scale_MG = _array(scale_MG)
    words_MP = mx.array(np.ascontiguousarray(packed_MP).view(np.uint32))
    w_ML = mx.dequantize(words_MP, scale_MG, -8 * scale_MG, group_size=group_size, bits=4)
    return np.array(w_ML)


def int4_unpack(packed_MP: np.ndarray, columns: int) -> np.ndarray:
    """Unpack with scales of one: packed_MP -> codes_ML int8."""
    scale_MG = np.ones((len(packed_MP), columns // 32), np.float32)
    return int4_dequantize(packed_MP, scale_MG, columns).astype(np.int8)


def int4_linear(
    x_TL: np.ndarray,
    packed_MP: np.ndarray,
    scale_MG: np.ndarray,
    *,
    group_size: int = 32,
    dequant: str = "exact",
) -> np.ndarray:
    """Multiply with mx.quantized_matmul: x_TL, packed_MP, scale_MG -> out_TM."""
    _only(dequant == "exact", "weights rounded to bfloat16")
    _only(x_TL.shape[1] % group_size == 0 and group_size in (32, 64, 128), "ragged groups")
    scale_MG = _array(scale_MG)
    words_MP = mx.array(np.ascontiguousarray(packed_MP).view(np.uint32))
    out_TM = mx.quantized_matmul(
        _array(x_TL), words_MP, scale_MG, -8 * scale_MG, group_size=group_size, bits=4
    )
    return np.array(out_TM)


OPERATIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        int4_dequantize,
        int4_linear,
        int4_unpack,
        linear,
        rms_norm,
        route,
        router_logits,
        silu,
        softmax,
        swiglu,
        yarn_inv_freq,
    )
}
