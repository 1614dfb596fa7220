"""The operations of `k2ref.oracle`, compiled: same names, arguments, tie-breaks; float32 only.

What takes no time (frequencies, packing, quantising, attention with keys built) is the oracle's.
The compiled operations share no code with it.
"""

# ruff: noqa: F401  (`__all__` is the oracle's)

from k2ref.kernels.fp8 import fp8_dequantize, fp8_linear
from k2ref.kernels.int4 import int4_dequantize, int4_linear
from k2ref.kernels.layers import linear, rms_norm, silu, softmax, swiglu
from k2ref.kernels.mla import attend_absorbed
from k2ref.kernels.moe import expert_ffn, moe
from k2ref.kernels.rope import rotate
from k2ref.kernels.router import route, router_logits, router_scores
from k2ref.kernels.weights import dense, multiply
from k2ref.oracle import (
    OPERATIONS,
    Expert,
    Fp8,
    Int4,
    Routing,
    Weight,
    __all__,
    angles,
    attend_expanded,
    int4_pack,
    int4_quantize,
    int4_unpack,
    split_kv_b,
    yarn_inv_freq,
    yarn_mscale,
)
