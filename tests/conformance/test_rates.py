"""Intervals and counts, against figures that can be looked up or worked out."""

import numpy as np
import pytest

from conformance import rates


def test_clopper_pearson_gives_the_textbook_interval() -> None:
    low, high = rates.clopper_pearson(1958, 1958)
    assert (low, high) == (pytest.approx(0.025 ** (1 / 1958)), 1.0)
    assert rates.clopper_pearson(0, 10) == pytest.approx((0.0, 0.3084971), abs=1e-7)


@pytest.mark.parametrize(
    ("successes", "trials", "target", "verdict"),
    [(1000, 1000, 0.99, "pass"), (50, 100, 0.9, "fail"), (10, 10, 0.9, "inconclusive")],
)
def test_a_rate_is_judged_by_its_interval(
    successes: int, trials: int, target: float, verdict: str
) -> None:
    assert rates.judge_rate(successes, trials, target).verdict == verdict


def test_an_open_rate_says_how_many_samples_would_decide() -> None:
    more = rates.more_needed(10, 10, 0.9)
    assert more is not None
    assert rates.clopper_pearson(10 + more, 10 + more).low >= 0.9


def test_the_g_test_accepts_fair_draws_and_refuses_a_biased_one() -> None:
    probability_W = np.array([0.5, 0.25, 0.125, 0.124, 0.001, 0.0])
    draws = np.random.default_rng(1).choice(6, 10_000, p=probability_W)
    fair_W = np.bincount(draws, minlength=6)
    assert rates.g_test(fair_W, probability_W) > 1e-3
    biased_W = fair_W + np.array([-300, 300, 0, 0, 0, 0])
    assert rates.g_test(biased_W, probability_W) < 1e-6
    impossible_W = fair_W + np.array([0, 0, 0, 0, 0, 1])
    assert rates.g_test(impossible_W, probability_W) == 0


def test_holm_stops_at_the_first_that_stands() -> None:
    assert rates.holm([0.001, 0.03, 0.02], 0.05) == [True, True, True]
    assert rates.holm([0.001, 0.2, 0.03], 0.05) == [True, False, False]
