"""Latent attention: what is seen, what is weighed, and that two ways give one answer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2ref import oracle
from tests.agree import agree
from tests.strategies import normal, seeds

WAYS = [oracle.attend_expanded, oracle.attend_absorbed]
both = pytest.mark.parametrize("attend", WAYS, ids=["expanded", "absorbed"])
Attend = Callable[..., np.ndarray]


def case(seed: int, *, T: int, S: int, H: int = 2) -> dict[str, Any]:
    """Make arguments of an attention: N 3, R 4, V 5, C 6."""
    return {
        "q_nope_THN": normal(seed, T, H, 3),
        "q_rope_THR": normal(seed + 1, T, H, 4),
        "latent_SC": normal(seed + 2, S, 6),
        "key_rope_SR": normal(seed + 3, S, 4),
        "w_uk_HNC": normal(seed + 4, H, 3, 6),
        "w_uv_HVC": normal(seed + 5, H, 5, 6),
        "scale": 0.5,
        "first_query": S - T,
    }


def hand_sized(first_query: int, queries: int) -> dict[str, Any]:
    """One head, all scores equal, values 1, 2, 4: an output is the mean of what is seen."""
    return {
        "q_nope_THN": np.zeros((queries, 1, 1)),
        "q_rope_THR": np.zeros((queries, 1, 2)),
        "latent_SC": np.array([[1.0], [2.0], [4.0]]),
        "key_rope_SR": np.ones((3, 2)),
        "w_uk_HNC": np.ones((1, 1, 1)),
        "w_uv_HVC": np.ones((1, 1, 1)),
        "scale": 1.0,
        "first_query": first_query,
    }


@both
def test_a_query_sees_every_place_up_to_its_own(attend: Attend) -> None:
    out = attend(**hand_sized(0, 3)).ravel()
    np.testing.assert_array_max_ulp(out, np.array([1, 1.5, 7 / 3]), 2)


@both
def test_queries_after_a_cache_see_the_cache(attend: Attend) -> None:
    out = attend(**hand_sized(1, 2)).ravel()
    np.testing.assert_array_max_ulp(out, np.array([1.5, 7 / 3]), 2)


@both
def test_scores_add_both_parts_and_are_scaled_before_the_softmax(attend: Attend) -> None:
    arguments = hand_sized(1, 1) | {
        "latent_SC": np.array([[1.0], [3.0]]),
        "key_rope_SR": np.array([[0.0, 1.0], [0.0, 5.0]]),
        "q_nope_THN": np.array([[[2.0]]]),
        "q_rope_THR": np.array([[[7.0, 1.0]]]),
        "scale": np.log(2) / 8,
    }
    # scores 2 + 1 and 6 + 5, scaled: their powers are 1 to 2
    np.testing.assert_array_max_ulp(attend(**arguments).ravel(), np.array([(1 + 2 * 3) / 3]), 4)


@given(seeds, st.integers(1, 5), st.integers(0, 4))
def test_the_two_ways_agree(seed: int, queries: int, cached: int) -> None:
    arguments = case(seed, T=queries, S=queries + cached)
    agree(oracle.attend_absorbed(**arguments), oracle.attend_expanded(**arguments))


@both
@given(seed=seeds, block=st.integers(1, 6))
def test_the_size_of_a_block_is_invisible(attend: Attend, seed: int, block: int) -> None:
    arguments = case(seed, T=5, S=7)
    agree(attend(**arguments, block=block), attend(**arguments))


@both
@given(seed=seeds, token=st.integers(0, 5))
def test_a_token_reaches_itself_and_those_after_it_alone(
    attend: Attend, seed: int, token: int
) -> None:
    arguments = case(seed, T=6, S=6)
    before = attend(**arguments)
    arguments["latent_SC"][token] += 1
    changed = (attend(**arguments) != before).any(axis=(1, 2))
    assert changed.tolist() == [t >= token for t in range(6)]


@both
@given(seed=seeds)
def test_heads_may_be_reordered(attend: Attend, seed: int) -> None:
    arguments = case(seed, T=3, S=4, H=3)
    order = [2, 0, 1]
    moved = {
        "q_nope_THN": arguments["q_nope_THN"][:, order],
        "q_rope_THR": arguments["q_rope_THR"][:, order],
        "w_uk_HNC": arguments["w_uk_HNC"][order],
        "w_uv_HVC": arguments["w_uv_HVC"][order],
    }
    agree(attend(**arguments | moved), attend(**arguments)[:, order])


def test_the_rows_of_kv_b_are_grouped_by_head() -> None:
    w_ML = np.arange(10)[:, None] * np.ones(2)  # two heads of 2 nope and 3 value rows
    w_uk_HNC, w_uv_HVC = oracle.split_kv_b(w_ML, heads=2, nope=2)
    assert w_uk_HNC[:, :, 0].tolist() == [[0, 1], [5, 6]]
    assert w_uv_HVC[:, :, 0].tolist() == [[2, 3, 4], [7, 8, 9]]
