"""The rules of equality: each with what it must accept and what it must refuse."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance import compare
from conformance.compare import PRECISIONS
from conformance.results import Verdict

F32 = PRECISIONS["f32"]


def test_exact_names_the_first_value_that_differs() -> None:
    found = compare.exact(np.array([[1, 2], [4, 4]]), np.array([[1, 2], [3, 4]]))
    assert (found.verdict, found.where) == (Verdict.FAIL, (1, 0))
    assert "wanted 3, got 4" in found.message


def test_exact_does_not_round_what_it_compares() -> None:
    near = np.array([1.0 + 2.0**-40])
    assert compare.exact(near, np.array([1.0], np.float32)).verdict is Verdict.FAIL
    assert compare.exact(np.array([1.0], ml_dtypes.bfloat16), np.array([1.0])).verdict == "pass"


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (np.zeros((2, 3)), "wanted shape [3, 2], got [2, 3]"),
        (np.zeros((3, 2), np.int32), "wanted floating-point numbers, got int32"),
        (np.zeros((3, 2), np.complex64), "wanted floating-point numbers, got complex64"),
        (np.full((3, 2), np.nan), "NaN or infinity at [0, 0]"),
        ([[0.0]], "wanted an array, got list"),
    ],
)
def test_what_cannot_be_compared_is_said(found: object, words: str) -> None:
    wanted = np.zeros((3, 2))
    assert compare.misfit(found, wanted) == words
    for outcome in (
        compare.bounded(found, wanted, wanted),
        compare.within_noise(found, wanted, np.ones(3), F32),
        compare.logits_agree(found, wanted),
    ):
        assert outcome.verdict.failed


def test_the_bound_of_a_product_covers_any_order_of_the_sum() -> None:
    random = np.random.default_rng(0)
    x_TL = random.standard_normal((4, 777)).astype(np.float32) * np.float32(100)
    w_ML = random.standard_normal((9, 777)).astype(np.float32)
    exact_TM = x_TL.astype(np.float64) @ w_ML.astype(np.float64).T
    bound_TM = compare.linear_bound(x_TL.astype(np.float64), w_ML.astype(np.float64), F32)
    one_by_one = np.zeros((4, 9), np.float32)
    for column in range(777):
        one_by_one += x_TL[:, column, None] * w_ML[:, column]
    for result in (one_by_one, x_TL @ w_ML.T):
        assert compare.bounded(result, exact_TM, bound_TM).verdict == "pass"
    lost = x_TL[:, :-1] @ w_ML[:, :-1].T
    assert compare.bounded(lost, exact_TM, bound_TM).verdict == "fail"


def test_an_error_above_the_noise_is_loose_in_float32_and_fails_in_bfloat16() -> None:
    wanted, sigma = np.ones((2, 4)), np.full(2, 1e-3)
    for error, single, half in (
        (5e-3, "pass", "pass"),
        (5e-2, "loose", "fail"),
        (0.2, "fail", "fail"),
    ):
        for precision, verdict in (("f32", single), ("bf16", half)):
            outcome = compare.within_noise(wanted + error, wanted, sigma, PRECISIONS[precision])
            assert outcome.verdict == verdict
            assert outcome.tau == pytest.approx(error / 1e-3)


def test_a_row_without_noise_must_be_exact() -> None:
    wanted, sigma = np.zeros((2, 4)), np.zeros(2)
    assert compare.within_noise(wanted, wanted, sigma, F32).verdict == "pass"
    assert compare.within_noise(wanted + 1e-30, wanted, sigma, F32).verdict == "fail"


def test_slack_is_negative_for_a_clear_choice_and_infinite_for_no_set() -> None:
    choice_TE = np.array([[0.9, 0.5, 0.7, 0.1]])
    for experts, slack in (
        ([0, 2], 0.5 - 0.7),
        ([2, 0], 0.5 - 0.7),
        ([0, 1], 0.7 - 0.5),
        ([0, 0], np.inf),
        ([0, 4], np.inf),
        ([0, -1], np.inf),
    ):
        assert compare.routing_slack(choice_TE, np.array([experts]))[0] == pytest.approx(slack)


@given(st.lists(st.integers(-3, 3), min_size=4, max_size=9), st.integers(1, 3))
def test_the_largest_scores_always_have_no_slack(scores: list[int], top_k: int) -> None:
    choice_TE = np.array([scores], np.float64)
    best = np.argsort(-choice_TE, axis=1)[:, :top_k]
    assert compare.routing_slack(choice_TE, best)[0] <= 0
    assert compare.routing_margin(choice_TE, top_k)[0] >= 0


def test_weights_may_differ_by_eight_units_and_no_more() -> None:
    wanted = np.array([[0.5, 2.0]])
    near = (wanted * (1 + 7 * 2.0**-23)).astype(np.float32)
    far = (wanted * (1 + 20 * 2.0**-23)).astype(np.float32)
    assert compare.weights_agree(near, wanted, F32).verdict == "pass"
    assert compare.weights_agree(far, wanted, F32).verdict == "fail"


def test_divergence_is_zero_for_shifted_logits_and_positive_otherwise() -> None:
    logits_TW = np.array([[0.0, 1.0, 2.0]])
    assert compare.divergence(logits_TW + 7, logits_TW)[0] == pytest.approx(0, abs=1e-15)
    swapped = logits_TW[:, ::-1]
    p = np.exp(logits_TW[0]) / np.exp(logits_TW[0]).sum()
    assert compare.divergence(swapped, logits_TW)[0] == pytest.approx(2 * (p[2] - p[0]))


def test_a_generated_token_may_only_be_a_near_tie() -> None:
    logits_TW = np.array([[1.0, 3.0, 3.0 - 1e-5], [2.0, 0.0, 1.0]])
    assert compare.gaps_agree(logits_TW, np.array([2, 0]), F32).verdict == "pass"
    outcome = compare.gaps_agree(logits_TW, np.array([2, 2]), F32)
    assert (outcome.verdict, outcome.where) == (Verdict.FAIL, (1,))


def test_experts_that_are_no_set_are_said_to_be_none() -> None:
    for chosen in ([0, 0], [-1, 2], [1, 9]):
        found = compare.admissible(np.ones((1, 4)), np.array([chosen]), delta=0.1)
        assert found.verdict == "fail"
        assert found.message == f"token 0: {chosen[0]}, {chosen[1]} are no 2 different experts of 4"
