"""The frozen vectors in `spec/vectors/`: what engines in any language are given and must answer.

`k2conf vectors build` writes them from seed 0: inputs as the engine gets them, answers of the
float64 oracle, the noise of each row per precision, and the bugs of the catalogue that the case
sees. Nothing is written before a second implementation (`conformance.textbook`) agrees to 1e-12.

One JSON file per operation holds its cases; arrays of more than a few hundred numbers lie in a
safetensors file beside it. `manifest.json` holds the SHA-256 of every file; its own hash names the
vectors in every report.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from conformance import compare, kit, textbook
from conformance.baseline import Exit
from conformance.calls import answers
from conformance.cases import Case, all_cases
from conformance.checks.operations import check_case
from conformance.compare import PRECISIONS
from conformance.judge import reference
from conformance.mutants import BUGS, engine_with
from conformance.noise import in_float64
from conformance.spec import find_requirement
from k2ref.errors import InputError
from k2ref.numerics import Numerics
from k2ref.shards import Maps, read_header
from k2ref.spec import spec_path

SCHEMA = "vectors.1"
INLINE = 300  # numbers that still read well in a diff
FOLDER = "vectors"


def cross_check(case: Case) -> float:
    """Compare the oracle with the textbook on a case: case -> largest relative difference.

    Raises:
        InputError: they differ by more than 1e-12, or the oracle breaks a law: not to be frozen.
    """
    if case.rule == "law":
        kit.need("hypothesis", "laws")
        from conformance.checks.laws import vouch

        vouch(case)
        return 0.0
    table = in_float64(case.inputs(PRECISIONS["f64"]))
    choice = next(iter(case.answers.values()), {})
    told = answers(case.op, textbook.OPERATIONS[case.op]({**table, **choice}))
    wanted = reference(case, PRECISIONS["f64"], Numerics())
    worst = 0.0
    for name, array in wanted.answers.items():
        expected = np.asarray(array, np.float64)
        outcome = compare.twins(np.asarray(told[name], np.float64), expected)
        if outcome.verdict.failed:
            raise InputError(f"{case.id}: oracle and textbook differ: {outcome.message}")
        worst = max(worst, outcome.measure * compare.TWIN_LIMIT)
    return worst


def entry(case: Case, store: dict[str, np.ndarray], kills: list[str]) -> dict[str, Any]:
    """Write a case as data: case, where large arrays go, bugs it sees -> JSON table."""

    def written(kind: str, values: dict[str, Any]) -> dict[str, Any]:
        return {n: _written(f"{case.id}/{kind}/{n}", v, store) for n, v in values.items()}

    table: dict[str, Any] = {
        "id": case.id,
        "requirement": case.requirement,
        "why": case.why,
        "inputs": written("inputs", case.inputs(PRECISIONS["f32"])),
        "compare": case.rule,
        "result": "question" if case.is_question else "required",
        "seed": case.seed,
        "links": list(find_requirement(case.requirement).threads),
        "kills": kills,
    }
    if case.rule == "law":
        return table
    wanted = reference(case, PRECISIONS["f32"], Numerics())
    if case.is_question:
        named = {n: written(f"answers/{n}", a) for n, a in wanted.choices.items()}
        return {**table, "answers": named}
    table["expected"] = written("expected", wanted.answers)
    table["limits"] = _limits(case)
    return table


def _limits(case: Case) -> dict[str, Any]:
    """Write what an engine is allowed, per precision: case -> table."""
    limits: dict[str, Any] = {}
    for name in ("f32", "bf16"):
        wanted = reference(case, PRECISIONS[name], Numerics())
        if wanted.sigma is not None:
            limits[name] = {"tau": compare.TAU_FAILS[name], "sigma": _short(wanted.sigma)}
        if wanted.bound is not None:
            limits[name] = {"bound": _short(wanted.bound)}
        if case.rule == "route":
            limits[name] = {"slack": compare.ROUTER_DELTA["f32"], "units": compare.WEIGHT_UNITS}
    return limits


def _short(values: np.ndarray) -> Any:
    """Keep three digits, which are the same on every machine: values -> lists."""
    return np.vectorize(lambda x: float(f"{x:.3g}"))(values).tolist()


def _written(name: str, value: Any, store: dict[str, np.ndarray]) -> Any:
    if not isinstance(value, np.ndarray | np.generic):
        return list(value) if isinstance(value, tuple) else value
    array = np.ascontiguousarray(value)
    told: dict[str, Any] = {"dtype": str(array.dtype), "shape": list(array.shape)}
    if array.size > INLINE:
        store[name] = array
        return {**told, "tensor": name}
    wide = array if array.dtype.kind in "iu" else array.astype(np.float64)
    return {**told, "data": wide.tolist()}


def read(folder: Path, op: str) -> Iterator[dict[str, Any]]:
    """Read the cases of an operation, arrays in place: folder, op -> tables."""

    large, maps = folder / f"{op}.safetensors", Maps()
    entries = read_header(large) if large.exists() else {}

    def placed(value: Any) -> Any:
        if isinstance(value, dict) and "dtype" in value:
            if "tensor" in value:
                return maps.view(entries[value["tensor"]])
            dtype = getattr(ml_dtypes, value["dtype"], value["dtype"])
            return np.array(value["data"], np.float64).astype(dtype).reshape(value["shape"])
        return {k: placed(v) for k, v in value.items()} if isinstance(value, dict) else value

    table = json.loads((folder / f"{op}.json").read_text(encoding="utf-8"))
    if table.get("schema") != SCHEMA:
        raise InputError(f"{folder / op}.json: wanted schema {SCHEMA}, got {table.get('schema')!r}")
    yield from (placed(case) for case in table["cases"])


def build(folder: Path, *, kills: dict[str, list[str]] | None = None) -> float:
    """Write every vector: new folder -> largest difference between the two implementations.

    `kills`: the bugs each case sees, where they are known; found out by trying otherwise.
    """
    cases = all_cases(0)
    return write(folder, cases, kills=killed_by(cases) if kills is None else kills)


def write(folder: Path, cases: tuple[Case, ...], *, kills: dict[str, list[str]]) -> float:
    """Write cases into a new folder: -> largest difference between the two implementations."""
    folder.mkdir(parents=True)
    worst = max(cross_check(case) for case in cases)
    for op in sorted({c.op for c in cases}):
        store: dict[str, np.ndarray] = {}
        entries = [entry(c, store, kills[c.id]) for c in cases if c.op == op]
        table = {"schema": SCHEMA, "op": op, "cases": entries}
        _write_json(folder / f"{op}.json", table)
        if store:
            save_file(store, folder / f"{op}.safetensors")
            (folder / f"{op}.safetensors").chmod(0o644)
    _write_json(folder / "manifest.json", _manifest(folder, cases))
    return worst


def killed_by(cases: tuple[Case, ...]) -> dict[str, list[str]]:
    """Find the bugs that each case sees in float32: cases -> case id to names."""
    kills: dict[str, list[str]] = {case.id: [] for case in cases}
    for bug in BUGS.values():
        engine = engine_with(bug, "f32")
        for case in cases if bug.ops else ():
            if check_case(engine, case, PRECISIONS["f32"]).verdict.failed:
                kills[case.id].append(bug.name)
    return kills


def _manifest(folder: Path, cases: tuple[Case, ...]) -> dict[str, Any]:
    files = sorted(p for p in folder.iterdir() if p.name != "manifest.json")
    laws = "; the oracle keeps every law" * any(c.rule == "law" for c in cases)
    return {
        "schema": "manifest.1",
        "agreement": f"oracle and textbook to 1e-12{laws}",
        "files": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
        "cases": {c.id: {"op": c.op, "requirement": c.requirement} for c in cases},
    }


def _write_json(path: Path, table: dict[str, Any]) -> None:
    """Write one case a line group: path, table."""
    path.write_text(_layout(table), encoding="utf-8")


def _layout(value: Any, depth: int = 0) -> str:
    """Indent tables and lists of tables, and keep rows of numbers on a line: value -> text."""
    pad = " " * (depth + 1)
    if isinstance(value, dict) and value:
        rows = (f"{pad}{json.dumps(k)}: {_layout(v, depth + 1)}" for k, v in value.items())
        inner = ",\n".join(rows)
        return f"{{\n{inner}\n{' ' * depth}}}" + ("\n" if depth == 0 else "")
    if isinstance(value, list) and value and isinstance(value[0], dict):
        inner = ",\n".join(pad + _layout(v, depth + 1) for v in value)
        return f"[\n{inner}\n{' ' * depth}]"
    return json.dumps(value)


def differences(folder: Path, other: Path) -> list[str]:
    """List what differs between two folders of vectors: -> sentences."""
    mine, theirs = _cases_in(folder), _cases_in(other)
    sentences = [f"{id_}: only in {folder}" for id_ in sorted(mine.keys() - theirs.keys())]
    sentences += [f"{id_}: only in {other}" for id_ in sorted(theirs.keys() - mine.keys())]
    for id_ in sorted(mine.keys() & theirs.keys()):
        sentences += [f"{id_}: {place}" for place in _unlike(mine[id_], theirs[id_])]
    return sentences


def _cases_in(folder: Path) -> dict[str, dict[str, Any]]:
    files = [p for p in sorted(folder.glob("*.json")) if p.name != "manifest.json"]
    if not files:
        raise InputError(f"{folder}: no vectors there")
    return {case["id"]: case for path in files for case in read(folder, path.stem)}


def _unlike(mine: Any, theirs: Any, place: str = "") -> Iterator[str]:
    """Find unequal places; answers may differ by the roundings of a machine: -> places."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in sorted(mine.keys() | theirs.keys()):
            yield from _unlike(mine.get(key), theirs.get(key), f"{place}/{key}".lstrip("/"))
    elif isinstance(mine, np.ndarray) and isinstance(theirs, np.ndarray):
        if not agree(mine, theirs, exactly=place.startswith("inputs")):
            yield f"{place} differs"
    elif place.startswith("limits") and isinstance(mine, list):
        if not np.allclose(mine, theirs, rtol=2e-2, atol=0):
            yield f"{place} differs"
    elif mine != theirs:
        yield f"{place} differs"


def agree(mine: np.ndarray, theirs: np.ndarray, *, exactly: bool = False) -> bool:
    """Tell whether two answers are one, up to the roundings of a machine: mine, theirs -> bool."""
    if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
        return False
    if exactly or mine.dtype.kind in "iu":
        return mine.tobytes() == theirs.tobytes()
    return not compare.twins(mine.astype(np.float64), theirs.astype(np.float64)).verdict.failed


def broken_files(folder: Path) -> list[str]:
    """List files that are not what the manifest says: folder -> sentences."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    sentences = []
    for name, digest in manifest["files"].items():
        path = folder / name
        if not path.exists():
            sentences.append(f"{name}: missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            sentences.append(f"{name}: its SHA-256 is not the manifest's")
    return sentences


def add_commands(commands: Any) -> None:
    """Add the command `vectors`: subparsers."""
    parser = commands.add_parser("vectors", help="build, verify and compare the frozen vectors")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    made = actions.add_parser("build", help="write all vectors into a new folder")
    made.add_argument("folder", type=Path)
    made.set_defaults(run=run_build)
    checked = actions.add_parser("verify", help="check hashes, and both implementations")
    checked.add_argument("folder", type=Path, nargs="?", default=spec_path(FOLDER))
    checked.set_defaults(run=run_verify)
    compared = actions.add_parser("diff", help="what differs between two folders")
    compared.add_argument("folder", type=Path)
    compared.add_argument("other", type=Path)
    compared.set_defaults(run=run_diff)


def run_build(options: argparse.Namespace) -> int:
    """Write all vectors: options -> exit code."""
    if options.folder.exists():
        raise InputError(f"{options.folder} exists already; give a new folder")
    worst = build(options.folder)
    size = sum(p.stat().st_size for p in options.folder.iterdir())
    print(f"{len(all_cases(0))} cases, {size:,} bytes; two implementations agree to {worst:.1e}")
    return Exit.OK


def run_verify(options: argparse.Namespace) -> int:
    """Check the files and the cross-check: options -> exit code."""
    broken = broken_files(options.folder)
    worst = max(cross_check(case) for case in all_cases(0))
    print(*broken, f"two implementations agree to {worst:.1e}", sep="\n")
    return Exit.REGRESSION if broken else Exit.OK


def run_diff(options: argparse.Namespace) -> int:
    """Print what differs between two folders: options -> exit code."""
    found = differences(options.folder, options.other)
    print(*(found or ["no difference"]), sep="\n")
    return Exit.REGRESSION if found else Exit.OK
