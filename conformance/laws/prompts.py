"""What laws of whole models draw: weights, tokens, places, cuts.

As with arrays (`conformance.laws.draws`) kinds are drawn apart from values, and everything shrinks
towards the ordinary input, which is also the first example: what fails there needs no search.
"""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from conformance.draw import Draw
from conformance.laws import draws as d
from conformance.profiles import TINY

T = 10
LENGTHS = (T, 2, 5, 33)
IDS = ("ordinary", "few", "same")
PLACES = ("apart", "first", "far", "scattered")
LAST = TINY.max_position_embeddings - 1

Inputs = st.SearchStrategy[dict[str, Any]]


def make_ids(kind: str, seed: int, count: int, name: str = "ids") -> np.ndarray:
    """Make tokens from what was drawn: kind, seed, count, name of the stream -> ids_T."""
    draw, W = Draw(seed, name), TINY.vocab_size
    if kind == "ordinary":
        return draw.integers(0, W, count)
    known = draw.integers(0, W, 3 if kind == "few" else 1)
    return np.asarray(known[draw.integers(0, len(known), count)])


def make_places(kind: str, seed: int, count: int) -> np.ndarray:
    """Make rising positions from what was drawn: kind, seed, count -> position_T."""
    if kind == "apart":
        return np.arange(count) * 400
    if kind == "first":
        return np.arange(count)
    if kind == "far":
        return LAST - np.arange(count)[::-1]
    return np.sort(Draw(seed, "places").random.choice(LAST + 1, count, replace=False))


def ids(count: int, name: str = "ids") -> st.SearchStrategy[np.ndarray]:
    """Draw tokens, others under another name: count, name -> strategy."""
    return st.builds(make_ids, st.sampled_from(IDS), d.seeds(), st.just(count), st.just(name))


def places(count: int, kinds: tuple[str, ...] = PLACES) -> st.SearchStrategy[np.ndarray]:
    """Draw rising positions up to the last there is: count, kinds -> strategy."""
    return st.builds(make_places, st.sampled_from(kinds), d.seeds(), st.just(count))


def orders(count: int) -> st.SearchStrategy[np.ndarray]:
    """Draw an order: count -> strategy."""
    return d.seeds().map(lambda seed: Draw(seed, "order").random.permutation(count))


def cuts(count: int) -> st.SearchStrategy[int]:
    """Draw where to cut a prompt in two, in the middle first: count -> strategy."""
    return st.one_of(st.just(count // 2), st.integers(1, count - 1))


def model(**more: st.SearchStrategy[Any]) -> Inputs:
    """Draw weights, and how many powers of two their embeddings are from ordinary: -> strategy."""
    return st.fixed_dictionaries({"seed": d.seeds(), "size": st.integers(-6, 6), **more})


def prompt(**more: st.SearchStrategy[Any]) -> Inputs:
    """Draw weights, and tokens at their places: -> strategy."""
    return st.sampled_from(LENGTHS).flatmap(
        lambda count: model(ids_T=ids(count), position_T=places(count), **more)
    )


def begun(count: int, **more: st.SearchStrategy[Any]) -> Inputs:
    """Draw weights, and tokens with a cut: count -> strategy."""
    return model(ids_T=ids(count), cut=cuts(count), **more)
