"""Generation with its steps open: a correct sampler, and one with a bug once a step is replaced.

It shares no function with `k2ref.generate`.
"""

import numpy as np

from k2ref.model import Model


class Sampler:
    """How an engine turns logits into tokens. Methods call each other through `self`."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def attach(self) -> None:
        """Let the model generate with this sampler."""
        vars(self.model).update(generate=self.generate, first_tokens=self.first_tokens)

    def warm(self, logits_W: np.ndarray, temperature: float) -> np.ndarray:
        """Divide by the temperature: logits_W -> logits_W."""
        return logits_W / temperature

    def cut(self, probability_W: np.ndarray, top_p: float) -> np.ndarray:
        """Keep the fewest most probable tokens that reach top_p: -> the rest of probability_W 0."""
        kept_W, total = np.zeros_like(probability_W), 0.0
        for token in np.argsort(-probability_W, kind="stable"):
            if total >= top_p:
                break
            total += probability_W[token]
            kept_W[token] = probability_W[token]
        return kept_W

    def distribution(self, logits_W: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
        """Say what a token is drawn from: logits_W -> probability_W."""
        if self.greedy(temperature):
            return np.asarray(np.arange(len(logits_W)) == logits_W.argmax(), np.float64)
        warm_W = self.warm(logits_W.astype(np.float64), temperature)
        power_W = np.exp(warm_W - warm_W.max())
        kept_W = self.cut(power_W / power_W.sum(), top_p)
        return kept_W / kept_W.sum()

    def greedy(self, temperature: float) -> bool:
        """Tell whether the best token is taken: temperature -> bool."""
        return temperature == 0

    def stream(self, seed: int) -> np.random.Generator:
        """Start the random numbers of a request: seed -> generator."""
        return np.random.default_rng(seed)

    def draw(
        self, probability_W: np.ndarray, random: np.random.Generator, count: int
    ) -> np.ndarray:
        """Draw tokens by the inverse of the sums: probability_W, generator, count -> ids_N."""
        sum_W = np.cumsum(probability_W)
        return np.searchsorted(sum_W / sum_W[-1], random.random(count), side="right")

    def ends(self, token: int) -> bool:
        """Tell whether a token ends the generation: token -> bool."""
        return token in self.model.config.stops

    def generate(
        self,
        ids_T: np.ndarray,
        *,
        max_new: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[int]:
        """Continue a prompt: ids_T -> ids, the stop id included."""
        random, cache, found = self.stream(seed), self.model.new_cache(), list[int]()
        pending_T = np.asarray(ids_T)
        while len(found) < max_new and not (found and self.ends(found[-1])):
            logits_W = self.model.forward(pending_T, cache=cache)[-1]
            probability_W = self.distribution(logits_W, temperature, top_p)
            found.append(int(self.draw(probability_W, random, 1)[0]))
            pending_T = np.array(found[-1:])
        return found

    def first_tokens(
        self, ids_T: np.ndarray, *, count: int, temperature: float, top_p: float, seed: int
    ) -> np.ndarray:
        """Draw the next token many times from one pass: ids_T -> ids_N."""
        probability_W = self.distribution(self.model.forward(ids_T)[-1], temperature, top_p)
        return self.draw(probability_W, self.stream(seed), count)
