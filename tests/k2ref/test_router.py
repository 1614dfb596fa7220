"""Routing: the choice, the weights, the groups, the ties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2ref import oracle
from tests.strategies import normal, seeds

LOGITS = np.log(np.array([[1.0, 3.0, 1 / 3, 1.0]]))  # scores 0.5, 0.75, 0.25, 0.5
BIAS = np.array([0.0, 0.0, 0.6, 0.001])


def test_the_bias_chooses_and_never_weighs() -> None:
    routing = oracle.route(LOGITS, BIAS, top_k=2, scale=2.827)
    assert routing.experts_TK.tolist() == [[2, 1]]
    np.testing.assert_array_equal(routing.weights_TK.round(12), [[0.70675, 2.12025]])


def test_without_renormalisation_the_scores_are_only_scaled() -> None:
    routing = oracle.route(LOGITS, BIAS, top_k=2, scale=2.0, renormalise=False)
    np.testing.assert_array_equal(routing.weights_TK.round(12), [[0.5, 1.5]])


@pytest.mark.parametrize(("rule", "wanted"), [("lower_index", [0, 1]), ("higher_index", [3, 2])])
def test_equal_experts_are_taken_in_the_order_of_the_tie_rule(rule, wanted) -> None:
    routing = oracle.route(np.zeros((1, 4)), np.zeros(4), top_k=2, scale=1.0, tie_rule=rule)
    assert routing.experts_TK.tolist() == [wanted]


def test_groups_are_ranked_by_the_sum_of_their_two_best() -> None:
    logits_TE = np.array(
        [[9.0, -9.0, -9.0, 2.0, 2.0, 2.0]]
    )  # the best expert is in the worse group
    routing = oracle.route(logits_TE, np.zeros(6), top_k=2, scale=1.0, n_group=2, topk_group=1)
    assert routing.experts_TK.tolist() == [[3, 4]]


@pytest.mark.parametrize(("fill", "wanted"), [(-np.inf, [2, 3]), (0.0, [0, 1])])
def test_the_fill_of_lost_groups_shows_when_all_biased_scores_are_negative(fill, wanted) -> None:
    routing = oracle.route(
        np.array([[0.0, 0.0, 1.0, 1.0]]),
        np.full(4, -2.0),
        top_k=2,
        scale=1.0,
        n_group=2,
        topk_group=1,
        mask_fill=fill,
    )
    assert routing.experts_TK.tolist() == [wanted]


def test_a_large_common_bias_keeps_its_small_differences() -> None:
    bias_E = np.float32(5) + np.arange(4, dtype=np.float32) * np.float32(2**-12)
    routing = oracle.route(np.zeros((1, 4), np.float32), bias_E, top_k=2, scale=1.0)
    assert routing.experts_TK.tolist() == [[3, 2]]  # a bfloat16 bias would tie and give 0, 1


def test_scores_that_all_underflow_stay_finite() -> None:
    routing = oracle.route(np.full((1, 3), -1e4), np.zeros(3), top_k=2, scale=1.0)
    np.testing.assert_array_equal(routing.weights_TK, [[0, 0]])


@given(seeds, st.integers(1, 6), st.integers(1, 3))
def test_weights_sum_to_the_scale_and_one_group_of_all_is_no_group(seed, top_k, tokens) -> None:
    logits_TE, bias_E = normal(seed, tokens, 6), normal(seed + 1, 6, exponent=-3)
    plain = oracle.route(logits_TE, bias_E, top_k=top_k, scale=2.827)
    grouped = oracle.route(logits_TE, bias_E, top_k=top_k, scale=2.827, n_group=3, topk_group=3)
    np.testing.assert_array_equal(plain.experts_TK, grouped.experts_TK)
    assert np.abs(plain.weights_TK.sum(axis=1) - 2.827).max() <= 1e-14


@given(seeds)
def test_relabelling_the_experts_relabels_the_choice(seed: int) -> None:
    logits_TE, bias_E = normal(seed, 4, 8), normal(seed + 1, 8, exponent=-3)
    order_E = np.random.default_rng(seed).permutation(8)
    plain = oracle.route(logits_TE, bias_E, top_k=3, scale=1.0)
    moved = oracle.route(logits_TE[:, order_E], bias_E[order_E], top_k=3, scale=1.0)
    np.testing.assert_array_equal(order_E[moved.experts_TK], plain.experts_TK)


def test_router_logits_are_rounded_only_when_asked() -> None:
    x_TD = np.array([[1.0, 2.0**-9]], np.float16)
    w_ED = np.array([[1.0, 1.0]], np.float16)
    assert oracle.router_logits(x_TD, w_ED)[0, 0] == 1 + 2**-9
    half = np.array([[1.0, 2.0**-12]], np.float16)
    assert oracle.router_logits(half, w_ED)[0, 0] == 1 + 2**-12
    assert oracle.router_logits(half, w_ED, in_float32=False)[0, 0] == 1
