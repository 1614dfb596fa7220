"""What an endpoint asks for tokens: a checkpoint run by `k2ref`, or anything that yields ids."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from k2ref.generate import Sampling, probabilities
from k2ref.model import Model


class Step(NamedTuple):
    """A generated token, its logprob, and those of the likeliest tokens."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Brain(Protocol):
    """A source of tokens."""

    @property
    def context(self) -> int:
        """How many tokens a prompt and its answer may have together."""
        ...

    def __call__(self, ids: Sequence[int], sampling: Sampling, top: int) -> Iterator[Step]:
        """Continue a prompt without end: ids, sampling, number of alternatives -> steps."""
        ...


@dataclass(frozen=True)
class ModelBrain:
    """A checkpoint, run token by token."""

    model: Model
    chunk: int = 512

    @property
    def context(self) -> int:
        """The longest sequence of the checkpoint."""
        return self.model.config.max_position_embeddings

    def __call__(self, ids: Sequence[int], sampling: Sampling, top: int) -> Iterator[Step]:
        """Continue a prompt without end: ids, sampling, number of alternatives -> steps."""
        random = np.random.Generator(np.random.Philox(sampling.seed))
        cache = self.model.new_cache()
        for start in range(0, len(ids), self.chunk):
            part = np.array(ids[start : start + self.chunk])
            logits_W = self.model.forward(part, cache=cache, last_only=True)[-1]
        while True:
            step = choose(logits_W, sampling, random, top)
            yield step
            logits_W = self.model.forward(np.array([step.id]), cache=cache)[-1]


def choose(logits_W: np.ndarray, sampling: Sampling, random: np.random.Generator, top: int) -> Step:
    """Draw a token and say how likely it was: logits_W -> Step.

    Logprobs are those of the model, before temperature and top-p.
    """
    logits_W = logits_W.astype(np.float64)
    logprob_W = logits_W - logits_W.max()
    logprob_W -= np.log(np.exp(logprob_W).sum())
    probability_W = probabilities(logits_W, sampling)
    token = int(random.choice(len(probability_W), p=probability_W))
    order = np.argsort(-logprob_W, kind="stable")[:top]
    return Step(token, float(logprob_W[token]), tuple((int(n), float(logprob_W[n])) for n in order))
