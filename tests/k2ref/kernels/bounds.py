"""What float32 kernels may be off by, derived from `conformance.compare`; one reason each.

Every check compares with the oracle in float64. Beside the bounds of `compare` stands what gradual
underflow can add: half of 2^-149 for every operation whose result is that small.
"""

import numpy as np

from conformance import compare
from conformance.results import Verdict
from k2ref import oracle

F32 = compare.find_precision("f32")
UNIT = F32.store
LEAST = 2.0**-149  # the smallest positive float32


def within(found: np.ndarray, expected: np.ndarray, bound: np.ndarray) -> None:
    """Assert float32 within a bound, value by value: found, expected, bound."""
    assert found.dtype == np.float32
    agreement = compare.bounded(found, expected, bound)
    assert agreement.verdict is Verdict.PASS, agreement.message


def product_bound(x_TL: np.ndarray, w_ML: np.ndarray) -> np.ndarray:
    """Bound a product; sums of codes times activations may underflow before they are scaled."""
    x, w = x_TL.astype(np.float64), w_ML.astype(np.float64)
    lost = LEAST * (x.shape[1] + 2) * max(1.0, np.abs(w).max(initial=0.0))
    return compare.linear_bound(x, w, F32) + lost


def product_agrees(found_TM: np.ndarray, x_TL: np.ndarray, w_ML: np.ndarray) -> None:
    """Assert that found_TM is x_TL times w_ML as far as float32 can tell."""
    x, w = x_TL.astype(np.float64), w_ML.astype(np.float64)
    within(found_TM, oracle.linear(x, w), product_bound(x, w))


def ffn_bound(x_TD: np.ndarray, expert: oracle.Expert) -> np.ndarray:
    """Bound a feed-forward network by passing on what each step may be off by: -> bound_TD.

    The slope of silu is at most 1.1; silu itself takes an exponential of 8 units.
    """
    x = x_TD.astype(np.float64)
    gate, up, down = (oracle.dense(weight).astype(np.float64) for weight in expert)
    gate_TF, up_TF = x @ gate.T, x @ up.T
    gate_off, up_off = product_bound(x, gate), product_bound(x, up)
    inner_TF = oracle.swiglu(gate_TF, up_TF)
    inner_off = 1.1 * gate_off * (np.abs(up_TF) + up_off) + np.abs(oracle.silu(gate_TF)) * up_off
    inner_off += 16 * UNIT * (np.abs(inner_TF) + inner_off)
    inner_off += LEAST * (2 + np.abs(gate_TF)) * (1 + np.abs(up_TF))
    return inner_off @ np.abs(down).T + product_bound(np.abs(inner_TF) + inner_off, np.abs(down))


def attention_bound(
    q_nope_THN: np.ndarray,
    q_rope_THR: np.ndarray,
    latent_SC: np.ndarray,
    key_rope_SR: np.ndarray,
    *,
    w_uk_HNC: np.ndarray,
    w_uv_HVC: np.ndarray,
    scale: float,
    first_query: int,
) -> np.ndarray:
    """Bound attention: scores off by d make probabilities off by e^2d - 1, all of them together.

    d is the error of two products in a row; the exponential costs 8 units. The sum over places and
    the product with W_UV err by their own lengths, and each block of the walk rescales once.
    """
    nope, rope, latent, key = q_nope_THN, q_rope_THR, latent_SC, key_rope_SR
    score_THS = _scores(nope, rope, latent, key, w_uk_HNC) * scale
    size_THS = _scores(*(np.abs(a) for a in (nope, rope, latent, key, w_uk_HNC))) * scale
    T, _, S = score_THS.shape
    unseen_TS = np.arange(S) > first_query + np.arange(T)[:, None]
    share_THS = oracle.softmax(np.where(unseen_TS[:, None], -np.inf, score_THS))
    length = nope.shape[2] + latent.shape[1] + key.shape[1] + 8
    d_TH = compare.gamma(length, UNIT) * size_THS.max(axis=2) + 8 * UNIT
    relative_TH = np.expm1(2 * d_TH) + compare.gamma(3 * S + latent.shape[1] + 8, UNIT)
    value_HSV = np.einsum("SC,HVC->HSV", np.abs(latent), np.abs(w_uv_HVC))
    return relative_TH[:, :, None] * np.einsum("THS,HSV->THV", share_THS, value_HSV) + LEAST * S


def _scores(
    nope: np.ndarray, rope: np.ndarray, latent: np.ndarray, key: np.ndarray, w_uk: np.ndarray
) -> np.ndarray:
    by_nope = np.einsum("THN,HNC,SC->THS", nope, w_uk, latent, optimize=True)
    return by_nope + np.einsum("THR,SR->THS", rope, key)
