"""Level L5: what an engine generates, token by token.

A runner may offer `generate(ids_T, *, max_new, temperature, top_p, seed) -> ids`, the stop id
included, and `first_tokens(ids_T, *, count, temperature, top_p, seed) -> ids_N`, as many
independent draws of the next token from one pass; without it `generate` is asked again and again.

Greedy tokens are judged after the engine's own prefix, so that one near-tie does not spoil the
rest. Sampled tokens must lie in the set that temperature and top-p leave, and their counts must fit
the distribution. In a low precision a flipped expert outweighs any limit; there the reference runs
with the routing that the engine reports for the same tokens, and what it expected before that is
shown beside it.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from conformance import compare
from conformance.checks.observe import Collector, load, traced
from conformance.compare import Precision, find_precision
from conformance.engine import Engine, EngineError, NotOffered, attempt
from conformance.forcing import Forced, Reference
from conformance.rates import g_test, holm, smallest_divergence
from conformance.results import Agreement, Result, Verdict
from conformance.spec import find_requirement, read_limits
from k2ref.errors import InputError
from k2ref.generate import Sampling, generate, probabilities
from k2ref.model import Model

Generate = Callable[..., Any]
DECIDES = 2.0**-20  # units of precisions whose tokens can be judged without replaying the routing
PROMPT, NEW, FEW = 8, 12, 150
DRAWS = {"f64": 10_000, "f32": 10_000, "bf16": 1_000}  # rounding must not show in the counts
TOP_P, TEMPERATURE = 0.6, 0.7
TRIES, SEVERAL = 20, 4  # prompts tried, tokens that top-p should leave
EDGE = {"f64": 1e-9, "f32": 1e-5}  # of the sum of probabilities at the border of top-p
CLEAR_EDGE = 1e-3  # how far from top-p sums must stay where counts are taken
ALPHA = 1e-4  # one false alarm in ten thousand runs of a correct sampler


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
        routing = self._routing(ids_T)
        forced = Forced(self.model, routing).run(ids_T, np.arange(len(ids_T)))
        return forced["logits"][start:], free_TW

    def _routing(self, ids_T: np.ndarray) -> dict[str, np.ndarray]:
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
    found = _ids(attempt(function or generate, ids_T, **options), model.config.vocab_size)
    ended = found[-1] in model.config.stops
    if len(found) != options["max_new"] and not ended:
        raise EngineError(f"wanted {options['max_new']} tokens or a stop, got {len(found)}")
    return found


def _ids(answer: Any, W: int) -> np.ndarray:
    found = np.asarray(list(answer))
    if found.ndim != 1 or found.dtype.kind not in "iu" or len(found) == 0:
        raise EngineError(f"wanted a row of ids, got {found.dtype} {list(found.shape)}")
    if found.min() < 0 or found.max() >= W:
        raise EngineError(f"ids must lie in 0 to {W - 1}, got {found.min()} to {found.max()}")
    return found


def check_generation(engine: Engine, checkpoint: Path, *, seed: int) -> Iterator[Result]:
    """Put generation to an engine: engine, checkpoint, seed -> a result of each requirement."""
    blanks = {id_: _blank(id_, seed) for id_ in REQUIREMENTS}
    try:
        runner = load(engine, checkpoint)
    except EngineError as error:
        yield from (
            replace(b, verdict=Verdict.ERRORED, message=str(error)) for b in blanks.values()
        )
        return
    if runner is None or generator_of(runner) is None:
        message = "the engine offers no generate"
        yield from (replace(b, message=message) for b in blanks.values())
        return
    model = Reference(checkpoint, engine.info.numerics).model()
    ids_T = _prompt(model, seed)
    precision = find_precision(engine.info.precision)
    asked = Asked(engine, checkpoint, runner, model, ids_T, precision)
    for id_, check in REQUIREMENTS.items():
        yield _judged(blanks[id_], check, asked)


def _prompt(model: Model, seed: int) -> np.ndarray:
    """Draw a prompt after which several tokens stay, and no sum is near the cut: -> ids_T."""
    random = np.random.default_rng(seed)
    for _ in range(TRIES):
        ids_T = random.integers(3, model.config.vocab_size, PROMPT)
        ahead_W = _ahead_each(model.forward(ids_T, last_only=True)[-1])
        kept = (ahead_W < TOP_P).sum()
        if kept >= SEVERAL and np.abs(ahead_W - TOP_P).min() >= CLEAR_EDGE:
            break
    return ids_T


def _judged(blank: Result, check: "Check", asked: Asked) -> Result:
    try:
        agreement, figures = check(asked)
    except NotOffered as reason:
        return replace(blank, message=str(reason))
    except (EngineError, InputError, TypeError, ValueError) as error:
        return replace(blank, verdict=Verdict.ERRORED, message=str(error))
    result = blank.agreeing(agreement)
    result.data.update(figures)
    return result


def _blank(requirement: str, seed: int) -> Result:
    return Result(
        case=requirement.replace(":", "-"),
        requirement=requirement,
        level=find_requirement(requirement).level,
        verdict=Verdict.SKIPPED,
        op="generate",
        seed=seed,
    )


def _unreported(asked: Asked) -> None:
    """Leave tokens of a low precision unjudged without the routing they came from."""
    if asked.low and not asked._routing(asked.ids_T):
        raise NotOffered("float32 decides: the engine does not report the routing to replay")


def _greedy(asked: Asked) -> tuple[Agreement, dict[str, Any]]:
    _unreported(asked)
    new_T = asked.tokens(max_new=NEW, temperature=0.0)
    logits_TW, free_TW = asked.expected(new_T)
    limit = _limit(asked, "greedy_gap")
    size = float(np.sqrt(np.mean(np.square(logits_TW))))
    figures = {
        "gap": float(compare.generation_gap(logits_TW, new_T).max()) / size,
        "gap_before_replay": float(compare.generation_gap(free_TW, new_T).max()) / size,
    }
    return compare.gaps_agree(logits_TW, new_T, asked.precision, limit=limit), figures


def _limit(asked: Asked, name: str) -> float | None:
    if not asked.low:
        return None
    return compare.FAILS_ABOVE * float(read_limits()[asked.precision.name][name])


def _support(asked: Asked) -> tuple[Agreement, dict[str, Any]]:
    """Judge sampled tokens by the sum of what is more probable.

    In a low precision next tokens alone: what is cached may have visited other experts.
    """
    _unreported(asked)
    if asked.low:
        new_N = _drawn(asked, TOP_P)
        row_W, free_W = (x[-1] for x in asked.expected(asked.ids_T[:1]))
        logits_NW, free_NW = (np.tile(x, (len(new_N), 1)) for x in (row_W, free_W))
    else:
        new_N = asked.tokens(max_new=4 * NEW, seed=1, temperature=TEMPERATURE, top_p=TOP_P)
        logits_NW, free_NW = asked.expected(new_N)
    before_N, free_N = _ahead(logits_NW, new_N), _ahead(free_NW, new_N)
    place, limit = int(before_N.argmax()), TOP_P + _edge(asked)
    worst = float(before_N[place])
    verdict = Verdict.PASS if worst < limit else Verdict.FAIL
    message = f"token {place}: {worst:.3f} of the probability is ahead of it, top-p is {TOP_P}"
    kept = "" if verdict is Verdict.PASS else message
    agreement = Agreement(verdict, "support", worst, limit, (place,), message=kept)
    return agreement, {"ahead": worst - TOP_P, "ahead_before_replay": float(free_N.max()) - TOP_P}


def _edge(asked: Asked) -> float:
    return _limit(asked, "support_edge") or EDGE[asked.precision.name]


def _ahead(logits_TW: np.ndarray, new_T: np.ndarray) -> np.ndarray:
    """Sum what is more probable than each token: logits_TW, new_T -> before_T."""
    probability_TW = np.exp(compare.log_probabilities(logits_TW / TEMPERATURE))
    own_T = probability_TW[np.arange(len(new_T)), new_T]
    return np.asarray(np.where(probability_TW > own_T[:, None], probability_TW, 0).sum(axis=1))


def _ahead_each(logits_W: np.ndarray) -> np.ndarray:
    """Sum what is more probable than each token of the vocabulary: logits_W -> before_W."""
    probability_W = np.exp(compare.log_probabilities(logits_W / TEMPERATURE))
    order_W = np.argsort(-probability_W)
    ahead_W = np.empty_like(probability_W)
    ahead_W[order_W] = np.cumsum(probability_W[order_W]) - probability_W[order_W]
    return ahead_W


def _distribution(asked: Asked) -> tuple[Agreement, dict[str, Any]]:
    """Judge the counts of next tokens, without a cut and with one: G-tests, Holm over both."""
    _unreported(asked)
    p_values: list[float] = []
    figures: dict[str, Any] = {}
    for top_p in (1.0,) if asked.low else (1.0, TOP_P):  # roundings move the cut
        expected_W = _clear(asked, top_p)
        counts_W = np.bincount(_drawn(asked, top_p), minlength=len(expected_W))
        p_values.append(g_test(counts_W, expected_W))
        seen = smallest_divergence(expected_W, int(counts_W.sum()), ALPHA / 2)
        figures |= {f"draws_top_p_{top_p}": int(counts_W.sum()), f"sees_kl_top_p_{top_p}": seen}
    rejected, p = any(holm(p_values, ALPHA)), min(p_values)
    power = max(v for k, v in figures.items() if k.startswith("sees_kl"))
    message = f"{figures['draws_top_p_1.0']} draws see a divergence of {power:.2g} in 99 of 100"
    if rejected:
        message = f"next tokens do not fit the distribution: p = {p:.2g}; {message}"
    verdict = Verdict.FAIL if rejected else Verdict.PASS
    return Agreement(verdict, "G-test", p, ALPHA / 2, message=message), figures


def _clear(asked: Asked, top_p: float) -> np.ndarray:
    """Compute what is drawn from, if no rounding can move the cut: -> probability_W."""
    logits_W = asked.expected(asked.ids_T[:1])[0][-1]
    ahead_W = _ahead_each(logits_W)
    if top_p < 1 and np.abs(ahead_W - top_p).min() < CLEAR_EDGE:
        raise NotOffered(f"a token lies within {CLEAR_EDGE:.2g} of the cut by top-p {top_p}")
    return probabilities(logits_W, Sampling(temperature=TEMPERATURE, top_p=top_p))


def _drawn(asked: Asked, top_p: float) -> np.ndarray:
    """Draw next tokens, many at once where the engine can: -> ids_N."""
    runner, W = asked.runner, asked.model.config.vocab_size
    options = {"temperature": TEMPERATURE, "top_p": top_p}
    count = DRAWS[asked.precision.name]
    if callable(offered := getattr(runner, "first_tokens", None)):
        found_N = _ids(attempt(offered, asked.ids_T, count=count, seed=1, **options), W)
        if len(found_N) != count:
            raise EngineError(f"first_tokens: wanted {count} ids, got {len(found_N)}")
        return found_N
    if type(runner) is Model and "generate" not in vars(runner):
        return _drawn_from(runner, asked.ids_T, count, Sampling(seed=1, **options))
    return np.array([asked.tokens(max_new=1, seed=s, **options)[0] for s in range(FEW)])


def _drawn_from(model: Model, ids_T: np.ndarray, count: int, sampling: Sampling) -> np.ndarray:
    probability_W = probabilities(model.forward(ids_T, last_only=True)[-1], sampling)
    random = np.random.Generator(np.random.Philox(sampling.seed))
    return random.choice(len(probability_W), size=count, p=probability_W)


def _seed(asked: Asked) -> tuple[Agreement, dict[str, Any]]:
    """Ask for one seed twice, and for others: a seed decides what is drawn, and nothing else."""
    options = {"max_new": NEW, "temperature": 1.0, "top_p": 1.0}
    runs = [asked.tokens(seed=seed, **options).tolist() for seed in (1, 1, 2, 3)]
    problem = ""
    if runs[0] != runs[1]:
        problem = "the same seed gave other tokens"
    elif runs[0] == runs[2] == runs[3]:
        problem = "three seeds gave the same tokens"
    verdict = Verdict.FAIL if problem else Verdict.PASS
    return Agreement(verdict, "seed", float(bool(problem)), 0.0, message=problem), {}


def _stop(asked: Asked) -> tuple[Agreement, dict[str, Any]]:
    """Make a token of the engine's own greedy run its stop id, and run it again."""
    said = asked.tokens(max_new=NEW, temperature=0.0).tolist()
    place = next((i for i in range(1, len(said)) if said[i] not in said[:i]), None)
    if place is None:
        raise NotOffered("the greedy run repeats one token; none of it can be the stop id")
    with tempfile.TemporaryDirectory(prefix="k2conf-") as folder:
        changed = with_stop(asked.checkpoint, Path(folder) / "stops", said[place])
        runner = attempt(asked.engine.load, changed)
        if runner is None:
            raise NotOffered("the engine serves one checkpoint, with its own stop ids")
        again = _ids(
            attempt(generator_of(runner) or generate, asked.ids_T, max_new=NEW, temperature=0.0),
            asked.model.config.vocab_size,
        ).tolist()
    wanted = said[: place + 1]
    verdict = Verdict.PASS if again == wanted else Verdict.FAIL
    message = f"wanted {wanted}, ending in the stop id, got {again}"
    kept = "" if verdict is Verdict.PASS else message
    return Agreement(verdict, "stop", float(len(again)), float(len(wanted)), message=kept), {}


def with_stop(checkpoint: Path, directory: Path, stop: int) -> Path:
    """Link a checkpoint under another stop id: checkpoint, new directory, id -> directory."""
    directory.mkdir()
    for path in checkpoint.iterdir():
        if path.name not in ("config.json", "generation_config.json"):
            os.symlink(path.resolve(), directory / path.name)
    table = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    for name, content in (("config.json", table), ("generation_config.json", {})):
        stopping = {**content, "eos_token_id": [stop]}
        (directory / name).write_text(json.dumps(stopping), encoding="utf-8")
    return directory


Check = Callable[[Asked], tuple[Agreement, dict[str, Any]]]
REQUIREMENTS: dict[str, Check] = {
    "gen:greedy": _greedy,
    "gen:support": _support,
    "gen:distribution": _distribution,
    "gen:seed": _seed,
    "gen:stop": _stop,
}
