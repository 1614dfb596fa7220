"""Replay: repeat the calls of a run on a fresh copy of its workspace and compare every byte.

Handles are minted anew: where the old run names one, in arguments or answers, the new one is put
for it. Arguments that are an old ref get the new one. Python is confined whatever the run says:
its settings may be another's.
"""

import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from k2tools.runlog import kept, stored, verify
from k2tools.server import PACKS, lifespan, tools_of
from k2tools.session import LOCAL
from k2tools.settings import Settings
from k2tools.show import settings_of_run
from k2tools.toolbox import Outcome

SNAPSHOT = "workspace.tar"
MINTED = re.compile(r"session (py_[A-Za-z0-9_-]+)\n")  # begins the answer that makes a handle
REF = re.compile(r'"(r[1-9][0-9]*)"')
REPEATABLE = ("ok", "error", "denied")  # not what ended by a clock or by the caller


class Compared(NamedTuple):
    """One call of the old run beside its repetition."""

    ref: str
    tool: str
    verdict: str  # same | DIFFERS | skipped
    detail: str = ""


def replay(folder: Path, workspace: Path | None) -> int:
    """Print how each call compares: run folder, initial workspace -> exit code."""
    compared = anyio.run(repeated, folder, workspace)
    for line in compared:
        print(f"{line.ref}  {line.tool}  {line.verdict}{line.detail and ': ' + line.detail}")
    differing = sum(line.verdict == "DIFFERS" for line in compared)
    same = sum(line.verdict == "same" for line in compared)
    print(f"{same} of {len(compared)} calls gave the same bytes, {differing} differ")
    return 1 if differing else 0


async def repeated(folder: Path, workspace: Path | None) -> list[Compared]:
    """Repeat the calls of a run: run folder, initial workspace -> comparisons."""
    verdict = verify(folder)
    if verdict.problems:
        raise ValueError(f"the run is damaged: {verdict.problems[0]}")
    records = [record for record in verdict.records if not record["parent"]]
    if any("sha256" in record["args"] for record in records):
        raise ValueError("the run was logged with --redact, so its calls are not known")
    records.sort(key=lambda record: int(record["ref"][1:]))
    with _copy(folder, workspace) as base:
        settings = _settings(folder, base)
        async with lifespan(settings, PACKS, tools_of(PACKS)) as state:
            session = state.sessions.get(LOCAL)
            memory = _Memory()
            return [await _one(state, session, record, folder, memory) for record in records]


class _Memory:
    """What the new run calls what the old run named."""

    def __init__(self) -> None:
        self.handles: dict[str, str] = {}
        self.refs: dict[str, str] = {}

    def learn(self, record: Mapping[str, Any], before: str, after: Outcome) -> None:
        """Note what a call was named and which handle it made, then and now."""
        self.refs[record["ref"]] = after.ref
        old, new = MINTED.match(before), MINTED.match(after.body)
        if record["tool"] == "python" and old and new:
            self.handles[old[1]] = new[1]

    def arguments(self, args: Mapping[str, Any]) -> Any:
        """Put new handles and refs for old ones, wherever in the arguments."""
        text = self.text(json.dumps(args))
        return json.loads(REF.sub(lambda m: f'"{self.refs.get(m[1], m[1])}"', text))

    def text(self, old: str) -> str:
        """Put new handles for old ones."""
        for before, after in self.handles.items():
            old = old.replace(before, after)
        return old


async def _one(
    state: Any, session: Any, record: dict[str, Any], folder: Path, memory: _Memory
) -> Compared:
    ref, tool = record["ref"], record["tool"]
    before = kept(folder, record["out_sha"])
    outcome = await state.dispatcher.call(session, tool, memory.arguments(record["args"]))
    memory.learn(record, before, outcome)
    if record["status"] not in REPEATABLE:
        return Compared(ref, tool, "skipped", f"it ended as {record['status']}")
    before, after = memory.text(before), stored(outcome.body).decode()
    if (record["status"], before) == (outcome.status, after):
        return Compared(ref, tool, "same")
    return Compared(ref, tool, "DIFFERS", _first_difference(before, after))


def _first_difference(before: str, after: str) -> str:
    pairs = zip([*before.split("\n"), ""], [*after.split("\n"), ""], strict=False)
    number, (old, new) = next(
        ((n, pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1]), (0, ("", ""))
    )
    return f"line {number} was {old[:80]!r}, is {new[:80]!r}"


@contextmanager
def _copy(folder: Path, workspace: Path | None) -> Iterator[Path]:
    """Copy the initial workspace into a temporary place that also holds the new run."""
    with tempfile.TemporaryDirectory(prefix="k2replay-") as name:
        target = Path(name) / "workspace"
        if workspace is not None:
            shutil.copytree(workspace.resolve(strict=True), target, symlinks=True)
        elif (folder / SNAPSHOT).exists():
            _unpack(folder / SNAPSHOT, target)
        else:
            raise ValueError(
                "name the folder as it was before the run with --workspace, or serve with "
                "--snapshot next time"
            )
        yield Path(name)


def _unpack(snapshot: Path, target: Path) -> None:
    """Write the files of a snapshot; Python 3.11.2 knows no filter that would refuse the rest."""
    target.mkdir()
    with tarfile.open(snapshot) as archive:
        for member in archive:
            path = target / member.name
            data = archive.extractfile(member) if member.isreg() else None
            if data is None or not path.resolve().is_relative_to(target.resolve()):
                raise ValueError(f"{snapshot.name} holds {member.name!r}, which is no file of it")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.read())
            path.chmod(member.mode)
            os.utime(path, (member.mtime, member.mtime))


def _settings(folder: Path, base: Path) -> Settings:
    kept = settings_of_run(folder)
    known = {field.name for field in fields(Settings)}
    values: dict[str, Any] = {
        name: frozenset(value) if name == "deny_tools" else _tuples(value)
        for name, value in kept.items()
        if name in known
    }
    here: dict[str, Any] = {"workspace": base / "workspace", "state": base / "state", "run": ""}
    return Settings(**{**values, **here, "snapshot": False, "unsafe_no_sandbox": False})


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
