"""The oracle: every operation of the Kimi K2 family in plain NumPy, written to be read.

Pure functions of arrays and scalars. There is no batch axis: engines batch, the oracle does not.
An array's name ends in its dimensions:

    T tokens in this call     S tokens visible          D model width
    H heads                   N nope width of a head    R rope width of a head    Z rope pairs, R/2
    V value width of a head   Q query-latent rank       C key-value-latent rank
    E experts                 K experts chosen          F width of a feed-forward layer
    M rows of a weight        L columns of a weight     W vocabulary
    P int32 words of a row    G scales of a row         U, J row and column blocks of FP8 scales

Operations follow the precision of their input. float64 stays float64; float32 stays float32;
bfloat16 and float16 inputs are summed in float32 and rounded once at the end (`floats.wide`).
Angles of the rotary embedding are formed in float32 whatever the precision, because every engine
forms them so (see `rope`).

Reading order: layers, rope, mla, router, int4, weights, moe; then `k2ref/model.py`, which puts
them together.
"""

from k2ref.oracle.fp8 import fp8_dequantize, fp8_linear
from k2ref.oracle.int4 import int4_dequantize, int4_linear, int4_pack, int4_quantize, int4_unpack
from k2ref.oracle.layers import linear, rms_norm, silu, softmax, swiglu
from k2ref.oracle.mla import attend_absorbed, attend_expanded, split_kv_b
from k2ref.oracle.moe import Expert, expert_ffn, moe
from k2ref.oracle.rope import angles, rotate, yarn_inv_freq, yarn_mscale
from k2ref.oracle.router import Routing, route, router_logits, router_scores
from k2ref.oracle.weights import Fp8, Int4, Weight, dense, multiply

__all__ = [
    "OPERATIONS",
    "Expert",
    "Fp8",
    "Int4",
    "Routing",
    "Weight",
    "angles",
    "attend_absorbed",
    "attend_expanded",
    "dense",
    "expert_ffn",
    "fp8_dequantize",
    "fp8_linear",
    "int4_dequantize",
    "int4_linear",
    "int4_pack",
    "int4_quantize",
    "int4_unpack",
    "linear",
    "moe",
    "multiply",
    "rms_norm",
    "rotate",
    "route",
    "router_logits",
    "router_scores",
    "silu",
    "softmax",
    "split_kv_b",
    "swiglu",
    "yarn_inv_freq",
    "yarn_mscale",
]

OPERATIONS = tuple(name for name in __all__ if name.islower())
