"""Generation: greedy, sampled, stopped."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2ref import Checkpoint, InputError, Model
from k2ref.generate import Sampling, generate, probabilities
from tests.agree import agree
from tests.strategies import normal, seeds

PROMPT = np.array([5, 6, 7])


def test_greedy_tokens_are_the_largest_logits_of_their_own_prefix(tiny: Checkpoint) -> None:
    model = Model(tiny)
    new = list(generate(model, PROMPT, max_new=6))
    logits_TW = model.forward(np.concatenate([PROMPT, new]))
    stopped = len(new) < 6
    assert new == logits_TW[2:-1].argmax(axis=1).tolist() or stopped


def test_a_seed_repeats_itself(tiny: Checkpoint) -> None:
    runs = [
        list(generate(Model(tiny), PROMPT, max_new=8, sampling=Sampling(1.0, seed=s)))
        for s in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("place", [0, 2])
def test_a_stop_id_ends_the_generation_and_is_part_of_it(tiny: Checkpoint, place: int) -> None:
    model = Model(tiny)
    greedy = list(generate(model, PROMPT, max_new=5))
    model.config = dataclasses.replace(model.config, eos_token_ids=(greedy[place],))
    assert list(generate(model, PROMPT, max_new=5)) == greedy[: greedy.index(greedy[place]) + 1]


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits_W = np.log(np.array([0.2, 0.5, 0.3]))
    agree(probabilities(logits_W, Sampling(1.0, 0.6)), np.array([0, 0.625, 0.375]))
    agree(probabilities(logits_W, Sampling(1.0, 0.5)), np.array([0.0, 1, 0]))
    agree(probabilities(logits_W, Sampling(0.5)), np.array([0.04, 0.25, 0.09]) / 0.38)


@given(seeds, st.floats(0.1, 3), st.floats(1e-9, 1))
def test_a_distribution_sums_to_one_and_keeps_the_best(seed, temperature, top_p) -> None:
    logits_W = normal(seed, 12)
    probability_W = probabilities(logits_W, Sampling(temperature, top_p))
    assert abs(probability_W.sum() - 1) < 1e-12
    assert probability_W.argmax() == logits_W.argmax()
    assert probabilities(logits_W, Sampling())[logits_W.argmax()] == 1


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(-1.0, 1.0), (float("nan"), 1.0), (1.0, 0.0), (1.0, 1.5)]
)
def test_settings_without_meaning_are_refused(temperature: float, top_p: float) -> None:
    with pytest.raises(InputError, match="must"):
        Sampling(temperature, top_p)


@pytest.mark.parametrize("temperature", [0.0, 5e-324, 1.0, 1e308])
def test_any_temperature_gives_a_distribution(temperature: float) -> None:
    probability_W = probabilities(np.array([1e30, 5.0, 1e30 - 1e14]), Sampling(temperature))
    assert abs(probability_W.sum() - 1) < 1e-12
    assert probability_W.argmax() == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nothing_is_drawn_from_logits_that_are_not_finite(value: float) -> None:
    with pytest.raises(InputError, match="the logits are not finite; k2ref forward"):
        probabilities(np.array([0.0, value, 1.0]), Sampling())
