"""Routing: which K of the E experts each token visits, and with what weight.

DeepSeek-V3 (arXiv 2412.19437, eq. 12-16), with Kimi K2's factor γ = 2.827:

    s = sigmoid(x · W)
    TopK over s + b            the bias b only steers the choice, it never scales an output
    g = γ · s_chosen / Σ s_chosen

With groups (n_group > 1; Kimi K2 has one) only the `topk_group` groups with the largest sum of
their two best s + b take part. Ties go to the lower expert index. The best are found one after
another, which is quick for 8 of 384.
"""

from typing import Literal

import numpy as np

from k2ref.kernels import _arrays
from k2ref.kernels._jit import kernel
from k2ref.kernels.layers import linear
from k2ref.oracle.router import Routing

TieRule = Literal["lower_index", "higher_index"]


def router_logits(x_TD: np.ndarray, w_ED: np.ndarray, *, in_float32: bool = True) -> np.ndarray:
    """Score every expert: x_TD, w_ED -> logits_TE, in float32.

    `in_float32=False` rounds the product to the precision of x (engines with a low-precision
    router).
    """
    logits_TE = linear(_arrays.activations(x_TD), w_ED)
    return logits_TE if in_float32 else logits_TE.astype(x_TD.dtype).astype(np.float32)


def router_scores(logits_TE: np.ndarray) -> np.ndarray:
    """Squash logits into (0, 1): logits_TE -> scores_TE."""
    scores_TE = np.empty(logits_TE.shape, np.float32)
    _scores(_arrays.activations(logits_TE), scores_TE)
    return scores_TE


@kernel
def _scores(logits_TE, scores_TE):
    T, E = logits_TE.shape
    for t in range(T):
        for e in range(E):
            tail = np.exp(-np.abs(logits_TE[t, e]))  # never overflows
            upper = np.float32(1) if logits_TE[t, e] >= 0 else tail
            scores_TE[t, e] = upper / (np.float32(1) + tail)


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
    choice_TE = scores_TE + bias_E.astype(np.float32)
    if choice_TE.shape[1] % n_group:
        raise ValueError(f"{n_group} groups must divide {choice_TE.shape[1]} experts")
    if n_group > 1:
        _keep_groups(choice_TE, n_group, topk_group, np.float32(mask_fill))
    T, E = choice_TE.shape
    experts_TK = np.empty((T, min(top_k, E)), np.int64)
    weights_TK = np.empty(experts_TK.shape, np.float32)
    _choose(choice_TE, scores_TE, tie_rule == "higher_index", experts_TK, weights_TK)
    if renormalise:
        weights_TK /= weights_TK.sum(axis=1, keepdims=True) + np.float32(renorm_eps)
    return Routing(experts_TK, weights_TK * np.float32(scale))


@kernel
def _better(value, best, ties):
    """Compare, with NaN behind every number: value, best -> whether value takes its place."""
    return value > best or (ties and value == best) or (np.isnan(best) and not np.isnan(value))


@kernel
def _largest(values, taken, ties):
    """Find the largest value not taken; `ties` prefers later ones: values, taken -> index."""
    found = -1
    for i in range(len(values)):
        if not taken[i] and (found < 0 or _better(values[i], values[found], ties)):
            found = i
    return found


@kernel
def _choose(choice_TE, scores_TE, ties, experts_TK, weights_TK):
    T, K = experts_TK.shape
    for t in range(T):
        taken = np.zeros(choice_TE.shape[1], np.bool_)
        for k in range(K):
            e = _largest(choice_TE[t], taken, ties)
            taken[e] = True
            experts_TK[t, k] = e
            weights_TK[t, k] = scores_TE[t, e]


@kernel
def _keep_groups(choice_TE, n_group, topk_group, fill):
    """Overwrite the groups that are not among the best: choice_TE -> nothing."""
    T, E = choice_TE.shape
    size = E // n_group
    for t in range(T):
        sums = np.empty(n_group, np.float32)
        for g in range(n_group):
            sums[g] = _best_two(choice_TE[t, g * size : (g + 1) * size])
        kept = np.zeros(n_group, np.bool_)
        for _ in range(min(topk_group, n_group)):
            kept[_largest(sums, kept, False)] = True
        for e in range(E):
            if not kept[e // size]:
                choice_TE[t, e] = fill


@kernel
def _best_two(values):
    taken = np.zeros(len(values), np.bool_)
    total = np.float32(0)
    for _ in range(min(2, len(values))):
        i = _largest(values, taken, False)
        taken[i] = True
        total += values[i]
    return total
