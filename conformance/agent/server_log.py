"""Reading a server's run log: the chain, the outputs, and whether a call was executed.

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
SHOWN_CHARS = 4_000


@dataclass
class ServerLog:
    """One run's log: its valid records and what is wrong with the rest."""

    folder: Path
    records: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    torn: bool = False

    def executed(self, trace_id: str) -> dict[str, Any] | None:
        """Find the record of a call by its trace id."""
        return next((r for r in self.records if trace_id and r.get("trace_id") == trace_id), None)

    def output(self, record: dict[str, Any]) -> str:
        """Read an output as the model would have seen it, its ref included."""
        body = (self.folder / "out" / record["out_sha"]).read_text(encoding="utf-8")
        ref = record["ref"]
        if len(body) > SHOWN_CHARS:
            head = body[: body.rfind("\n", 0, SHOWN_CHARS) + 1] or body[:SHOWN_CHARS]
            body = head + f'[more: open(id="{ref}", line={head.count(chr(10)) + 1})]'
        return f"{body}\n[{ref}]"


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
            "parent": "",
            "prev": self._last,
        }
        line = json.dumps(record, sort_keys=True, separators=(",", ":"))
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._count, self._last = self._count + 1, hashlib.sha256(line.encode()).hexdigest()
