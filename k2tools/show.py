"""A run for people: every call with its arguments, its end and the first lines of its answer."""

import json
import sys
from pathlib import Path
from typing import Any, TextIO

from k2tools.runlog import kept, verify
from k2tools.schemas import call_text

SHOWN_LINES = 4
SHOWN_CHARS = 100
NAMED_RUNS = 5


def find_run(run: str, runs: Path) -> Path:
    """Find a run by its folder, or by its name among those of a workspace: -> its folder."""
    for folder in (Path(run), runs / run):
        if (folder / "log.jsonl").is_file():
            return folder
    logs = sorted(runs.glob("*/log.jsonl"), key=lambda log: log.stat().st_mtime, reverse=True)
    there = ", ".join(log.parent.name for log in logs[:NAMED_RUNS]) or "none"
    raise ValueError(f"no run {run!r}; newest in {runs}: {there}. --folder names another workspace")


def show(folder: Path, *, full: bool = False, out: TextIO | None = None) -> int:
    """Print a run and whether its chain holds: folder -> exit code."""
    verdict = verify(folder)
    out = out or sys.stdout
    for record in verdict.records:
        print(headline(record), file=out)
        for line in _body_lines(folder, record, full=full):
            print(f"    {line}", file=out)
    torn = f", {verdict.torn_bytes} bytes torn off its end" if verdict.torn_bytes else ""
    for problem in verdict.problems:
        print(f"BROKEN: {problem}", file=out)
    state = "broken" if verdict.problems else "verified"
    print(f"{len(verdict.records)} calls, chain {state}{torn}", file=out)
    return 1 if verdict.problems else 0


def headline(record: dict[str, Any], max_chars: int = SHOWN_CHARS) -> str:
    """Write a call, its end and its sizes on one line."""
    parent = f" (inside {record['parent']})" if record["parent"] else ""
    call = call_text(record["tool"], record["args"])
    if len(call) > max_chars:
        call = call[: max_chars - 2] + "…)"
    call = harmless(call)
    sizes = f"{record['ms']:.1f} ms, {record['out_len']} bytes"
    return f"{record['ref']}  {record['status']}  {call}  [{sizes}]{parent}"


def _body_lines(folder: Path, record: dict[str, Any], *, full: bool) -> list[str]:
    body = folder / "out" / record["out_sha"]
    if not body.exists():
        return ["(body not kept)"]
    lines = [harmless(line) for line in kept(folder, record["out_sha"]).split("\n")]
    if full or len(lines) <= SHOWN_LINES:
        return lines if full else [line[:SHOWN_CHARS] for line in lines]
    rest = f"… {len(lines) - SHOWN_LINES} more lines"
    return [*(line[:SHOWN_CHARS] for line in lines[:SHOWN_LINES]), rest]


def harmless(line: str) -> str:
    """Escape what a terminal would obey; tabs stay."""
    return "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in line)


def settings_of_run(folder: Path) -> dict[str, Any]:
    """Read the settings a run began with: folder -> field values, paths left out."""
    path = folder / "run.json"
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text("utf-8"))["settings"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged: it holds no settings") from None
