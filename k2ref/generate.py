"""Token after token: greedy, or sampled with temperature and top-p."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from k2ref.errors import InputError
from k2ref.model import Model
from k2ref.oracle.layers import softmax


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from logits. Temperature 0 takes the largest."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise InputError(f"temperature must be 0 or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must lie above 0 and be at most 1, got {self.top_p}")


def probabilities(logits_W: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Turn logits into the distribution that is drawn from: logits_W -> probability_W float64.

    Temperature first, then the smallest set of most probable tokens whose sum reaches top_p.

    Raises:
        InputError: logits that are not finite, from which nothing can be drawn.
    """
    logits_W = logits_W.astype(np.float64)
    if not np.isfinite(logits_W).all():
        raise InputError(
            "the logits are not finite; k2ref forward on the same ids names the first such tensor"
        )
    if sampling.temperature == 0:
        return np.eye(1, len(logits_W), int(logits_W.argmax()))[0]
    with np.errstate(over="ignore"):  # at a tiny temperature all but the largest are -inf
        probability_W = softmax((logits_W - logits_W.max()) / sampling.temperature)
    order_W = np.argsort(-probability_W, kind="stable")
    before_W = np.cumsum(probability_W[order_W]) - probability_W[order_W]
    probability_W[order_W[before_W >= sampling.top_p]] = 0
    return probability_W / probability_W.sum()


def generate(
    model: Model, ids_T: np.ndarray, *, max_new: int, sampling: Sampling | None = None
) -> Iterator[int]:
    """Continue a prompt: ids_T -> ids one by one, the stop id included, at most `max_new`."""
    sampling = sampling or Sampling()
    random = np.random.Generator(np.random.Philox(sampling.seed))
    cache = model.new_cache()
    logits_W = model.forward(ids_T, cache=cache, last_only=True)[-1]
    for count in range(1, max_new + 1):
        probability_W = probabilities(logits_W, sampling)
        token = int(random.choice(len(probability_W), p=probability_W))
        yield token
        if token in model.config.stops or count == max_new:
            return
        logits_W = model.forward(np.array([token]), cache=cache)[-1]
