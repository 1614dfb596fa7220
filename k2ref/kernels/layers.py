"""The small parts: normalisation, products, activations.

RMSNorm (Zhang and Sennrich, arXiv 1910.07467, eq. 4):
    y = gain · x / sqrt(mean(x²) + eps)

SwiGLU (Shazeer, arXiv 2002.05202, eq. 6):
    y = silu(gate) · up        silu(x) = x / (1 + exp(-x))

Weights in bfloat16 are widened in registers, 16 at a time, and never copied. Tokens are taken in
tiles as in `int4`.
"""

import numpy as np

from k2ref.kernels import _arrays
from k2ref.kernels._jit import kernel, lanes, prange, threaded

TOKENS = 12  # tokens that share a load of the weights
PANEL = 64  # rows that stay in the second-level cache while tokens pass


def rms_norm(
    x_TD: np.ndarray, gain_D: np.ndarray, eps: float, *, round_before_gain: bool = True
) -> np.ndarray:
    """Divide each row by its root mean square and apply the gain: x_TD, gain_D -> out_TD.

    `round_before_gain`: the quotient is rounded to the input's precision before the gain is applied
    (Hugging Face's code does so; it shows in bfloat16 only).
    """
    _arrays.fits("gain_D", gain_D, x_TD.shape[1:])
    gain = gain_D.astype(np.float32)
    out_TD = np.empty(x_TD.shape, np.float32)
    if x_TD.dtype == np.float32 or not round_before_gain:
        _rms_norm(_arrays.activations(x_TD), gain, np.float32(eps), out_TD)
    else:
        _rms_norm(_arrays.activations(x_TD), np.ones_like(gain), np.float32(eps), out_TD)
        out_TD = out_TD.astype(x_TD.dtype).astype(np.float32) * gain
    return out_TD.astype(x_TD.dtype, copy=False)


@kernel
def _rms_norm(x_TD, gain_D, eps, out_TD):
    T, D = x_TD.shape
    for t in range(T):
        squares = lanes.zeros(1)
        for d in range(0, D - 15, 16):
            x = lanes.load_across(x_TD, t, d, 1)
            squares = lanes.fused(x, x, squares)
        mean = lanes.total(squares)
        for d in range(D - D % 16, D):
            mean += x_TD[t, d] * x_TD[t, d]
        root = np.sqrt(mean / np.float32(D) + eps)
        for d in range(D):
            out_TD[t, d] = x_TD[t, d] / root * gain_D[d]


def linear(x_TL: np.ndarray, w_ML: np.ndarray) -> np.ndarray:
    """Multiply by a weight stored [out, in]: x_TL, w_ML -> out_TM."""
    T, L = x_TL.shape
    _arrays.fits("w_ML", w_ML, (len(w_ML), L))
    x, w = _arrays.activations(x_TL), _arrays.stored(w_ML)
    whole = L - L % _arrays.WIDTH
    out_TM = _vectors(x[:, :whole], w) if whole else np.zeros((T, len(w)), np.float32)
    if whole < L:
        rest_TL = _arrays.columns_from(x, whole, _arrays.WIDTH)
        out_TM = out_TM + _vectors(rest_TL, _arrays.columns_from(w, whole, _arrays.WIDTH))
    return out_TM.astype(x_TL.dtype, copy=False)


def _vectors(x_TL: np.ndarray, w_ML: np.ndarray) -> np.ndarray:
    T, M = len(x_TL), len(w_ML)
    if T == 0 or M == 0:
        return np.zeros((T, M), np.float32)
    width = tile_width(T)
    tiles = tiled(x_TL, width)
    w_ML = _arrays.at_least(w_ML, _ROWS[width])
    out_MT = np.empty((len(w_ML), len(tiles) * width), np.float32)
    _PRODUCTS[width](tiles, w_ML, out_MT)
    return out_MT[:M, :T].T


def tile_width(tokens: int) -> int:
    """Share tokens out evenly over as few tiles as possible: tokens -> 1 or an even width."""
    share = -(-tokens // -(-tokens // TOKENS))
    return share + (share % 2 if share > 1 else 0)


@kernel
def tiled(x_TL, width):
    """Put vectors of 16 columns of `width` tokens side by side: x_TL -> tiles, zero-filled."""
    T, L = x_TL.shape
    tiles = np.zeros((-(-T // width), L // 16, width, 16), np.float32)
    for t in range(T):
        for i in range(L):
            tiles[t // width, i // 16, t % width, i % 16] = x_TL[t, i]
    return tiles.reshape(-(-T // width), L * width)


def _product(tokens):
    """Compile the product for tiles of `tokens` tokens: tokens -> kernel."""
    rows = _ROWS[tokens]
    sums = rows * tokens

    @threaded
    def product(tiles, w_ML, out_MT):
        M = len(w_ML)
        for panel in prange(-(-M // PANEL)):
            for tile in range(len(tiles)):
                x = tiles[tile]
                for first in range(panel * PANEL, min((panel + 1) * PANEL, M), rows):
                    row = min(first, M - rows)  # the last ones repeat some of those before
                    total = lanes.zeros(sums)
                    for i in range(0, len(x) // tokens, 16):
                        w = lanes.load_rows(w_ML, row, i, rows)
                        total = lanes.fused_outer(lanes.load(x, i * tokens, tokens), w, total)
                    lanes.store_totals(total, out_MT, row, tile * tokens, rows)

    return product


_ROWS = {tokens: 4 if tokens == 1 else 2 for tokens in (1, *range(2, TOKENS + 1, 2))}
_PRODUCTS = {tokens: _product(tokens) for tokens in _ROWS}


def silu(x: np.ndarray) -> np.ndarray:
    """Multiply by the sigmoid of itself: x -> out, of the same shape."""
    return _gated(_arrays.activations(x), np.ones(x.shape, np.float32)).astype(x.dtype, copy=False)


def swiglu(gate_TF: np.ndarray, up_TF: np.ndarray) -> np.ndarray:
    """Gate one projection by the silu of the other: gate_TF, up_TF -> out_TF."""
    if gate_TF.dtype != np.float32:
        return silu(gate_TF) * up_TF
    return _gated(gate_TF, _arrays.activations(up_TF))


def _gated(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    _arrays.fits("up", up, gate.shape)
    size = gate.size
    out = np.empty(-(-size // _arrays.WIDTH) * _arrays.WIDTH, np.float32)
    _silu_product(_arrays.flat(gate, out.size), _arrays.flat(up, out.size), out[None])
    return out[:size].reshape(gate.shape)


@kernel
def _silu_product(gate, up, out_1):
    for i in range(len(gate) // 16):
        gated = lanes.silu(lanes.load(gate, 16 * i, 1))
        lanes.store(lanes.product(gated, lanes.load(up, 16 * i, 1)), out_1, 0, 16 * i)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Turn the last axis into probabilities: logits -> probabilities."""
    rows = _arrays.activations(logits).reshape(-1, logits.shape[-1])
    out = np.empty_like(rows)
    _softmax(rows, out)
    return out.reshape(logits.shape).astype(logits.dtype, copy=False)


@kernel
def _softmax(logits_TS, out_TS):
    T, S = logits_TS.shape
    for t in range(T):
        top = logits_TS[t, 0]
        for s in range(S):
            top = max(top, logits_TS[t, s])
        total = np.float32(0)
        for s in range(S):
            out_TS[t, s] = np.exp(logits_TS[t, s] - top)
            total += out_TS[t, s]
        for s in range(S):
            out_TS[t, s] /= total
