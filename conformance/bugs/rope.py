"""Bugs of rotary positions: tables, angles, pairs."""

from typing import Any

import ml_dtypes
import numpy as np

from conformance.bugs import Bug, changing, replace
from k2ref.model import Model
from k2ref.oracle import yarn_inv_freq, yarn_mscale
from k2ref.trace import Trace, ignore


def _table(**changes: Any) -> dict[str, Any]:
    """Change the arguments of the frequency table: changes -> parts of a Bug."""

    def inv_freq(original: Any, rope_width: int, base: float, **kw: Any) -> Any:
        return yarn_inv_freq(rope_width, **{"base": base, **kw, **changes})

    return _made(inv_freq)


def _made(inv_freq: Any) -> dict[str, Any]:
    """Replace the frequency table in the operations and in a model: method -> parts of a Bug."""

    def model(target: Model) -> None:
        rope, R = target.config.rope, target.config.qk_rope_head_dim
        target.inv_freq_Z = inv_freq(
            yarn_inv_freq,
            R,
            rope.rope_theta,
            factor=rope.factor,
            original_positions=rope.original_max_position_embeddings,
            beta_fast=rope.beta_fast,
            beta_slow=rope.beta_slow,
            dtype=np.float32,
        )

    return {"ops": changing("yarn_inv_freq", inv_freq), "model": model}


def _inverted(original: Any, rope_width: int, base: float, **kw: Any) -> Any:
    """Slow the fast pairs: plain + slowed - right."""
    right = yarn_inv_freq(rope_width, base, **kw)
    plain = yarn_inv_freq(rope_width, base, **{**kw, "factor": 1.0})
    return (plain + plain / kw.get("factor", 1.0) - right).astype(right.dtype)


def _linear(original: Any, rope_width: int, base: float, *, factor: float = 1.0, **kw: Any) -> Any:
    return yarn_inv_freq(rope_width, base, **kw) / np.float32(factor)


def _bfloat16_table(original: Any, rope_width: int, base: float, **kw: Any) -> Any:
    table = yarn_inv_freq(rope_width, base, **kw)
    return table.astype(ml_dtypes.bfloat16).astype(table.dtype)


def _by_length(model: Model) -> None:
    """Use the plain table while the context is short."""
    rope = model.config.rope
    plain_Z = yarn_inv_freq(model.config.qk_rope_head_dim, rope.rope_theta, dtype=np.float32)
    stretched_Z, forward = model.inv_freq_Z, model.forward

    def chosen(ids_T: np.ndarray, position_T: np.ndarray, *, trace: Trace = ignore) -> np.ndarray:
        short = position_T[-1] < rope.original_max_position_embeddings
        model.inv_freq_Z = plain_Z if short else stretched_Z
        return forward(ids_T, position_T, trace=trace)

    model.forward = chosen  # type: ignore[method-assign,assignment]


def _halves(original: Any, x: np.ndarray, angle_TZ: np.ndarray, **kw: Any) -> Any:
    R = x.shape[-1]
    order = np.arange(R).reshape(2, -1).T.reshape(-1)
    out = original(np.ascontiguousarray(x[..., order]), angle_TZ, **kw)
    return out[..., np.argsort(order)]


def _position(change: Any) -> Any:
    def angles(original: Any, position_T: np.ndarray, inv_freq_Z: np.ndarray) -> Any:
        return original(change(position_T), inv_freq_Z)

    return changing("angles", angles)


def _query_ahead(model: Model) -> None:
    def rotate(original: Any, x: np.ndarray, angle_TZ: np.ndarray) -> Any:
        ahead = np.asarray(model.inv_freq_Z, angle_TZ.dtype) if x.ndim == 3 else 0
        return original(x, angle_TZ + ahead)

    replace(model, "_rotate", rotate)


def _unrotated_key(model: Model) -> None:
    def rotate(original: Any, x: np.ndarray, angle_TZ: np.ndarray) -> Any:
        return original(x, angle_TZ) if x.ndim == 3 else x.copy()

    replace(model, "_rotate", rotate)


def _rope_first(model: Model) -> None:
    R, N = model.config.qk_rope_head_dim, model.config.qk_nope_head_dim

    def multiply(original: Any, module: str, x: np.ndarray) -> Any:
        out = original(module, x)
        if module.endswith("q_b_proj"):
            by_head = out.reshape(len(out), -1, N + R)
            return np.roll(by_head, -R, axis=2).reshape(out.shape)
        return np.roll(out, -R, axis=1) if module.endswith("kv_a_proj_with_mqa") else out

    replace(model, "_multiply", multiply)


def _turned(**changes: Any) -> Any:
    return changing("rotate", lambda original, x, angle, **kw: original(x, angle, **kw | changes))


def _backwards(original: Any, x: np.ndarray, angle_TZ: np.ndarray, **kw: Any) -> Any:
    return original(x, -angle_TZ, **kw)


def _low(position_T: np.ndarray) -> np.ndarray:
    return position_T.astype(ml_dtypes.bfloat16).astype(np.int64)


BUGS = [
    Bug("halfsplit", "rope", "halves for pairs", "huggingface/optimum-intel#1877",
        ops=changing("rotate", _halves)),
    Bug("no_rope", "rope", "no rotation at all", "sqliteai/warp#27",
        ops=changing("rotate", lambda original, x, angle, **kw: x.copy())),
    Bug("pos+1", "rope", "positions count from 1", ops=_position(lambda p: p + 1)),
    Bug("qpos+1", "rope", "queries stand one place ahead", model=_query_ahead),
    Bug("theta1e4", "rope", "base 10000", "vllm-project/vllm#56066", **_table(base=1e4)),
    Bug("noyarn", "rope", "no YaRN", "sqliteai/warp#27", **_table(factor=1.0)),
    Bug("factor32", "rope", "factor 32", **_table(factor=32.0)),
    Bug("bfast32", "rope", "beta_fast left at 32", "radixark/miles#335", **_table(beta_fast=32.0)),
    Bug("yarn_orig", "rope", "max_position for the original length", "NVIDIA/Megatron-LM#1418",
        **_table(original_positions=262144)),
    Bug("orig8192", "rope", "original length 8192",
        **_table(original_positions=8192)),
    Bug("ramp_inv", "rope", "the ramp inverted", **_made(_inverted)),
    Bug("yarn_linear", "rope", "linear interpolation", **_made(_linear)),
    Bug("inv_bf16", "rope", "frequencies in bfloat16",
        **_made(_bfloat16_table)),
    Bug("yarn_by_len", "rope", "YaRN chosen by the current length",
        model=_by_length),
    Bug("mscale_rope", "rope", "cosines and sines times m", "kekzl/imp#880",
        ops=_turned(amplitude=yarn_mscale(64.0, 1.0))),
    Bug("sin_neg", "rope", "the sine's sign", ops=changing("rotate", _backwards)),
    Bug("pos_bf16", "rope", "positions in bfloat16", ops=_position(_low)),
    Bug("cs_bf16", "rope", "cosines and sines in bfloat16",
        ops=_turned(rope_dtype=ml_dtypes.bfloat16), legal_in=("bf16",),
        proof="the published code casts cosines to the activations' type: spec/questions.md, "
        "rope_dtype"),
    Bug("rope_first", "rope", "rope dimensions before the others", model=_rope_first),
    Bug("k_unrot", "rope", "keys cached unrotated", model=_unrotated_key),
]  # fmt: skip
