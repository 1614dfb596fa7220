"""Routing: which K of the E experts each token visits, and with what weight.

DeepSeek-V3 (arXiv 2412.19437, eq. 12-16), with Kimi K2's factor γ = 2.827:

    s = sigmoid(x · W)
    TopK over s + b            the bias b only steers the choice, it never scales an output
    g = γ · s_chosen / Σ s_chosen

With groups (n_group > 1; Kimi K2 has one) only the `topk_group` groups with the largest sum of
their two best s + b take part. Ties go to the lower expert index.
"""

from typing import Literal, NamedTuple

import numpy as np

from k2ref.oracle.floats import wide

TieRule = Literal["lower_index", "higher_index"]


class Routing(NamedTuple):
    """Experts of each token, the best first, and their weights."""

    experts_TK: np.ndarray
    weights_TK: np.ndarray


def router_logits(x_TD: np.ndarray, w_ED: np.ndarray, *, in_float32: bool = True) -> np.ndarray:
    """Score every expert: x_TD, w_ED -> logits_TE, in float32 or wider.

    `in_float32=False` rounds the product to the precision of x (engines with a low-precision
    router).
    """
    x = wide(x_TD)
    logits_TE = x @ w_ED.astype(x.dtype).T
    return logits_TE if in_float32 else wide(logits_TE.astype(x_TD.dtype))


def router_scores(logits_TE: np.ndarray) -> np.ndarray:
    """Squash logits into (0, 1): logits_TE -> scores_TE."""
    tail = np.exp(-np.abs(logits_TE))  # never overflows
    return np.where(logits_TE >= 0, 1, tail) / (1 + tail)


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
    tie_rule: TieRule = "lower_index",
) -> Routing:
    """Choose experts and weigh them: logits_TE, bias_E -> experts_TK, weights_TK."""
    scores_TE = router_scores(logits_TE)
    choice_TE = scores_TE + bias_E.astype(scores_TE.dtype)
    if n_group > 1:
        choice_TE = _keep_groups(choice_TE, n_group, topk_group, mask_fill)
    experts_TK = _largest(choice_TE, top_k, tie_rule)
    weights_TK = np.take_along_axis(scores_TE, experts_TK, axis=1)
    if renormalise:
        weights_TK = weights_TK / (
            weights_TK.sum(axis=1, keepdims=True) + weights_TK.dtype.type(renorm_eps)
        )
    return Routing(experts_TK, weights_TK * weights_TK.dtype.type(scale))


def _keep_groups(choice_TE: np.ndarray, n_group: int, topk_group: int, fill: float) -> np.ndarray:
    T, E = choice_TE.shape
    by_group = choice_TE.reshape(T, n_group, E // n_group)
    best_two = np.sort(by_group, axis=2)[:, :, -2:].sum(axis=2)
    kept = np.zeros((T, n_group), bool)
    np.put_along_axis(kept, _largest(best_two, topk_group, "lower_index"), True, axis=1)
    return np.where(kept[:, :, None], by_group, choice_TE.dtype.type(fill)).reshape(T, E)


def _largest(values_TE: np.ndarray, count: int, tie_rule: TieRule) -> np.ndarray:
    if tie_rule == "lower_index":
        return np.argsort(-values_TE, axis=1, kind="stable")[:, :count]
    last = values_TE.shape[1] - 1
    return last - np.argsort(-values_TE[:, ::-1], axis=1, kind="stable")[:, :count]
