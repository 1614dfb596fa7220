"""The small parts: normalisation, products, activations.

RMSNorm (Zhang and Sennrich, arXiv 1910.07467, eq. 4):
    y = gain · x / sqrt(mean(x²) + eps)

SwiGLU (Shazeer, arXiv 2002.05202, eq. 6):
    y = silu(gate) · up        silu(x) = x / (1 + exp(-x))
"""

import numpy as np

from k2ref.oracle.floats import wide


def rms_norm(
    x_TD: np.ndarray, gain_D: np.ndarray, eps: float, *, round_before_gain: bool = True
) -> np.ndarray:
    """Divide each row by its root mean square and apply the gain: x_TD, gain_D -> out_TD.

    `round_before_gain`: the quotient is rounded to the input's precision before the gain is applied
    (Hugging Face's code does so; it shows in bfloat16 only).
    """
    x = wide(x_TD)
    unit_TD = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + x.dtype.type(eps))
    if round_before_gain:
        unit_TD = wide(unit_TD.astype(x_TD.dtype))
    return (unit_TD * gain_D.astype(x.dtype)).astype(x_TD.dtype)


def linear(x_TL: np.ndarray, w_ML: np.ndarray) -> np.ndarray:
    """Multiply by a weight stored [out, in]: x_TL, w_ML -> out_TM."""
    x = wide(x_TL)
    return (x @ w_ML.astype(x.dtype).T).astype(x_TL.dtype)


def silu(x: np.ndarray) -> np.ndarray:
    """Multiply by the sigmoid of itself: x -> out, of the same shape."""
    z = wide(x)
    tail = np.exp(-np.abs(z))  # never overflows
    return (z * np.where(z >= 0, 1, tail) / (1 + tail)).astype(x.dtype)


def swiglu(gate_TF: np.ndarray, up_TF: np.ndarray) -> np.ndarray:
    """Gate one projection by the silu of the other: gate_TF, up_TF -> out_TF."""
    return silu(gate_TF) * up_TF


def softmax(logits: np.ndarray) -> np.ndarray:
    """Turn the last axis into probabilities: logits -> probabilities."""
    z = wide(logits)
    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    return (powers / powers.sum(axis=-1, keepdims=True)).astype(logits.dtype)
