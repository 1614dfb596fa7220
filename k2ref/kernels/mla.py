"""Multi-head latent attention over the latent cache, without keys, values or a T x S matrix.

The absorbed form (DeepSeek-V2, arXiv 2405.04434, section 2.1.3): per head h

    query: [W_UK[h]ᵀ q_nope, q_rope]      cache row: [c, k_r]
    score(t, s) = query · row(s) · scale
    out_h(t) = W_UV[h] Σ_s softmax(score)(t, s) · c(s)        s no later than t

All pairs of token and head are queries of one kind. A tile of them walks through the cache in
blocks and keeps, per query, the largest score so far, the sum of powers and the sum of latents
(online softmax: Milakov and Gimelshein, arXiv 1805.02867); a larger score scales both sums down.
"""

import numpy as np

from k2ref.kernels import _arrays
from k2ref.kernels._jit import kernel, lanes, prange, threaded
from k2ref.kernels.layers import tiled

QUERIES = 8  # queries that share a load of the cache
PAIR = 2  # rows of the cache that share a load of the queries
STRIP = 2  # vectors of the sum of latents that are held in registers, for each query
SCORES, SUMS, COLUMNS = QUERIES * PAIR, QUERIES * STRIP, 16 * STRIP


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
    T, H, N = q_nope_THN.shape
    S, C = latent_SC.shape
    R, V = key_rope_SR.shape[1], w_uv_HVC.shape[1]
    _arrays.fits("key_rope_SR", key_rope_SR, (S, R))
    _arrays.fits("q_rope_THR", q_rope_THR, (T, H, R))
    _arrays.fits("w_uk_HNC", w_uk_HNC, (H, N, C))
    _arrays.fits("w_uv_HVC", w_uv_HVC, (H, V, C))
    latent, key = _arrays.widened(latent_SC, STRIP), _arrays.widened(key_rope_SR, 1)
    w_uk, w_uv = _arrays.widened(w_uk_HNC, STRIP), _arrays.widened(w_uv_HVC, STRIP)
    C_full, R_full = latent.shape[1], key.shape[1]

    query_THC = np.zeros((T, H, C_full + R_full), np.float32)
    _absorb(_arrays.activations(q_nope_THN), w_uk, query_THC)
    query_THC[:, :, C_full : C_full + R] = q_rope_THR
    tiles = tiled(query_THC.reshape(T * H, -1), QUERIES)
    sums = np.zeros((len(tiles) * QUERIES, C_full), np.float32)
    latent, key = _arrays.at_least(latent, PAIR), _arrays.at_least(key, PAIR)
    visible = first_query + 1 + np.minimum(np.arange(len(sums)) // H, T - 1)
    visible = np.minimum(visible, S)
    block = -(-block // _arrays.WIDTH) * _arrays.WIDTH
    _walk(tiles, latent, key, np.float32(scale), visible, block, sums)
    out_THV = np.empty((T, H, V), np.float32)
    _expand(sums[: T * H].reshape(T, H, C_full), w_uv, out_THV)
    return out_THV.astype(q_nope_THN.dtype, copy=False)


@threaded
def _absorb(q_THN, w_HNC, out_THC):
    """Move W_UK to the query: q_THN, w_HNC -> the first C columns of out_THC."""
    T, H, N = q_THN.shape
    for h in prange(H):
        for t in range(T):
            for c in range(0, w_HNC.shape[2], COLUMNS):
                total = lanes.zeros(STRIP)
                for n in range(N):
                    row = lanes.load_across(w_HNC[h], n, c, STRIP)
                    total = lanes.fused(row, lanes.splat(q_THN[t], h, n, 1), total)
                lanes.store(total, out_THC[t], h, c)


@threaded
def _expand(latent_THC, w_HVC, out_THV):
    """Multiply by W_UV behind the sum: latent_THC, w_HVC -> out_THV."""
    T, H, C = latent_THC.shape
    for h in prange(H):
        for t in range(T):
            for v in range(w_HVC.shape[1]):
                total = lanes.zeros(1)
                for c in range(0, C, 16):
                    w = lanes.load_rows(w_HVC[h], v, c, 1)
                    total = lanes.fused(w, lanes.load_across(latent_THC[t], h, c, 1), total)
                out_THV[t, h, v] = lanes.total(total)


@threaded
def _walk(tiles, latent_SC, key_SR, scale, visible, block, sums):
    """Sum latents under the softmax of their scores: tiles of queries, cache -> sums."""
    for tile in prange(len(tiles)):
        first = tile * QUERIES
        score = np.empty((QUERIES, block + PAIR), np.float32)
        power = np.empty((block, QUERIES), np.float32)
        top = np.empty(QUERIES, np.float32)
        mass = np.zeros(QUERIES, np.float32)
        for q in range(QUERIES):
            top[q] = -np.inf
        last = visible[first + QUERIES - 1]
        for s in range(0, last, block):
            count = min(block, last - s)
            _score(tiles[tile], latent_SC, key_SR, s, count, score)
            for q in range(QUERIES):
                seen = max(0, min(count, visible[first + q] - s))
                factor = _weigh(score, seen, scale, q, top, mass, power)
                for c in range(sums.shape[1]):
                    sums[first + q, c] *= factor
            _add(power, latent_SC, s, count, sums, first)
        for q in range(QUERIES):
            for c in range(sums.shape[1]):
                sums[first + q, c] /= mass[q]


@kernel
def _score(query, latent_SC, key_SR, first, count, score):
    """Multiply a tile of queries by rows of the cache, two at a time: -> score[query, 1 + row].

    The last two rows may repeat the one before them, so that none beyond the cache is read.
    """
    C, R = latent_SC.shape[1], key_SR.shape[1]
    for i in range(0, count, PAIR):
        row = min(first + i, len(latent_SC) - PAIR)
        total = lanes.zeros(SCORES)
        for c in range(0, C, 16):
            pair = lanes.load_rows(latent_SC, row, c, PAIR)
            total = lanes.fused_outer(pair, lanes.load(query, c * QUERIES, QUERIES), total)
        for r in range(0, R, 16):
            pair = lanes.load_rows(key_SR, row, r, PAIR)
            total = lanes.fused_outer(pair, lanes.load(query, (C + r) * QUERIES, QUERIES), total)
        lanes.store_totals(total, score, 0, 1 + row - first, QUERIES)


@kernel
def _weigh(score, seen, scale, q, top, mass, power):
    """Turn the scores of query q into powers: -> power[:, q], the factor for what was summed."""
    block = len(power)
    best = top[q]
    for i in range(1, seen + 1):
        score[q, i] *= scale
        if not score[q, i] <= best:  # also for NaN
            best = score[q, i]
    for i in range(1, seen + 1):
        score[q, i] -= best
    for i in range(seen + 1, block + 1):
        score[q, i] = -np.inf
    total = lanes.zeros(1)
    for i in range(1, block, 16):
        part = lanes.exp(lanes.load_across(score, q, i, 1))
        total = lanes.added(total, part)
        lanes.store(part, score, q, i)
    for i in range(block):
        power[i, q] = score[q, i + 1]
    factor = np.exp(top[q] - best) if seen else np.float32(1)
    mass[q] = mass[q] * factor + lanes.total(total)
    top[q] = best
    return factor


@kernel
def _add(power, latent_SC, start, count, sums, first):
    """Add `count` rows of the cache, weighed, to the sums of a tile: -> sums[first :]."""
    part = np.empty((1, 16 * SUMS), np.float32)
    for c in range(0, latent_SC.shape[1], COLUMNS):
        total = lanes.zeros(SUMS)
        for i in range(count):
            row = lanes.load_across(latent_SC, start + i, c, STRIP)
            total = lanes.fused_outer(lanes.splat(power, i, 0, QUERIES), row, total)
        lanes.store(total, part, 0, 0)
        for q in range(QUERIES):
            for i in range(COLUMNS):
                sums[first + q, c + i] += part[0, q * COLUMNS + i]
