"""Level L5: what an engine generates, token by token.

Greedy tokens are judged after the engine's own prefix, so that one near-tie does not spoil the
rest. In a low precision they are judged with the engine's routing replayed (asked.py); the figure
before that is shown beside it.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from conformance import compare
from conformance.checks.asked import Asked, generator_of, ids_of, limit_of, unreported
from conformance.checks.observe import load
from conformance.checks.sampling import distribution, prompt_of, support
from conformance.compare import find_precision
from conformance.engine import Engine, EngineError, NotOffered, attempt
from conformance.forcing import Reference
from conformance.results import Agreement, Result, Verdict
from conformance.spec import find_requirement
from k2ref.errors import InputError
from k2ref.generate import generate

NEW = 12


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
    except NotOffered as reason:
        yield from (replace(b, message=str(reason)) for b in blanks.values())
        return
    if runner is None or generator_of(runner) is None:
        message = "the engine offers no generate"
        yield from (replace(b, message=message) for b in blanks.values())
        return
    model = Reference(checkpoint, engine.info.numerics).model()
    ids_T = prompt_of(model, seed)
    precision = find_precision(engine.info.precision)
    asked = Asked(engine, checkpoint, runner, model, ids_T, precision)
    for id_, check in REQUIREMENTS.items():
        yield _judged(blanks[id_], check, asked)


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


def _greedy(asked: Asked) -> tuple[Agreement, dict[str, Any]]:
    unreported(asked)
    new_T = asked.tokens(max_new=NEW, temperature=0.0)
    logits_TW, free_TW = asked.expected(new_T)
    limit = limit_of(asked, "greedy_gap")
    size = float(np.sqrt(np.mean(np.square(logits_TW))))
    figures = {
        "gap": float(compare.generation_gap(logits_TW, new_T).max()) / size,
        "gap_before_replay": float(compare.generation_gap(free_TW, new_T).max()) / size,
    }
    return compare.gaps_agree(logits_TW, new_T, asked.precision, limit=limit), figures


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
        again = ids_of(
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
    "gen:support": support,
    "gen:distribution": distribution,
    "gen:seed": _seed,
    "gen:stop": _stop,
}
