"""Level L5: what an engine generates, token by token.

A runner may offer `generate(ids_T, *, max_new, temperature, top_p, seed) -> ids`. Greedy tokens are
judged after the engine's own prefix, so that one near-tie does not spoil the rest. Sampled tokens
must lie in the set that temperature and top-p leave, and their counts must fit the distribution.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from conformance import compare
from conformance.checks.observe import load
from conformance.compare import Precision, find_precision
from conformance.engine import Engine, EngineError, NotOffered, attempt
from conformance.forcing import Reference
from conformance.rates import g_test
from conformance.results import Agreement, Result, Verdict
from conformance.spec import find_requirement
from k2ref.generate import Sampling, generate, probabilities
from k2ref.model import Model

Generate = Callable[..., Any]
REQUIREMENTS = ("gen:greedy", "gen:support", "gen:distribution")
DECIDES = 2.0**-20  # units of precisions whose tokens can be judged without replaying the routing
PROMPT, NEW, DRAWS = 8, 12, 150
TOP_P, TEMPERATURE = 0.6, 0.7
EDGE = {"f64": 1e-9, "f32": 1e-5}  # of the sum of probabilities at the border of top-p
ALPHA = 1e-4  # one false alarm in ten thousand runs of a correct sampler


def generator_of(runner: Any) -> Generate | None:
    """Find how to generate with a runner: -> function, None where it offers none."""
    if callable(offered := getattr(runner, "generate", None)):
        return offered
    if not isinstance(runner, Model):
        return None

    def generated(ids_T: np.ndarray, *, max_new: int, seed: int = 0, **kw: float) -> list[int]:
        return list(generate(runner, ids_T, max_new=max_new, sampling=Sampling(seed=seed, **kw)))

    return generated


def check_generation(engine: Engine, checkpoint: Path, *, seed: int) -> Iterator[Result]:
    """Put generation to an engine: engine, checkpoint, seed -> three results."""
    blanks = [_blank(id_, seed) for id_ in REQUIREMENTS]
    if find_precision(engine.info.precision).store > DECIDES:
        message = "float32 decides: in a low precision one flipped expert outweighs any limit"
        yield from (replace(b, message=message) for b in blanks)
        return
    try:
        runner = load(engine, checkpoint)
        function = None if runner is None else generator_of(runner)
    except EngineError as error:
        yield from (replace(b, verdict=Verdict.ERRORED, message=str(error)) for b in blanks)
        return
    if function is None:
        message = "the engine offers no generate"
        yield from (replace(b, verdict=Verdict.SKIPPED, message=message) for b in blanks)
        return
    model = Reference(checkpoint, engine.info.numerics).model()
    ids_T = np.random.default_rng(seed).integers(3, model.config.vocab_size, PROMPT)
    precision = find_precision(engine.info.precision)
    for blank, check in zip(blanks, (_greedy, _support, _distribution), strict=True):
        try:
            yield blank.agreeing(check(function, model, ids_T, precision))
        except NotOffered as reason:
            yield replace(blank, message=str(reason))
        except (EngineError, TypeError, ValueError) as error:
            yield replace(blank, verdict=Verdict.ERRORED, message=str(error))


def _blank(requirement: str, seed: int) -> Result:
    return Result(
        case=requirement.replace(":", "-"),
        requirement=requirement,
        level=find_requirement(requirement).level,
        verdict=Verdict.SKIPPED,
        op="generate",
        seed=seed,
    )


def _ask(function: Generate, model: Model, ids_T: np.ndarray, **options: Any) -> np.ndarray:
    """Generate, and check that the answer is ids of the vocabulary: -> new ids."""
    found = np.asarray(list(attempt(function, ids_T, **options)))
    if found.ndim != 1 or found.dtype.kind not in "iu" or len(found) == 0:
        raise EngineError(f"wanted a row of ids, got {found.dtype} {list(found.shape)}")
    if found.min() < 0 or found.max() >= model.config.vocab_size:
        raise EngineError(f"ids must lie in 0 to {model.config.vocab_size - 1}, got {found.max()}")
    ended = found[-1] in model.config.stops
    if len(found) != options["max_new"] and not ended:
        raise EngineError(f"wanted {options['max_new']} tokens or a stop, got {len(found)}")
    return found


def _greedy(function: Generate, model: Model, ids_T: np.ndarray, precision: Precision) -> Agreement:
    new_T = _ask(function, model, ids_T, max_new=NEW, temperature=0.0)
    logits_TW = model.forward(np.concatenate([ids_T, new_T[:-1]]))[len(ids_T) - 1 :]
    return compare.gaps_agree(logits_TW, new_T, precision)


def _support(
    function: Generate, model: Model, ids_T: np.ndarray, precision: Precision
) -> Agreement:
    """Judge each token of a sampled run by the sum of what is more probable: -> Agreement."""
    options = {"temperature": TEMPERATURE, "top_p": TOP_P}
    new_T = _ask(function, model, ids_T, max_new=4 * NEW, seed=1, **options)
    logits_TW = model.forward(np.concatenate([ids_T, new_T[:-1]]))[len(ids_T) - 1 :]
    probability_TW = np.exp(compare.log_probabilities(logits_TW / TEMPERATURE))
    own_T = probability_TW[np.arange(len(new_T)), new_T]
    before_T = np.where(probability_TW > own_T[:, None], probability_TW, 0).sum(axis=1)
    place, limit = int(before_T.argmax()), TOP_P + EDGE[precision.name]
    worst = float(before_T[place])
    verdict = Verdict.PASS if worst < limit else Verdict.FAIL
    message = f"token {place}: {worst:.3f} of the probability is ahead of it, top-p is {TOP_P}"
    kept = "" if verdict is Verdict.PASS else message
    return Agreement(verdict, "support", worst, limit, (place,), message=kept)


def _distribution(
    function: Generate, model: Model, ids_T: np.ndarray, precision: Precision
) -> Agreement:
    """Judge the counts of first tokens of many seeds: -> Agreement by G-test."""
    sampling = Sampling(temperature=TEMPERATURE)
    probability_W = probabilities(model.forward(ids_T, last_only=True)[-1], sampling)
    options = {"max_new": 1, "temperature": TEMPERATURE, "top_p": 1.0}
    drawn = [_ask(function, model, ids_T, seed=s, **options)[0] for s in range(DRAWS)]
    p = g_test(np.bincount(drawn, minlength=len(probability_W)), probability_W)
    verdict = Verdict.PASS if p >= ALPHA else Verdict.FAIL
    message = "" if p >= ALPHA else f"first tokens do not fit the distribution: p = {p:.2g}"
    return Agreement(verdict, "G-test", p, ALPHA, message=message)
