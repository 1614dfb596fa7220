"""The kit put to the test: engines with one known bug each, and what sees them.

The kill matrix has a row for each bug and a column for each level and precision. Gates: in float32
every bug is seen; in bfloat16 95 % of those that are no allowed choice there; laws without a
reference see 80 %; and no correct engine is ever accused.
"""

import argparse
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from conformance import kit
from conformance.baseline import Exit
from conformance.bugs import Bug, attention, experts, formats, norms, rope, router, sampling
from conformance.cases import all_cases
from conformance.checks.generation import check_generation
from conformance.checks.model import Noise, check_model
from conformance.checks.operations import check_operations
from conformance.compare import find_precision
from conformance.correct import FOREIGN, correct_engines
from conformance.engine import Engine, Namespace, open_engine
from conformance.forcing import Reference, stage_noise
from conformance.noise import zoo
from conformance.profiles import build, build_tiny, prompts
from conformance.results import Result
from conformance.variant import Variant
from k2ref.checkpoint import Checkpoint
from k2ref.errors import InputError
from k2ref.model import Model
from k2ref.numerics import Numerics
from k2ref.progress import bar
from k2ref.trace import Recorder

BUGS = {
    bug.name: bug
    for area in (formats, norms, rope, attention, router, experts, sampling)
    for bug in area.BUGS
}
LEVELS = ("L0", "L1", "L2", "L3", "L4", "L5")
LAWS = "laws"
PRECISIONS = ("f32", "bf16")
WAYS = {"f32": "blas", "bf16": "stored"}  # the correct engine that a bug is planted in
GATES = {"f32": 1.0, "bf16": 0.95}
LAW_GATE = 0.8


def engine_with(bug: Bug, precision: str) -> Namespace:
    """Plant a bug in a correct engine: bug, precision -> engine."""
    variant = Variant(zoo(precision)[WAYS[precision]])
    if bug.ops:
        bug.ops(variant)

    def load(directory: Path) -> Model:
        dtype = find_precision(precision).dtype
        model = Model(Checkpoint(directory), ops=variant, dtype=dtype)
        if bug.model:
            bug.model(model)
        return model

    variant.load = load  # type: ignore[attr-defined]
    return Namespace(variant, name=bug.name, precision=precision)


@dataclass(frozen=True)
class Row:
    """What saw one engine: level to the cases that failed."""

    name: str
    precision: str
    seen_by: dict[str, list[str]] = field(default_factory=dict)
    note: str = ""
    """why it is missing"""

    @property
    def killed(self) -> bool:
        """Tell whether any level saw it: -> bool."""
        return any(cases for level, cases in self.seen_by.items() if level in LEVELS)

    @property
    def breaks_laws(self) -> bool:
        """Tell whether a law saw it: -> bool."""
        return bool(self.seen_by.get(LAWS))


def examine(
    engine: Engine, checkpoint: Path, *, name: str = "", seed: int = 0, noise: Noise | None = None
) -> Row:
    """Put an engine to all levels, and in float32 to the laws: engine, checkpoint -> Row."""
    seen: dict[str, list[str]] = {level: [] for level in (*LEVELS, LAWS)}
    for result in _results(engine, checkpoint, seed, noise):
        if result.verdict.failed:
            seen[LAWS if result.rule == "law" else result.level].append(result.case)
    return Row(name or engine.info.name, engine.info.precision, seen)


def _results(engine: Engine, checkpoint: Path, seed: int, noise: Noise | None) -> Iterator[Result]:
    yield from check_operations(engine, all_cases(seed))
    levels = frozenset({"L3", "L4"})
    yield from check_model(engine, checkpoint, seed=seed, levels=levels, noise=noise)
    yield from check_generation(engine, build_tiny(checkpoint.parent, seed=seed), seed=seed)
    if engine.info.precision == "f32":
        from conformance.checks.laws import Effort, check_laws, check_model_laws  # needs Hypothesis

        yield from check_laws(engine, seed=seed, effort=Effort(examples=6, shrink=False))
        ordinary = Effort(examples=1, shrink=False)
        yield from check_model_laws(engine, seed=seed, effort=ordinary)


def correct_noise(checkpoint: Path, precision: str, *, seed: int) -> Noise:
    """Measure noise on a correct engine's tensors, for engines with bugs to share: -> Noise.

    A bug is seen where it is made, from right inputs, so the noise of right inputs will do.
    """
    model = Model(Checkpoint(checkpoint), dtype=find_precision(precision).dtype)
    noise: Noise = {}
    for prompt in prompts(checkpoint, seed):
        where = prompt.ids_T, prompt.position_T
        recorder = Recorder()
        model.forward(*where, trace=recorder)
        taps = {name: recorder[name] for name in recorder.names()}
        declared = find_precision(precision)
        reference = Reference(checkpoint, Numerics())
        noise[prompt.name] = stage_noise(reference, *where, taps, declared)
    return noise


@dataclass(frozen=True)
class Matrix:
    """The rows of the bugs and of the correct engines, and which of these are not installed."""

    bugs: list[Row]
    correct: list[Row]
    missing: list[Row] = field(default_factory=list)

    def survivors(self, precision: str) -> list[str]:
        """List bugs that nothing saw and that are no allowed choice: precision -> names."""
        return [
            r.name
            for r in self.bugs
            if r.precision == precision and not r.killed and precision not in BUGS[r.name].legal_in
        ]

    def share(self, precision: str) -> float:
        """Measure the share of bugs seen, allowed choices left out: precision -> share."""
        counted = [
            r
            for r in self.bugs
            if r.precision == precision and precision not in BUGS[r.name].legal_in
        ]
        return sum(r.killed for r in counted) / len(counted) if counted else 1.0

    def share_of_laws(self) -> float:
        """Measure the share of bugs that laws see in float32: -> share."""
        rows = [r for r in self.bugs if r.precision == "f32"]
        return sum(r.breaks_laws for r in rows) / len(rows) if rows else 1.0

    def accused(self) -> list[Row]:
        """List correct engines that a check failed: -> rows."""
        return [r for r in self.correct if r.killed or r.breaks_laws]

    def broken_gates(self) -> list[str]:
        """List the gates that do not hold: -> sentences."""
        sentences = [
            f"{precision}: {self.share(precision):.1%} of bugs seen, {gate:.0%} wanted; "
            f"missed {', '.join(self.survivors(precision))}"
            for precision, gate in GATES.items()
            if self.share(precision) < gate
        ]
        if self.share_of_laws() < LAW_GATE:
            sentences.append(f"laws: {self.share_of_laws():.1%} seen, {LAW_GATE:.0%} wanted")
        return sentences + [
            f"{r.precision}: accuses the correct engine {r.name}: {r.seen_by}"
            for r in self.accused()
        ]


def kill_matrix(
    names: Iterable[str], precisions: Iterable[str], *, seed: int = 0
) -> Iterator[tuple[str, Row]]:
    """Examine bugs and correct engines: names, precisions -> kind (as in `Matrix`) and row."""
    bugs = [find_bug(name) for name in names]
    with tempfile.TemporaryDirectory(prefix="k2conf-") as folder:
        checkpoint = build(Path(folder), "nano", seed=seed)
        for precision in precisions:
            for engine in correct_engines(precision):
                yield "correct", examine(engine, checkpoint, seed=seed)
            for address in FOREIGN[precision]:
                yield examine_foreign(address, precision, checkpoint, seed=seed)
            noise = correct_noise(checkpoint, precision, seed=seed)
            for bug in bugs:
                engine = engine_with(bug, precision)
                yield "bugs", examine(engine, checkpoint, seed=seed, noise=noise)


def examine_foreign(
    address: str, precision: str, checkpoint: Path, *, seed: int
) -> tuple[str, Row]:
    """Examine another implementation, or say what is not installed: address -> kind and row."""
    try:
        engine = open_engine(address)
    except InputError as error:
        return "missing", Row(address, precision, note=str(error))
    try:
        return "correct", examine(engine, checkpoint, name=address, seed=seed)
    finally:
        engine.close()


def find_bug(name: str) -> Bug:
    """Look up a bug: name -> Bug."""
    if name not in BUGS:
        raise InputError(f"no bug {name!r}; the bugs are {', '.join(BUGS)}")
    return BUGS[name]


def add_commands(commands: Any) -> None:
    """Add the command `mutants`: subparsers."""
    parser = commands.add_parser("mutants", help="the kill matrix: which level sees which bug")
    parser.add_argument("--only", action="append", metavar="BUG", help="may be repeated")
    parser.add_argument("--zoo", action="store_true", help="the correct engines alone")
    parser.add_argument("--precision", action="append", choices=PRECISIONS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT", help="the matrix as data")
    parser.set_defaults(run=run_mutants)


def run_mutants(options: argparse.Namespace) -> int:
    """Print the kill matrix and check the gates: options -> exit code."""
    for package in ("hypothesis", "scipy"):
        kit.need(package, "mutants")
    console = Console()
    matrix = Matrix([], [])
    names = [] if options.zoo else options.only or list(BUGS)
    precisions = options.precision or list(PRECISIONS)
    total = sum(len(names) + len([*correct_engines(p), *FOREIGN[p]]) for p in precisions)
    with bar() as progress, np.errstate(all="ignore"):  # broken engines divide by zero, too
        task = progress.add_task("engines", total=total)
        for kind, row in kill_matrix(names, precisions, seed=options.seed):
            getattr(matrix, kind).append(row)
            progress.advance(task)
    console.print(_table(matrix))
    if options.json:
        options.json.write_text(json.dumps(_data(matrix), indent=1) + "\n", encoding="utf-8")
    for row in matrix.missing:
        console.print(f"missing: {row.name}: {row.note}")
    for precision in precisions if names else []:
        console.print(f"{precision}: {matrix.share(precision):.1%} of bugs seen")
    if names and "f32" in precisions:
        console.print(f"laws: {matrix.share_of_laws():.1%} of bugs seen in float32")
    console.print(f"{len(matrix.accused())} of {len(matrix.correct)} correct engines accused")
    broken = matrix.broken_gates()
    for sentence in broken:
        console.print(f"gate: {sentence}")
    return Exit.REGRESSION if broken else Exit.OK


def _table(matrix: Matrix) -> Table:
    table = Table("engine", "precision", *LEVELS, LAWS, "bug", show_edge=False)
    for row in [*matrix.correct, *matrix.bugs]:
        cells = [str(len(row.seen_by[level]) or "") for level in (*LEVELS, LAWS)]
        told = BUGS.get(row.name)
        legal = told is not None and row.precision in told.legal_in
        what = "correct" if told is None else told.what + (" (allowed)" if legal else "")
        table.add_row(row.name, row.precision, *cells, what)
    return table


def _data(matrix: Matrix) -> dict[str, Any]:
    return {
        "schema": "kill-matrix.1",
        "correct": [vars(r) for r in matrix.correct],
        "missing": [vars(r) for r in matrix.missing],
        "bugs": [
            {
                **vars(r),
                "what": BUGS[r.name].what,
                "thread": BUGS[r.name].thread,
                "allowed": r.precision in BUGS[r.name].legal_in,
            }
            for r in matrix.bugs
        ],
    }
