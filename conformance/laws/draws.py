"""Scale-aware inputs for laws: bfloat16 values whose size and shape of spread are drawn apart.

Raw floats almost never show what matters: a row a thousand times smaller than its neighbour, one
value that dwarfs the others, equal scores, a mean far from zero. So an array is drawn as a kind, an
exponent and a seed, and shrinks towards an ordinary array of size one.
"""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from conformance.draw import Draw
from k2ref.oracle import int4_pack

KINDS = ("normal", "spike", "shifted", "equal", "mixed", "sparse")


def make(kind: str, exponent: int, seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Make an array from what was drawn: kind, exponent, seed, shape -> float32 array."""
    draw = Draw(seed, kind)
    x = draw.normal(*shape)
    if kind == "spike":
        x[..., int(draw.integers(0, shape[-1]))] *= 256
    if kind == "shifted":
        x = draw.normal(*shape, mean=4.0)
    if kind == "equal":
        x[...] = x.reshape(-1)[0]
    if kind == "mixed":
        x = x * np.exp2(draw.integers(-6, 7, *shape[:-1], 1)).astype(np.float32)
    if kind == "sparse":
        x = x * (draw.integers(0, 4, *shape) == 0)
    return np.ldexp(x, exponent).astype(np.float32)


def arrays(
    *shape: int, low: int = -6, high: int = 6, kinds: tuple[str, ...] = KINDS
) -> st.SearchStrategy[np.ndarray]:
    """Draw arrays of a shape: shape, range of exponents, kinds -> strategy."""
    exponents = st.integers(low, high)
    return st.builds(make, st.sampled_from(kinds), exponents, seeds(), st.just(shape))


def ordinary(*shape: int) -> st.SearchStrategy[np.ndarray]:
    """Draw arrays of size one: shape -> strategy."""
    return arrays(*shape, low=0, high=0, kinds=("normal", "shifted", "sparse"))


def seeds() -> st.SearchStrategy[int]:
    """Draw what the values come from: -> strategy."""
    return st.integers(0, 2**16)


def positions(count: int) -> st.SearchStrategy[np.ndarray]:
    """Draw rising positions on both sides of the trained length: count -> strategy."""
    near = st.lists(st.integers(0, 4095), min_size=count, max_size=count, unique=True)
    far = st.lists(st.integers(0, 262143), min_size=count, max_size=count, unique=True)
    return st.one_of(near, far).map(lambda p: np.array(sorted(p)))


def packed(data: Any, M: int, L: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw packed weights: data, M, L -> codes_ML, packed_MP, scale_MG; the codes include zeros."""
    draw = Draw(data.draw(seeds()), "packed")
    codes_ML = draw.integers(-8, 8, M, L)
    codes_ML[:, :: max(L // 4, 1)] = 0
    _, scale_MG = draw.int4(M, L)
    return codes_ML, int4_pack(codes_ML), scale_MG
