"""The command `bisect`: the first tensor, in causal order, that an engine gets wrong.

Every tensor the engine reports is recomputed from the engine's own tensors before it
(`conformance.forcing`), so what is named is where the error is made, not where it shows.
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from conformance.baseline import Exit
from conformance.checks.observe import Observed, load, observe
from conformance.compare import find_precision
from conformance.engine import Engine, EngineError, NotOffered, open_engine
from conformance.forcing import Finding, Reference, findings
from conformance.profiles import Prompt, build, prompts
from conformance.results import Verdict
from k2ref.errors import InputError
from k2ref.trace import tap_names


class Divergence(NamedTuple):
    """Where an engine first leaves the reference, and under which prompt."""

    prompt: Prompt
    first: Finding | None
    judged: list[Finding]


def add_commands(commands: Any) -> None:
    """Add the command: subparsers."""
    parser = commands.add_parser("bisect", help="name the first tensor that differs")
    parser.add_argument("engine", help="an engine that reports tensors, or dump:DIR")
    parser.add_argument("--precision", choices=("f64", "f32", "bf16"), help="declared precision")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="instead of profile nano")
    parser.add_argument("--seed", type=int, default=0, help="of the checkpoint and the prompts")
    parser.set_defaults(run=run_bisect)


@contextmanager
def checkpoint_of(engine: Engine, given: Path | None, seed: int) -> Iterator[Path]:
    """Choose what to load: the given one, the engine's own, or the profile `nano`: -> directory."""
    if chosen := given or getattr(engine, "checkpoint", None):
        yield Path(chosen)
        return
    with tempfile.TemporaryDirectory(prefix="k2conf-") as folder:
        yield build(Path(folder), "nano", seed=seed)


def bisect(engine: Engine, checkpoint: Path, *, seed: int = 0) -> Iterator[Divergence]:
    """Look for the first wrong tensor under each prompt: engine, checkpoint -> divergences.

    Raises:
        EngineError: the engine failed.
        InputError: it runs no checkpoint, or reports no tensor.
    """
    runner = load(engine, checkpoint)
    if runner is None:
        raise InputError(f"{engine.info.name} runs no checkpoint")
    for prompt in prompts(checkpoint, seed):
        try:
            observed = observe(runner, prompt, checkpoint)
        except NotOffered:
            continue
        yield judge_taps(engine, checkpoint, prompt, observed)


def judge_taps(engine: Engine, checkpoint: Path, prompt: Prompt, observed: Observed) -> Divergence:
    """Judge what an engine reported: -> the first tensor that fails, and all that were judged."""
    if not set(observed.taps) - {"logits"}:
        known = ", ".join(tap_names(Reference(checkpoint, engine.info.numerics).model().config)[:4])
        raise InputError(f"{engine.info.name} reports no tensors; bisect needs some of {known}, …")
    reference = Reference(checkpoint, engine.info.numerics, observed.inv_freq_Z)
    precision = find_precision(engine.info.precision)
    judged = list(findings(reference, prompt.ids_T, prompt.position_T, observed.taps, precision))
    wrong = (f for f in judged if f.agreement.verdict.failed)
    return Divergence(prompt, next(wrong, None), judged)


def run_bisect(options: argparse.Namespace) -> int:
    """Print the first wrong tensor of each prompt: options -> exit code."""
    engine = open_engine(options.engine, precision=options.precision)
    code = Exit.OK
    try:
        with checkpoint_of(engine, options.checkpoint, options.seed) as checkpoint:
            for found in bisect(engine, checkpoint, seed=options.seed):
                print(describe(found))
                code = Exit.REGRESSION if found.first else code
    except EngineError as error:
        raise InputError(f"{options.engine}: {error}") from None
    finally:
        engine.close()
    return code


def describe(found: Divergence) -> str:
    """Write a divergence for people: -> a few lines."""
    head = f"{found.prompt.name}: {len(found.prompt.ids_T)} tokens, "
    if found.first is None:
        worst = max(found.judged, key=lambda f: f.agreement.tau or 0.0)
        return (
            f"{head}{len(found.judged)} tensors agree, "
            f"worst {worst.tap} at {worst.agreement.tau or 0.0:.2f} sigma"
        )
    first = found.first
    later = sum(f.agreement.verdict.failed for f in found.judged) - 1
    before = [f.tap for f in found.judged[: found.judged.index(first)]]
    right = [f.tap for f in found.judged if f.agreement.verdict is Verdict.PASS]
    return "\n".join(
        [
            f"{head}the first tensor that differs is {first.tap} ({first.requirement})",
            f"    {first.agreement.message}",
            f"    {len(before)} tensors before it agree; made from its own inputs, {later} later "
            f"ones differ and {len(right) - len(before)} agree",
        ]
    )
