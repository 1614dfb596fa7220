"""Bugs of samplers: temperature, cut, seed, stop ids."""

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.bugs import Bug, replace
from conformance.sampler import Sampler
from k2ref.model import Model


def _step(name: str, change: Callable[..., Any]) -> Callable[[Model], None]:
    """Change a step of the sampler: name, change of the original and its arguments -> change."""

    def model(target: Model) -> None:
        sampler = Sampler(target)
        replace(sampler, name, change)
        sampler.attach()

    return model


def _cut_first(target: Model) -> None:
    """Cut the distribution of temperature 1, then warm what is left."""
    sampler = Sampler(target)

    def distribution(original: Any, logits_W: np.ndarray, temperature: float, top_p: float) -> Any:
        kept_W = original(logits_W, temperature and 1.0, top_p)
        if temperature:
            kept_W = kept_W ** (1 / temperature)
        return kept_W / kept_W.sum()

    replace(sampler, "distribution", distribution)
    sampler.attach()


def _one_less(original: Any, probability_W: np.ndarray, top_p: float) -> np.ndarray:
    kept_W = original(probability_W, top_p)
    if top_p < 1 and (kept_W > 0).sum() > 1:
        kept_W[np.where(kept_W > 0, kept_W, np.inf).argmin()] = 0
    return np.asarray(kept_W)


def _coarse(original: Any, probability_W: np.ndarray, random: Any, count: int) -> np.ndarray:
    """Draw 4-bit random numbers."""
    sum_W = np.cumsum(probability_W)
    coarse_N = np.floor(random.random(count) * 16) / 16
    return np.searchsorted(sum_W / sum_W[-1], coarse_N, side="right")


BUGS = [
    Bug("temp_off", "sampling", "the temperature ignored",
        model=_step("warm", lambda original, logits, temperature: logits)),
    Bug("temp_twice", "sampling", "the temperature applied twice",
        model=_step("warm", lambda original, logits, temperature: logits / temperature**2)),
    Bug("temp_times", "sampling", "multiplied by the temperature",
        model=_step("warm", lambda original, logits, temperature: logits * temperature)),
    Bug("greedy_draws", "sampling", "temperature 0 draws at temperature 1",
        model=_step("distribution", lambda original, logits, temperature, top_p:
            original(logits, temperature or 1.0, top_p))),
    Bug("top_p_off", "sampling", "top-p ignored",
        model=_step("cut", lambda original, probability, top_p: probability)),
    Bug("top_p_first", "sampling", "top-p before temperature", model=_cut_first),
    Bug("top_p_less", "sampling", "the token that reaches top-p left out",
        model=_step("cut", _one_less)),
    Bug("top_p_kept", "sampling", "what top-p leaves does not sum to one: the rest goes to token 0",
        model=_step("cut", lambda original, probability, top_p:
            original(probability, top_p) + (np.arange(len(probability)) == 0)
            * (1 - original(probability, top_p).sum()))),
    Bug("coarse_random", "sampling", "random numbers of four bits",
        model=_step("draw", _coarse)),
    Bug("seed_off", "sampling", "the seed ignored: one stream for all",
        model=_step("stream", lambda original, seed: original(0))),
    Bug("seed_fresh", "sampling", "the seed ignored: fresh numbers each time",
        model=_step("stream", lambda original, seed: np.random.default_rng())),
    Bug("eos_off", "sampling", "goes on after the stop id",
        model=_step("ends", lambda original, token: False)),
    Bug("eos_late", "sampling", "ends one id beside the stop id",
        model=_step("ends", lambda original, token: original(token + 1))),
]  # fmt: skip
