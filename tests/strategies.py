"""Hypothesis strategies: arrays whose sizes and scales vary, and the shapes of small models."""

import numpy as np
from hypothesis import strategies as st

sizes = st.integers(1, 9)
seeds = st.integers(0, 2**32 - 1)
exponents = st.integers(-12, 12)


def normal(seed: int, *shape: int, exponent: int = 0) -> np.ndarray:
    """Draw a float64 array whose scale is a power of two: seed, shape -> array."""
    return np.random.default_rng(seed).standard_normal(shape) * 2.0**exponent


@st.composite
def scaled_arrays(draw: st.DrawFn, rows: int, columns: int) -> np.ndarray:
    """Draw a float64 matrix with a scale of its own and, at times, zero rows and huge spikes."""
    array = normal(draw(seeds), rows, columns, exponent=draw(exponents))
    if draw(st.booleans()):
        array[draw(st.integers(0, rows - 1))] = 0
    if draw(st.booleans()):
        array[draw(st.integers(0, rows - 1)), draw(st.integers(0, columns - 1))] *= 1e4
    return array


@st.composite
def codes(draw: st.DrawFn) -> np.ndarray:
    """Draw INT4 codes, with column counts that are no multiple of 8 among them."""
    shape = draw(st.integers(1, 6)), draw(st.integers(1, 70))
    return np.random.default_rng(draw(seeds)).integers(-8, 8, shape)
