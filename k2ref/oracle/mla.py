"""Multi-head latent attention: keys and values live in one small latent per token.

DeepSeek-V2 (arXiv 2405.04434, eq. 9-19), the same in DeepSeek-V3 and Kimi K2. Per token the cache
keeps the normed latent c (C values) and one rotated key k_r (R values) that all heads share. Per
head h:

    k_h = W_UK[h] c       v_h = W_UV[h] c
    score(t, s) = (q_nope · k_h(s) + q_rope · k_r(s)) · scale
    out_h(t) = Σ_s softmax(score)(t, s) · v_h(s)          s no later than t

The checkpoint stores W_UK and W_UV as one matrix `kv_b_proj` whose rows are grouped by head: N rows
of W_UK, then V rows of W_UV, head after head.

`attend_expanded` builds keys and values, as the formulas say. `attend_absorbed` moves W_UK to the
query and W_UV behind the sum (section 2.1.3 of the paper): q_nope · (W_UK c) = (q_nope W_UK) · c.
Same numbers, and no key or value is ever built. The two share nothing but the softmax, so that each
can accuse the other.

Both walk through the queries in blocks, so that no T x S matrix of all heads is held at once.
"""

import numpy as np

from k2ref.oracle.floats import wide
from k2ref.oracle.layers import softmax


def split_kv_b(w_ML: np.ndarray, heads: int, nope: int) -> tuple[np.ndarray, np.ndarray]:
    """Split `kv_b_proj` into its two parts per head: w_ML -> w_uk_HNC, w_uv_HVC."""
    M, L = w_ML.shape
    by_head = w_ML.reshape(heads, M // heads, L)
    return by_head[:, :nope], by_head[:, nope:]


def attend_expanded(
    q_nope_THN: np.ndarray,
    q_rope_THR: np.ndarray,
    latent_SC: np.ndarray,
    key_rope_SR: np.ndarray,
    *,
    w_uk_HNC: np.ndarray,
    w_uv_HVC: np.ndarray,
    scale: float,
    first_query: int,
    block: int = 64,
) -> np.ndarray:
    """Attend with keys and values built: q_nope_THN, q_rope_THR, latent_SC, key_rope_SR -> out_THV.

    Query t stands at place `first_query + t` of the S visible tokens and sees every place up to its
    own.
    """
    latent = wide(latent_SC)
    q_nope, q_rope, key_rope = (
        a.astype(latent.dtype) for a in (q_nope_THN, q_rope_THR, key_rope_SR)
    )
    key_SHN = np.einsum("SC,HNC->SHN", latent, w_uk_HNC.astype(latent.dtype), optimize=True)
    value_SHV = np.einsum("SC,HVC->SHV", latent, w_uv_HVC.astype(latent.dtype), optimize=True)
    T, H, S = len(q_nope), q_nope.shape[1], len(latent)
    out_THV = np.empty((T, H, value_SHV.shape[2]), latent.dtype)
    for t in range(0, T, block):
        rows = slice(t, min(t + block, T))
        score_HTS = np.einsum("THN,SHN->HTS", q_nope[rows], key_SHN, optimize=True)
        score_HTS += np.einsum("THR,SR->HTS", q_rope[rows], key_rope, optimize=True)
        hidden_TS = np.arange(S) > first_query + np.arange(rows.start, rows.stop)[:, None]
        score_HTS = np.where(hidden_TS, -np.inf, score_HTS * latent.dtype.type(scale))
        out_THV[rows] = np.einsum("HTS,SHV->THV", softmax(score_HTS), value_SHV, optimize=True)
    return out_THV.astype(q_nope_THN.dtype)


def attend_absorbed(
    q_nope_THN: np.ndarray,
    q_rope_THR: np.ndarray,
    latent_SC: np.ndarray,
    key_rope_SR: np.ndarray,
    *,
    w_uk_HNC: np.ndarray,
    w_uv_HVC: np.ndarray,
    scale: float,
    first_query: int,
    block: int = 64,
) -> np.ndarray:
    """Attend in the latent space: q_nope_THN, q_rope_THR, latent_SC, key_rope_SR -> out_THV.

    Query t stands at place `first_query + t` of the S visible tokens and sees every place up to its
    own.
    """
    latent, key_rope = wide(latent_SC), wide(key_rope_SR)
    dtype = latent.dtype
    out_THV = np.empty((*q_nope_THN.shape[:2], w_uv_HVC.shape[1]), q_nope_THN.dtype)
    for h in range(q_nope_THN.shape[1]):
        w_uk_NC, w_uv_VC = w_uk_HNC[h].astype(dtype), w_uv_HVC[h].astype(dtype)
        for t in range(0, len(q_nope_THN), block):
            q_latent_TC = q_nope_THN[t : t + block, h].astype(dtype) @ w_uk_NC
            q_rope_TR = q_rope_THR[t : t + block, h].astype(dtype)
            score_TS = (q_latent_TC @ latent.T + q_rope_TR @ key_rope.T) * dtype.type(scale)
            for i, score_S in enumerate(score_TS):
                score_S[first_query + t + i + 1 :] = -np.inf  # what comes after the query
            out_THV[t : t + block, h] = softmax(score_TS) @ latent @ w_uv_VC.T
    return out_THV
