"""Compiled routing against the oracle: sets by slack, weights for the chosen set, ties by index."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance import compare
from conformance.results import Verdict
from k2ref import kernels, oracle
from tests.k2ref.kernels.bounds import F32, UNIT, product_agrees, within
from tests.strategies import normal, seeds

GROUPS = [
    {},
    {"n_group": 4, "topk_group": 2},
    {"n_group": 4, "topk_group": 1, "mask_fill": 0.0},
    {"n_group": 12, "topk_group": 3},
]


@given(seed=seeds, T=st.integers(1, 5), exponent=st.integers(-6, 4))
def test_the_choice_is_admissible_and_its_weights_are_right(seed, T, exponent) -> None:
    logits_TE = normal(seed, T, 24, exponent=exponent).astype(np.float32)
    bias_E = (0.1 * normal(seed + 1, 24)).astype(np.float32)
    found = kernels.route(logits_TE, bias_E, top_k=6, scale=2.827)
    score_TE = oracle.router_scores(logits_TE.astype(np.float64))
    choice_TE = score_TE + bias_E.astype(np.float64)
    judged = compare.admissible(choice_TE, found.experts_TK, delta=compare.ROUTER_DELTA["f32"])
    assert judged.verdict is Verdict.PASS, judged.message
    chosen_TK = np.take_along_axis(score_TE, found.experts_TK, axis=1)
    expected_TK = 2.827 * chosen_TK / (chosen_TK.sum(axis=1, keepdims=True) + 1e-20)
    judged = compare.weights_agree(found.weights_TK, expected_TK, F32)
    assert judged.verdict is Verdict.PASS, judged.message


@pytest.mark.parametrize("rule", ["lower_index", "higher_index"])
@pytest.mark.parametrize("groups", GROUPS)
@given(seed=seeds)
def test_ties_and_groups_are_settled_as_in_the_oracle(groups, rule, seed) -> None:
    random = np.random.default_rng(seed)
    # scores of exactly 0, 1/2 and 1, so that equal ones abound
    logits_TE = (200 * random.integers(-1, 2, (3, 24))).astype(np.float32)
    bias_E = random.integers(-2, 1, 24).astype(np.float32)
    found, expected = (
        ops.route(logits_TE, bias_E, top_k=5, scale=2.0, tie_rule=rule, **groups)
        for ops in (kernels, oracle)
    )
    np.testing.assert_array_equal(found.experts_TK, expected.experts_TK)
    np.testing.assert_allclose(found.weights_TK, expected.weights_TK, rtol=8 * UNIT)


def test_weights_stay_scores_when_they_are_not_renormalised() -> None:
    logits_TE = normal(1, 2, 8).astype(np.float32)
    found = kernels.route(logits_TE, np.zeros(8), top_k=2, scale=3.0, renormalise=False)
    scores = kernels.router_scores(logits_TE)
    expected = 3 * np.take_along_axis(scores, found.experts_TK, axis=1)
    np.testing.assert_array_equal(found.weights_TK, expected)


def test_a_score_that_is_no_number_is_chosen_last() -> None:
    logits_TE = np.array([[np.nan, 1.0, np.nan, 2.0]], np.float32)
    for ops in (kernels, oracle):
        routing = ops.route(logits_TE, np.zeros(4, np.float32), top_k=3, scale=1.0)
        assert routing.experts_TK.tolist() == [[3, 1, 0]]


def test_scores_hold_at_the_ends_of_float32() -> None:
    logits_TE = np.array([[0.0, -0.0, 200.0, -200.0, 3e38, -3e38, 1e-40, 17.0, -17.0]], np.float32)
    expected = oracle.router_scores(logits_TE.astype(np.float64))
    within(kernels.router_scores(logits_TE), expected, 8 * UNIT * expected + 2.0**-148)


@pytest.mark.parametrize("in_float32", [True, False])
def test_logits_are_float32_or_rounded_to_the_activations(in_float32: bool) -> None:
    x_TD = normal(1, 3, 40).astype(ml_dtypes.bfloat16)
    w_ED = normal(2, 9, 40).astype(ml_dtypes.bfloat16)
    found = kernels.router_logits(x_TD, w_ED, in_float32=in_float32)
    exact = kernels.router_logits(x_TD.astype(np.float32), w_ED)
    product_agrees(exact, x_TD, w_ED)
    rounded = exact if in_float32 else exact.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(found, rounded)
