"""Vectors of 16 lanes, what they mean: NumPy arrays of shape [count, 16].

The kernels are written in these few operations. Compiled, `_lanes_llvm` keeps the vectors in
registers; uncompiled, this file is what runs, and it is what the compiled one is tested against.
Compiled sums may fuse a product with its addition into one rounding.
"""

import numpy as np

LANES = 16
PAIRS = True  # whether the processor multiplies pairs of bfloat16


def zeros(count):
    """Give vectors of zeros: count -> vectors."""
    return np.zeros((count, LANES), np.float32)


def load(a, start, count):
    """Read consecutive values, 16 to a vector: a, start -> vectors."""
    return a[start : start + LANES * count].reshape(count, LANES)


def load_rows(a, row, column, count):
    """Read 16 columns of `count` rows: a, row, column -> vectors.

    float32 and uint32 stay, uint16 is read as the bits of bfloat16 values, uint8 as those of e4m3.
    """
    part = a[row : row + count, column : column + LANES]
    if a.dtype == np.uint8:
        return _e4m3(part.astype(np.uint32))
    return _bfloat16(part) if a.dtype == np.uint16 else part


def load_across(a, row, column, count):
    """Read consecutive values of a row, 16 to a vector: a, row, column -> vectors."""
    part = a[row, column : column + LANES * count].reshape(count, LANES)
    return _bfloat16(part) if a.dtype == np.uint16 else part


def load_scales(a, row, group, count):
    """Read 4 bfloat16 scales of `count` rows, each for 4 lanes: a, row, group -> vectors."""
    return np.repeat(_bfloat16(a[row : row + count, group : group + 4]), 4, axis=1)


def fetch(a, row, column, cache):
    """Ask for the line of an element needed soon, into cache 1 or 2: a, row, column -> nothing."""


def codes(words, n):
    """Read nibble n of each word as a code -8 … 7: words, n -> vectors."""
    return ((words >> np.uint32(4 * n)) & np.uint32(15)).astype(np.float32) - np.float32(8)


def code_pairs(words, n):
    """Read nibbles n and n + 4 as codes, a pair of bfloat16 bits to a lane: words, n -> words."""
    low, high = (codes(words, i).view(np.uint32) for i in (n, n + 4))
    return high | low >> np.uint32(16)


def fused_pairs(a, b, c):
    """Multiply pairs of bfloat16 and add both, one `b` for all: a, b, c -> a · b + c."""
    upper = c + _upper(a) * _upper(b)
    return upper + _lower(a) * _lower(b)


def splat(a, row, column, count):
    """Fill one vector each with `count` consecutive values: a, row, column -> vectors."""
    return np.repeat(a[row, column : column + count, None], LANES, axis=1)


def added(a, b):
    """Add lane by lane: a, b -> a + b."""
    return a + b


def product(a, b):
    """Multiply lane by lane: a, b -> a · b."""
    return a * b


def fused(a, b, c):
    """Multiply and add, one `b` for all or one for each: a, b, c -> a · b + c."""
    return a * b + c


def fused_outer(a, b, c):
    """Multiply every vector of a by every vector of b and add: a, b, c -> a ⊗ b + c."""
    return (a[:, None] * b[None]).reshape(-1, LANES) + c


def exp(a):
    """Raise e to the power of values that are not positive: a -> e^a."""
    with np.errstate(under="ignore"):
        return np.exp(a)


def silu(a):
    """Multiply by the sigmoid: a -> a / (1 + e^-a)."""
    tail = exp(-np.abs(a))
    return a * np.where(a >= 0, np.float32(1), tail) / (np.float32(1) + tail)


def total(vector):
    """Add up the lanes of one vector, halves first: vector -> scalar."""
    return _totals(vector)[0]


def store(vectors, a, row, column):
    """Write vectors one after another into a row: vectors, a, row, column -> nothing."""
    a[row, column : column + vectors.size] = vectors.reshape(-1)


def store_totals(vectors, a, row, column, count):
    """Add up lanes; vector i goes to row i % count, column i // count: vectors, a -> nothing."""
    across = _totals(vectors).reshape(-1, count)
    a[row : row + count, column : column + len(across)] = across.T


def _totals(vectors):
    while vectors.shape[1] > 1:
        half = vectors.shape[1] // 2
        vectors = vectors[:, :half] + vectors[:, half:]
    return vectors[:, 0]


def _bfloat16(bits):
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _upper(words):
    return (words & np.uint32(0xFFFF0000)).view(np.float32)


def _lower(words):
    return (words << np.uint32(16)).view(np.float32)


def _e4m3(bits):
    magnitude = bits & np.uint32(127)
    laid = (bits & np.uint32(128)) << np.uint32(24) | magnitude << np.uint32(20)
    values = laid.view(np.float32) * np.float32(2.0**120)  # the exponents' biases are 127 and 7
    return np.where(magnitude == np.uint32(127), np.float32(np.nan), values)
