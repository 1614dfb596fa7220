"""What generation is asked of an engine, and what the reference says about its tokens.

A runner may offer `generate(ids_T, *, max_new, temperature, top_p, seed) -> ids`, the stop id
included. In a low precision a flipped expert outweighs any limit; there the reference runs with the
routing that the engine reports for the same tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conformance import compare
from conformance.checks.observe import Collector, traced
from conformance.compare import Precision
from conformance.engine import Engine, EngineError, NotOffered, attempt
from conformance.forcing import Forced
from conformance.spec import read_limits
from k2ref.generate import Sampling, generate
from k2ref.model import Model

Generate = Callable[..., Any]
DECIDES = 2.0**-20  # units of precisions whose tokens can be judged without replaying the routing


@dataclass(frozen=True)
class Asked:
    """An engine that generates, and the reference for what it says."""

    engine: Engine
    checkpoint: Path
    runner: Any
    model: Model
    ids_T: np.ndarray
    precision: Precision

    @property
    def low(self) -> bool:
        """Tell whether the routing must be replayed: -> bool."""
        return self.precision.store > DECIDES

    def tokens(self, **options: Any) -> np.ndarray:
        """Generate from the prompt, and check that the answer is ids: options -> new_T."""
        return checked(generator_of(self.runner), self.model, self.ids_T, **options)

    def expected(self, new_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run the reference over what was said: new_T -> logits_TW, and those before the replay."""
        ids_T = np.concatenate([self.ids_T, new_T[:-1]]).astype(np.int64)
        start = len(self.ids_T) - 1
        free_TW = self.model.forward(ids_T)[start:]
        if not self.low:
            return free_TW, free_TW
        routing = self.routing(ids_T)
        forced = Forced(self.model, routing).run(ids_T, np.arange(len(ids_T)))
        return forced["logits"][start:], free_TW

    def routing(self, ids_T: np.ndarray) -> dict[str, np.ndarray]:
        collector = Collector()
        attempt(self.runner.forward, ids_T, np.arange(len(ids_T)), **traced(self.runner, collector))
        kept = (".experts", ".weights")
        return {name: tap for name, tap in collector.taps.items() if name.endswith(kept)}


def generator_of(runner: Any) -> Generate | None:
    """Find how to generate with a runner: -> function, None where it offers none."""
    if callable(offered := getattr(runner, "generate", None)):
        return offered
    if not isinstance(runner, Model):
        return None

    def generated(ids_T: np.ndarray, *, max_new: int, seed: int = 0, **kw: float) -> list[int]:
        return list(generate(runner, ids_T, max_new=max_new, sampling=Sampling(seed=seed, **kw)))

    return generated


def checked(
    function: Generate | None, model: Model, ids_T: np.ndarray, **options: Any
) -> np.ndarray:
    """Generate, and check that the answer is ids of the vocabulary: -> new ids."""
    found = ids_of(attempt(function or generate, ids_T, **options), model.config.vocab_size)
    ended = found[-1] in model.config.stops
    if len(found) != options["max_new"] and not ended:
        raise EngineError(f"wanted {options['max_new']} tokens or a stop, got {len(found)}")
    return found


def ids_of(answer: Any, W: int) -> np.ndarray:
    """Check that an answer is ids of the vocabulary: answer, W -> new_T."""
    found = np.asarray(list(answer))
    if found.ndim != 1 or found.dtype.kind not in "iu" or len(found) == 0:
        raise EngineError(f"wanted a row of ids, got {found.dtype} {list(found.shape)}")
    if found.min() < 0 or found.max() >= W:
        raise EngineError(f"ids must lie in 0 to {W - 1}, got {found.min()} to {found.max()}")
    return found


def unreported(asked: Asked) -> None:
    """Leave tokens of a low precision unjudged without the routing they came from."""
    if asked.low and not asked.routing(asked.ids_T):
        raise NotOffered("float32 decides: the engine does not report the routing to replay")


def limit_of(asked: Asked, name: str) -> float | None:
    """Find the limit of a figure in a low precision; None where there is none."""
    if not asked.low:
        return None
    return compare.FAILS_ABOVE * float(read_limits()[asked.precision.name][name])
