"""The mixture of experts: each token's chosen feed-forward networks, weighed and added.

DeepSeek-V3 (arXiv 2412.19437, eq. 12):  y = Σ_chosen g_e · FFN_e(x), to which the model adds the
shared expert, unweighed. FFN(x) = down · (silu(gate · x) ⊙ (up · x)).
"""

from typing import NamedTuple, Protocol

import numpy as np

from k2ref.oracle.floats import wide
from k2ref.oracle.int4 import Dequant
from k2ref.oracle.layers import swiglu
from k2ref.oracle.router import Routing
from k2ref.oracle.weights import Weight, multiply


class Expert(NamedTuple):
    """The three weights of one feed-forward network."""

    gate: Weight
    up: Weight
    down: Weight


class Experts(Protocol):
    """Anything that hands out an expert by its index: a list, or a checkpoint that reads it now."""

    def __getitem__(self, expert: int, /) -> Expert: ...


def expert_ffn(x_TD: np.ndarray, expert: Expert, *, dequant: Dequant = "exact") -> np.ndarray:
    """Run one feed-forward network: x_TD, expert -> out_TD."""
    gate_TF = multiply(x_TD, expert.gate, dequant=dequant)
    up_TF = multiply(x_TD, expert.up, dequant=dequant)
    return multiply(swiglu(gate_TF, up_TF), expert.down, dequant=dequant)


def moe(
    x_TD: np.ndarray, routing: Routing, experts: Experts, *, dequant: Dequant = "exact"
) -> np.ndarray:
    """Add up the chosen experts, each asked for once: x_TD, routing, experts -> out_TD."""
    out_TD = np.zeros_like(wide(x_TD))
    for e in np.unique(routing.experts_TK):
        tokens, places = np.nonzero(routing.experts_TK == e)
        weight = routing.weights_TK[tokens, places, None].astype(out_TD.dtype)
        out_TD[tokens] += weight * wide(expert_ffn(x_TD[tokens], experts[int(e)], dequant=dequant))
    return out_TD.astype(x_TD.dtype)
