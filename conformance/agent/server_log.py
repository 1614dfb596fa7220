"""Reading a server's run log: the chain, the outputs, and the order of its calls.

A run directory holds `log.jsonl`, one record per call, each with the SHA-256 of the line before
it, and `out/SHA`, the outputs by content. The reader trusts none of it.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conformance.agent.toolbox import ToolCall

NO_PREVIOUS = "0" * 64


@dataclass
class ServerLog:
    """One run's log: its valid records and what is wrong with the rest."""

    folder: Path
    records: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    torn: bool = False


def read(folder: Path) -> ServerLog:
    """Read a run directory and check chain and outputs."""
    log = ServerLog(folder)
    path = folder / "log.jsonl"
    data = path.read_bytes() if path.exists() else b""
    lines = data.split(b"\n")
    log.torn = bool(lines.pop())
    previous = NO_PREVIOUS
    for number, line in enumerate(lines, 1):
        problem = _problem(folder, line, previous)
        if problem:
            log.problems.append(f"record {number}: {problem}")
            break
        log.records.append(json.loads(line))
        previous = hashlib.sha256(line).hexdigest()
    return log


def _problem(folder: Path, line: bytes, previous: str) -> str:
    try:
        record = json.loads(line)
    except ValueError:
        return "is not JSON"
    if record.get("prev") != previous:
        return "does not follow from the record before it"
    sha = record.get("out_sha", "")
    path = folder / "out" / sha
    if not sha or not path.is_file():
        return f"its output {sha[:12]} is missing"
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha:
        return f"its output {sha[:12]} was changed"
    return ""


def order_problems(
    records: Sequence[dict[str, Any]], calls: Sequence[tuple[str, str]]
) -> list[str]:
    """Compare the log with the driver's own list of (trace id, tool): same calls, same order."""
    logged = [(r["trace_id"], r["tool"]) for r in records if not r.get("parent")]
    if logged == list(calls):
        return []
    for index, (mine, theirs) in enumerate(zip(calls, logged, strict=False), 1):
        if mine != theirs:
            return [f"call {index}: the driver sent {mine[1]}, the log has {theirs[1]}"]
    return [f"the driver sent {len(calls)} calls, the log has {len(logged)}"]


@dataclass
class LogWriter:
    """Write the log of a small server, so that a resume can be tried without a large one."""

    folder: Path
    _count: int = 0
    _last: str = NO_PREVIOUS

    def bodies(self) -> list[str]:
        """Read back all outputs, in order, and go on behind them."""
        log = read(self.folder)
        if log.records:
            last = (self.folder / "log.jsonl").read_bytes().split(b"\n")[len(log.records) - 1]
            self._count, self._last = len(log.records), hashlib.sha256(last).hexdigest()
        return [(self.folder / "out" / r["out_sha"]).read_text("utf-8") for r in log.records]

    def note(self, key: str) -> None:
        """Remember a key before its call begins."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "keys").open("a", encoding="utf-8") as file:
            file.write(f"{key}\n")

    def remembered(self) -> dict[str, int | None]:
        """Give the place of each key's call in the log, None for those that it lacks."""
        path = self.folder / "keys"
        noted = path.read_text("utf-8").split() if path.exists() else []
        places = {r["key"]: i for i, r in enumerate(read(self.folder).records)}
        return {key: places.get(key) for key in noted}

    def write(self, call: ToolCall, body: str, error: bool) -> None:
        """Append one record behind the last one."""
        out = self.folder / "out"
        out.mkdir(parents=True, exist_ok=True)
        sha = hashlib.sha256(body.encode()).hexdigest()
        (out / sha).write_text(body, encoding="utf-8")
        record = {
            "seq": self._count + 1,
            "ref": f"r{self._count + 1}",
            "tool": call.name,
            "args": call.args,
            "status": "error" if error else "ok",
            "out_sha": sha,
            "trace_id": call.trace_id,
            "key": call.key,
            "parent": "",
            "prev": self._last,
        }
        line = json.dumps(record, sort_keys=True, separators=(",", ":"))
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._count, self._last = self._count + 1, hashlib.sha256(line.encode()).hexdigest()
