"""INT4 weights as compressed-tensors packs them (`pack-quantized`, symmetric, grouped).

    w = code · scale           code in -8 … 7, one bfloat16 scale per row and group of 32 columns
    stored = code + 8          column i: bits 4(i mod 8) … 4(i mod 8)+3 of int32 word i // 8

The products read the words and scales as the checkpoint keeps them, in float32 arithmetic. One
vector of 16 words holds 128 columns, nibble n of them the columns n, n + 8, n + 16 …; activations
are laid out in that order first, so that no code is ever moved to another lane.

One token: the codes of a group are multiplied and added as they are, the scale comes afterwards.
Activations that bfloat16 holds, the model's own, are multiplied two to a lane where the processor
can (AVX512_BF16): products are exact, sums float32, nothing is lost by it. Lines are asked for
ahead of use, one after another as they lie in memory: into the first-level cache where the
activations leave room, else further ahead into the second. Several tokens: a scaled weight is used
for up to 12 of them while it is in a register, and a panel of rows stays in the cache for all
tokens. Group sizes that are no multiple of 32, rounded weights and scales beyond bfloat16 take the
plain path. A code times an activation must not overflow float32.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from k2ref.kernels import _arrays
from k2ref.kernels._jit import inlined, kernel, lanes, prange, threaded
from k2ref.kernels.layers import TOKENS, linear, tile_width

Dequant = Literal["exact", "bf16"]

ROWS = 4  # rows that share a load of the activations of one token
PAIR = 2  # rows that share a load of the activations of several
PANEL = 128  # rows that stay in the second-level cache while tokens pass
CHUNK = 128  # columns in a vector of 16 words
SHORT = 8192  # bytes of activations that leave room in the first-level cache for what comes next


def int4_linear(
    x_TL: np.ndarray,
    packed_MP: np.ndarray,
    scale_MG: np.ndarray,
    *,
    group_size: int = 32,
    dequant: Dequant = "exact",
) -> np.ndarray:
    """Multiply by an INT4 matrix: x_TL, packed_MP int32, scale_MG -> out_TM."""
    x = _arrays.activations(x_TL)
    packed_MP, scale_MG = _cut(packed_MP, scale_MG, x.shape[1], group_size)
    bits_MG = None if group_size % 32 or dequant == "bf16" else _arrays.scale_bits(scale_MG)
    if bits_MG is None or 0 in (*x.shape, len(packed_MP)):
        out_TM = _plain(x, packed_MP, scale_MG, group_size, dequant)
    else:
        if group_size > 32:
            bits_MG = np.repeat(bits_MG, group_size // 32, axis=1)
        out_TM = _packed(x, _arrays.read_only(packed_MP).view(np.uint32), bits_MG)
    return out_TM.astype(x_TL.dtype, copy=False)


def _cut(
    packed_MP: np.ndarray, scale_MG: np.ndarray, columns: int, group: int
) -> tuple[np.ndarray, np.ndarray]:
    """Take the words and scales of the first columns, if they are there: -> packed_MP, scale_MG."""
    if packed_MP.dtype not in (np.int32, np.uint32):
        raise TypeError(f"packed weights must be int32, got {packed_MP.dtype}")
    packed_MP, scale_MG = packed_MP[:, : -(-columns // 8)], scale_MG[:, : -(-columns // group)]
    _arrays.fits("packed_MP", packed_MP, (len(packed_MP), -(-columns // 8)))
    _arrays.fits("scale_MG", scale_MG, (len(packed_MP), -(-columns // group)))
    return packed_MP, scale_MG


def _plain(
    x_TL: np.ndarray, packed_MP: np.ndarray, scale_MG: np.ndarray, group: int, dequant: Dequant
) -> np.ndarray:
    """Multiply by a few rows at a time, as weights: x_TL, packed_MP, scale_MG -> out_TM."""
    L = x_TL.shape[1]
    out_TM = np.empty((len(x_TL), len(packed_MP)), np.float32)
    for m in range(0, len(packed_MP), PANEL):
        part = slice(m, m + PANEL)
        w_ML = int4_dequantize(
            packed_MP[part], scale_MG[part], L, group_size=group, dequant=dequant
        )
        out_TM[:, part] = linear(x_TL, w_ML)
    return out_TM


def _packed(x_TL: np.ndarray, words_MP: np.ndarray, bits_MG: np.ndarray) -> np.ndarray:
    """Multiply whole chunks where they lie, and the rest of the columns as a zero-filled copy."""
    M, P = words_MP.shape
    words_MP, bits_MG = _arrays.at_least(words_MP, ROWS), _arrays.at_least(bits_MG, ROWS)
    whole = P - P % _arrays.WIDTH
    if x_TL.shape[1] % CHUNK:
        x_TL = _arrays.columns_from(x_TL, 0, -(-P // _arrays.WIDTH) * CHUNK)
    parts = [_chunks(x_TL[:, : 8 * whole], words_MP, bits_MG)] if whole else []
    if whole < P:
        rest_MP = _arrays.columns_from(words_MP, whole, _arrays.WIDTH)
        rest_MG = _arrays.columns_from(bits_MG, whole // 4, CHUNK // 32)
        parts.append(_chunks(x_TL[:, 8 * whole :], rest_MP, rest_MG))
    return sum(parts[1:], start=parts[0])[:, :M]


def _chunks(x_TL: np.ndarray, words_MP: np.ndarray, bits_MG: np.ndarray) -> np.ndarray:
    """Multiply by read-only words and scales of whole chunks: x_TL, words_MP, bits_MG -> out_TM."""
    T, M = len(x_TL), len(words_MP)
    if T == 1:
        out_TM = np.empty((1, M), np.float32)
        x, one_token = _prepared(x_TL)
        one_token[x.nbytes <= SHORT](x, words_MP, bits_MG, out_TM)
        return out_TM
    width = tile_width(T)
    tiles = _arranged(x_TL, width)
    out_MT = np.empty((M, len(tiles) * width), np.float32)
    _MANY[width](tiles, words_MP, bits_MG, out_MT)
    return out_MT.T[:T]


def _prepared(x_1L: np.ndarray) -> tuple[np.ndarray, dict[bool, Callable[..., None]]]:
    """Lay out one token as its product wants it: x_1L -> x, kernels by whether x is short."""
    if lanes.PAIRS:
        pairs, exact = _paired(x_1L.view(np.uint32)[0])
        if exact:
            return pairs, _PAIRWISE
    return _arranged(x_1L, 1)[0], _SINGLY


@kernel
def _paired(bits):
    """Put columns n and n + 4 of a word side by side, in the order of nibbles: bits -> pairs, ok.

    Not if bfloat16 cannot hold them, nor if one is not finite or lies below 2^-100: the instruction
    takes what is below 2^-126 for zero, which no sum of codes times the others is, unless it is 0.
    """
    pairs = np.empty((1, len(bits) // 2), np.uint32)
    wrong = np.uint32(0)
    for i in range(len(bits)):
        exponent = (bits[i] >> np.uint32(23)) & np.uint32(255)
        small = exponent < np.uint32(27) and bits[i] & np.uint32(0x7FFFFFFF) != np.uint32(0)
        wrong |= (bits[i] & np.uint32(0xFFFF)) | np.uint32(small or exponent == np.uint32(255))
    for chunk in range(len(bits) // CHUNK):
        for n in range(4):
            for lane in range(16):
                low = CHUNK * chunk + 8 * lane + n
                pairs[0, 64 * chunk + 16 * n + lane] = bits[low + 4] | bits[low] >> np.uint32(16)
    return pairs, wrong == 0


@kernel
def _arranged(x_TL, width):
    """Lay out tiles of `width` tokens in the order of the nibbles: x_TL -> tiles, zero-filled."""
    T, L = x_TL.shape
    tiles = np.zeros((-(-T // width), L // 16, width, 16), np.float32)
    for t in range(T):
        tile, place = t // width, t % width
        for vector in range(L // 16):
            first = vector // 8 * CHUNK + vector % 8
            for lane in range(16):
                tiles[tile, vector, place, lane] = x_TL[t, first + 8 * lane]
    return tiles.reshape(-(-T // width), L * width)


@inlined
def _one_by_one(words, x, k):
    dot = lanes.zeros(ROWS)
    for n in range(8):
        x_n = lanes.load(x, CHUNK * k + 16 * n, 1)
        dot = lanes.fused(lanes.codes(words, n), x_n, dot)
    return dot


@inlined
def _two_by_two(words, x, k):
    dot = lanes.zeros(ROWS)
    for n in range(4):
        x_n = lanes.load_rows(x, 0, CHUNK // 2 * k + 16 * n, 1)
        dot = lanes.fused_pairs(lanes.code_pairs(words, n), x_n, dot)
    return dot


def _one_token(pairs, cache, ahead_bytes):
    """Compile the product for one token: how, a cache, how far to read into it ahead -> kernel."""

    @threaded
    def one_token(x, words_MP, bits_MG, out_TM):
        M, P = words_MP.shape
        ahead = ahead_bytes // (4 * P) // ROWS * ROWS + ROWS
        for block in prange(-(-M // ROWS)):
            row = min(block * ROWS, M - ROWS)  # the last block repeats rows of the one before
            total = lanes.zeros(ROWS)
            for k in range(P // 16):
                for i in range(ROWS):  # one line after another, though the rows are used at once
                    lanes.fetch(words_MP, row + ahead, 16 * (ROWS * k + i), cache)
                if k % 2 == 0:
                    lanes.fetch(bits_MG, row + ahead, 16 * k, cache)
                words = lanes.load_rows(words_MP, row, 16 * k, ROWS)
                dot = _two_by_two(words, x, k) if pairs else _one_by_one(words, x, k)
                total = lanes.fused(dot, lanes.load_scales(bits_MG, row, 4 * k, ROWS), total)
            lanes.store_totals(total, out_TM, 0, row, 1)

    return one_token


_SINGLY, _PAIRWISE = (
    {True: _one_token(pairs, 1, 0), False: _one_token(pairs, 2, 32768)} for pairs in (False, True)
)


def _many(tokens):
    """Compile the product for tiles of `tokens` tokens: tokens -> kernel."""
    sums = PAIR * tokens

    @threaded
    def many(tiles, words_MP, bits_MG, out_MT):
        M, P = words_MP.shape
        for panel in prange(-(-M // PANEL)):
            for tile in range(len(tiles)):
                x = tiles[tile]
                for first in range(panel * PANEL, min((panel + 1) * PANEL, M), PAIR):
                    row = min(first, M - PAIR)
                    total = lanes.zeros(sums)
                    for k in range(P // 16):
                        words = lanes.load_rows(words_MP, row, 16 * k, PAIR)
                        scales = lanes.load_scales(bits_MG, row, 4 * k, PAIR)
                        for n in range(8):
                            w = lanes.product(lanes.codes(words, n), scales)
                            x_n = lanes.load(x, (CHUNK * k + 16 * n) * tokens, tokens)
                            total = lanes.fused_outer(x_n, w, total)
                    lanes.store_totals(total, out_MT, row, tile * tokens, PAIR)

    return many


_MANY = {tokens: _many(tokens) for tokens in range(2, TOKENS + 1, 2)}


def int4_dequantize(
    packed_MP: np.ndarray,
    scale_MG: np.ndarray,
    columns: int,
    *,
    group_size: int = 32,
    dequant: Dequant = "exact",
) -> np.ndarray:
    """Give the weights that packed codes stand for: packed_MP int32, scale_MG -> w_ML float32."""
    packed_MP, scale_MG = _cut(packed_MP, scale_MG, columns, group_size)
    words_MP = _arrays.read_only(packed_MP).view(np.uint32)
    w_ML = np.empty((len(words_MP), columns), np.float32)
    _weights(words_MP, _arrays.stored(scale_MG.astype(np.float32)), group_size, w_ML)
    if dequant == "bf16":
        _round_bfloat16(w_ML.reshape(-1).view(np.uint32))
    return w_ML


@threaded
def _weights(words_MP, scale_MG, group, w_ML):
    M, L = w_ML.shape
    for m in prange(M):
        for i in range(L):
            code = (words_MP[m, i // 8] >> np.uint32(4 * (i % 8))) & np.uint32(15)
            w_ML[m, i] = (np.float32(code) - np.float32(8)) * scale_MG[m, i // group]


@kernel
def _round_bfloat16(bits):
    """Round float32 to 8 significant bits in place, ties to even: bits -> nothing. NaN stays."""
    for i in range(len(bits)):
        magnitude = bits[i] & np.uint32(0x7FFFFFFF)
        if magnitude <= np.uint32(0x7F800000):
            half = np.uint32(0x7FFF) + ((bits[i] >> np.uint32(16)) & np.uint32(1))
            bits[i] = (bits[i] + half) & np.uint32(0xFFFF0000)
