"""The mixture of experts: each token's chosen feed-forward networks, weighed and added.

DeepSeek-V3 (arXiv 2412.19437, eq. 12):  y = Σ_chosen g_e · FFN_e(x), to which the model adds the
shared expert, unweighed. FFN(x) = down · (silu(gate · x) ⊙ (up · x)).

Tokens are sorted by expert, each expert is asked for once and in the order of its index, and its
weights are read once for all its tokens.
"""

import numpy as np

from k2ref.kernels import _arrays
from k2ref.kernels._jit import kernel
from k2ref.kernels.int4 import Dequant
from k2ref.kernels.layers import swiglu
from k2ref.kernels.weights import multiply
from k2ref.oracle.moe import Expert, Experts
from k2ref.oracle.router import Routing


def expert_ffn(x_TD: np.ndarray, expert: Expert, *, dequant: Dequant = "exact") -> np.ndarray:
    """Run one feed-forward network: x_TD, expert -> out_TD."""
    gate_TF = multiply(x_TD, expert.gate, dequant=dequant)
    up_TF = multiply(x_TD, expert.up, dequant=dequant)
    return multiply(swiglu(gate_TF, up_TF), expert.down, dequant=dequant)


def moe(
    x_TD: np.ndarray, routing: Routing, experts: Experts, *, dequant: Dequant = "exact"
) -> np.ndarray:
    """Add up the chosen experts, each asked for once: x_TD, routing, experts -> out_TD."""
    K = routing.experts_TK.shape[1]
    x = _arrays.activations(x_TD)
    out_TD = np.zeros(x.shape, np.float32)
    chosen = routing.experts_TK.reshape(-1)
    weights = routing.weights_TK.reshape(-1).astype(np.float32)
    order = np.argsort(chosen, kind="stable")
    indices, starts = np.unique(chosen[order], return_index=True)
    for e, start, stop in zip(indices, starts, [*starts[1:], len(order)], strict=False):
        pairs = order[start:stop]
        tokens = pairs // K
        rows_TD = x[tokens].astype(x_TD.dtype, copy=False)
        expert_TD = expert_ffn(rows_TD, experts[int(e)], dequant=dequant)
        _add(_arrays.activations(expert_TD), tokens, weights[pairs], out_TD)
    return out_TD.astype(x_TD.dtype, copy=False)


@kernel
def _add(rows_TD, tokens, weights, out_TD):
    """Add weighed rows to their tokens, which differ: rows_TD, tokens, weights -> nothing."""
    for i in range(len(tokens)):
        for d in range(rows_TD.shape[1]):
            out_TD[tokens[i], d] += weights[i] * rows_TD[i, d]
