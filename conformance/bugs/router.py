"""Bugs of routing: scores, bias, choice, weights."""

from typing import Any

import ml_dtypes
import numpy as np

from conformance.bugs import Bug, changing
from conformance.variant import Variant
from k2ref.oracle import Routing


def _softmax(original: Any, logits_TE: np.ndarray) -> np.ndarray:
    powers_TE = np.exp(logits_TE - logits_TE.max(axis=1, keepdims=True))
    return np.asarray(powers_TE / powers_TE.sum(axis=1, keepdims=True))


def _bias(change: Any) -> Any:
    def route(original: Any, logits_TE: np.ndarray, bias_E: np.ndarray, **kw: Any) -> Any:
        return original(*change(logits_TE, bias_E), **kw)

    return changing("route", route)


def _weights(change: Any) -> Any:
    """Change the weights of the chosen experts: change of weights, scores, bias, experts."""

    def ops(variant: Variant) -> None:
        original = variant.route

        def route(logits_TE: np.ndarray, bias_E: np.ndarray, **kw: Any) -> Routing:
            experts_TK, weights_TK = original(logits_TE, bias_E, **kw)
            scores_TE = variant.router_scores(logits_TE)
            changed_TK = change(weights_TK, scores_TE, bias_E, experts_TK, kw)
            return Routing(experts_TK, changed_TK.astype(weights_TK.dtype))

        variant.route = route  # type: ignore[method-assign]

    return ops


def _biased(weights: Any, scores_TE: Any, bias_E: Any, experts_TK: Any, kw: Any) -> Any:
    chosen_TK = np.take_along_axis(scores_TE + bias_E, experts_TK, axis=1)
    return chosen_TK / chosen_TK.sum(axis=1, keepdims=True) * kw["scale"]


def _plain(weights: Any, scores_TE: Any, bias_E: Any, experts_TK: Any, kw: Any) -> Any:
    return np.take_along_axis(scores_TE, experts_TK, axis=1) * kw["scale"]


def _over_all(weights: Any, scores_TE: Any, bias_E: Any, experts_TK: Any, kw: Any) -> Any:
    total_T1 = scores_TE.sum(axis=1, keepdims=True)
    return np.take_along_axis(scores_TE, experts_TK, axis=1) / total_T1 * kw["scale"]


def _shared_counted(weights: Any, scores: Any, bias: Any, experts_TK: Any, kw: Any) -> Any:
    K = experts_TK.shape[1]
    return weights * K / (K + 1)


def _argument(name: str, change: Any) -> Any:
    def route(original: Any, *args: Any, **kw: Any) -> Any:
        return original(*args, **{**kw, name: change(kw.get(name, 1))})

    return changing("route", route)


def _one_fewer(original: Any, *args: Any, top_k: int, **kw: Any) -> Any:
    if top_k == 1:
        return original(*args, top_k=1, **kw)
    fewer, all_ = original(*args, top_k=top_k - 1, **kw), original(*args, top_k=top_k, **kw)
    zero_T1 = np.zeros((len(all_.experts_TK), 1), fewer.weights_TK.dtype)
    return Routing(all_.experts_TK, np.concatenate([fewer.weights_TK, zero_T1], axis=1))


def _next_index(original: Any, logits_TE: np.ndarray, bias_E: np.ndarray, **kw: Any) -> Any:
    experts_TK, weights_TK = original(logits_TE, bias_E, **kw)
    return Routing((experts_TK + 1) % logits_TE.shape[1], weights_TK)


def _low(x: np.ndarray) -> np.ndarray:
    return x.astype(ml_dtypes.bfloat16).astype(x.dtype)


def _low_scores(original: Any, logits_TE: np.ndarray) -> np.ndarray:
    return _low(original(_low(logits_TE)))


def _ignore_groups(original: Any, choice_TE: np.ndarray, *rest: Any) -> np.ndarray:
    return choice_TE


def _group_best(original: Any, by_group: np.ndarray) -> np.ndarray:
    return np.asarray(by_group.max(axis=2))


BUGS = [
    Bug("softmax", "router", "softmax for sigmoid", "NVIDIA/TensorRT-Model-Connect#669",
        ops=changing("router_scores", _softmax)),
    Bug("no_bias", "router", "no correction bias",
        ops=_bias(lambda logits, bias: (logits, np.zeros_like(bias)))),
    Bug("bias_w", "router", "the bias enters the weights", "vllm-project/vllm#12002",
        ops=_weights(_biased)),
    Bug("bias_pre", "router", "the bias is added before the sigmoid",
        ops=_bias(lambda logits, bias: (logits + bias, np.zeros_like(bias)))),
    Bug("bias_bf16", "router", "the bias in bfloat16", "huggingface/transformers#42580",
        ops=_bias(lambda logits, bias: (logits, _low(bias)))),
    Bug("router_bf16", "router", "logits and scores in bfloat16", "sgl-project/sglang#38695",
        ops=changing("router_scores", _low_scores)),
    Bug("topk-1", "router", "one expert fewer", ops=changing("route", _one_fewer)),
    Bug("no_norm", "router", "weights not normalised", ops=_weights(_plain)),
    Bug("norm_all", "router", "normalised over all experts", ops=_weights(_over_all)),
    Bug("no_rs", "router", "no routed_scaling_factor", "sgl-project/sglang#8040",
        ops=_argument("scale", lambda s: 1.0)),
    Bug("rs2", "router", "the factor applied twice", "vllm-project/vllm#24119",
        ops=_argument("scale", lambda s: s * s)),
    Bug("rs2.5", "router", "DeepSeek's factor 2.5", ops=_argument("scale", lambda s: 2.5)),
    Bug("shared_norm", "router", "the shared expert counted in the norm",
        "sgl-project/sglang#26845", ops=_weights(_shared_counted)),
    Bug("idx+1", "router", "expert indices off by one", ops=changing("route", _next_index)),
    Bug("w_unsorted", "router", "weights paired with other experts",
        ops=_weights(lambda w, *rest: w[:, ::-1])),
    Bug("no_groups", "router", "groups ignored", "vllm-project/vllm#33858",
        ops=changing("keep_groups", _ignore_groups)),
    Bug("group_max", "router", "groups rated by their best expert", "sgl-project/sglang#3705",
        ops=changing("rate_groups", _group_best)),
]  # fmt: skip
