"""Bugs of feed-forward networks, of the mixture, and of the head."""

import math
from typing import Any

import numpy as np

from conformance.bugs import Bug, changing, edit_taps, replace
from conformance.variant import Variant
from k2ref.model import Model
from k2ref.oracle import Routing

_ERF = np.vectorize(math.erf, otypes=[float])


def _gelu(original: Any, x: np.ndarray) -> np.ndarray:
    z = x.astype(np.float64)
    return np.asarray((z * 0.5 * (1 + _ERF(z / 2**0.5))).astype(x.dtype))


def _quick_gelu(original: Any, x: np.ndarray) -> np.ndarray:
    z = x.astype(np.float64)
    with np.errstate(over="ignore"):
        return np.asarray((z / (1 + np.exp(-1.702 * z))).astype(x.dtype))


def _clamped(original: Any, gate_TF: np.ndarray, up_TF: np.ndarray) -> Any:
    return original(np.minimum(gate_TF, 7), np.clip(up_TF, -7, 7))


def _half_middle(original: Any, gate_TF: np.ndarray, up_TF: np.ndarray) -> Any:
    with np.errstate(over="ignore"):
        half = original(gate_TF, up_TF).astype(np.float16)
    return half.astype(gate_TF.dtype)


def _moe(change: Any) -> Any:
    """Change the routing that the sum of experts goes by: change of routing -> change."""

    def ops(variant: Variant) -> None:
        def moe(original: Any, x: Any, routing: Any, experts: Any, **kw: Any) -> Any:
            return original(x, Routing(routing.experts_TK, change(routing)), experts, **kw)

        replace(variant, "moe", moe)

    return ops


def _capacity(routing: Routing) -> np.ndarray:
    """Drop what exceeds an expert's capacity, of at least four tokens."""
    experts_TK, kept_TK = routing.experts_TK, routing.weights_TK.copy()
    for e in np.unique(experts_TK):
        tokens, places = np.nonzero(experts_TK == e)
        kept_TK[tokens[4:], places[4:]] = 0
    return kept_TK


def _lost_shard(routing: Routing) -> np.ndarray:
    lost_TK = routing.experts_TK % 4 == 1
    return np.where(lost_TK, 0, routing.weights_TK).astype(routing.weights_TK.dtype)


def _replica(routing: Routing) -> np.ndarray:
    twice_TK = np.where(routing.experts_TK % 5 == 0, 2, 1)
    return (routing.weights_TK * twice_TK).astype(routing.weights_TK.dtype)


def _shared(factor: float) -> Any:
    """Weigh the shared expert: factor -> change of a model."""

    def feed_forward(original: Any, module: str, x_TD: np.ndarray) -> Any:
        out_TD = original(module, x_TD)
        shared = module.endswith("shared_experts")
        return (out_TD * np.float32(factor)).astype(out_TD.dtype) if shared else out_TD

    return lambda model: replace(model, "_feed_forward", feed_forward)


def _tied(model: Model) -> None:
    def head(original: Any, hidden_TD: np.ndarray) -> Any:
        return model.ops.linear(hidden_TD, model.checkpoint["model.embed_tokens.weight"])

    replace(model, "_head", head)


def _softcap(model: Model) -> None:
    def edit(name: str, array: np.ndarray) -> None:
        if name == "logits":
            array[...] = (30 * np.tanh(array.astype(np.float64) / 30)).astype(array.dtype)

    edit_taps(model, edit)


BUGS = [
    Bug("no_shared", "experts", "no shared expert", model=_shared(0.0)),
    Bug("shared_rs", "experts", "the factor applied to the shared expert",
        model=_shared(2.827)),
    Bug("shared_x2", "experts", "the shared expert added twice", "sgl-project/sglang#26845",
        model=_shared(2.0)),
    Bug("gate_up", "experts", "gate and up exchanged", "lightseekorg/tokenspeed#444",
        ops=changing("swiglu", lambda original, gate, up: original(up, gate))),
    Bug("gelu", "experts", "gelu for silu", ops=changing("silu", _gelu)),
    Bug("qgelu", "experts", "quick gelu for silu", ops=changing("silu", _quick_gelu)),
    Bug("noup", "experts", "up ignored",
        ops=changing("swiglu", lambda original, gate, up: original(gate, np.ones_like(up)))),
    Bug("clamp", "experts", "clamped at 7", ops=changing("swiglu", _clamped)),
    Bug("fp16mid", "experts", "a half-precision middle", "vllm-project/vllm#14809",
        ops=changing("swiglu", _half_middle), legal_in=("bf16",),
        proof="half precision has three bits more than bfloat16; only its range is smaller"),
    Bug("capacity", "experts", "tokens beyond an expert's capacity dropped", ops=_moe(_capacity)),
    Bug("ep_lost", "experts", "one shard of experts lost", "kvcache-ai/ktransformers#1577",
        ops=_moe(_lost_shard)),
    Bug("replica_x2", "experts", "an expert's replica counted twice",
        ops=_moe(_replica)),
    Bug("tied", "model", "the head tied to the embedding", model=_tied),
    Bug("softcap", "model", "logits capped at 30", model=_softcap),
]  # fmt: skip
