"""Bugs of normalisation and of the residual stream around it."""

from typing import Any

import ml_dtypes
import numpy as np

from conformance.bugs import Bug, changing, edit_taps, replace
from k2ref.model import Model


def _eps(value: float) -> Any:
    def norm(original: Any, x: np.ndarray, gain_D: np.ndarray, eps: float, **kw: Any) -> Any:
        return original(x, gain_D, value, **kw)

    return changing("rms_norm", norm)


def _eps_outside(original: Any, x: np.ndarray, gain_D: np.ndarray, eps: float, **kw: Any) -> Any:
    wide = x.astype(np.float64)
    root = np.sqrt(np.mean(wide * wide, axis=-1, keepdims=True))
    return (wide / (root + eps) * gain_D.astype(np.float64)).astype(x.dtype)


def _plus_one(original: Any, x: np.ndarray, gain_D: np.ndarray, eps: float, **kw: Any) -> Any:
    return original(x, (gain_D.astype(np.float32) + 1).astype(gain_D.dtype), eps, **kw)


def _layernorm(original: Any, x: np.ndarray, gain_D: np.ndarray, eps: float, **kw: Any) -> Any:
    wide = x.astype(np.float32)
    return original((wide - wide.mean(axis=-1, keepdims=True)).astype(x.dtype), gain_D, eps, **kw)


def _in_bfloat16(original: Any, x: np.ndarray, gain_D: np.ndarray, eps: float, **kw: Any) -> Any:
    def low(a: np.ndarray) -> np.ndarray:
        return np.asarray(a).astype(ml_dtypes.bfloat16).astype(np.float32)

    x32 = low(x.astype(np.float32))
    mean = low(np.mean(low(x32 * x32), axis=-1, keepdims=True))
    unit = low(x32 * low(1 / np.sqrt(low(mean + np.float32(eps)))))
    return (unit * gain_D.astype(np.float32)).astype(ml_dtypes.bfloat16).astype(x.dtype)


def _without(module: str) -> Any:
    """Leave a norm out: end of its name -> change of a model."""

    def norm(original: Any, name: str, x_TD: np.ndarray, eps: float) -> Any:
        return x_TD.copy() if name.endswith(module) else original(name, x_TD, eps)

    return lambda model: replace(model, "_norm", norm)


def _half_residual(model: Model) -> None:
    def edit(name: str, array: np.ndarray) -> None:
        if name.endswith(("attn.residual", ".out")) and not name.endswith(("attn.out", "ffn.out")):
            array[...] = array.astype(np.float16).astype(array.dtype)

    edit_taps(model, edit)


def _from(tap: str, source: str) -> Any:
    """Put one tensor in the place of another: tap, its source -> change of a model."""

    def change(model: Model) -> None:
        kept: dict[str, np.ndarray] = {}

        def edit(name: str, array: np.ndarray) -> None:
            kept[name] = array.copy()
            if name == tap:
                array[...] = kept[source]

        edit_taps(model, edit)

    return change


BUGS = [
    Bug("eps1e-5", "norm", "eps 1e-5 whatever the config says", "ml-explore/mlx-lm#67",
        ops=_eps(1e-5)),
    Bug("eps_fixed", "norm", "eps 1e-6 whatever the config says",
        ops=_eps(1e-6)),
    Bug("eps1e-3", "norm", "eps 1e-3", ops=_eps(1e-3)),
    Bug("eps_out", "norm", "eps outside the root", ops=changing("rms_norm", _eps_outside)),
    Bug("gain1p", "norm", "gain 1 + w", ops=changing("rms_norm", _plus_one)),
    Bug("layernorm", "norm", "the mean removed", ops=changing("rms_norm", _layernorm)),
    Bug("rms_bf16", "norm", "every step in bfloat16", ops=changing("rms_norm", _in_bfloat16),
        legal_in=("bf16",), proof="each step rounds to the declared storage once; the error stays "
        "within a few units of bfloat16, as for any engine of the precision"),
    Bug("no_qnorm", "norm", "no norm on the query latent", model=_without("q_a_layernorm")),
    Bug("no_kvnorm", "norm", "no norm on the key-value latent, or cached before it",
        model=_without("kv_a_layernorm")),
    Bug("no_fn", "model", "no final norm", model=_without("model.norm")),
    Bug("no_resid2", "model", "one residual missing", model=_from("L2.out", "L2.ffn.out")),
    Bug("last_layer", "model", "the last layer dropped", "lablup/mlxcel#618",
        model=_from("L3.out", "L2.out")),
    Bug("router_raw", "model", "the router reads the un-normed state",
        model=_from("L1.ffn.norm", "L1.attn.residual")),
    Bug("resid_fp16", "model", "the residual stream in half precision", "vllm-project/vllm#14809",
        model=_half_residual, legal_in=("bf16",),
        proof="half precision holds every bfloat16 value of the profile's residual stream exactly"),
]  # fmt: skip
