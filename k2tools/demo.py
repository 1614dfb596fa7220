"""The demonstration: the real server on an example folder, used by a real client over stdio."""

import re
import shutil
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, TextIO

import anyio
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from rich.console import Console

from k2tools.runlog import verify
from k2tools.schemas import call_text
from k2tools.show import headline

EXAMPLE = Path(__file__).parent / "example"
MEAN = """\
import csv
march = [r for r in csv.DictReader(open("data/levels.csv")) if r["day"] >= "2024-03"]
levels = [float(r["level_m"]) + 0.12 * (r["day"] >= "2024-03-11") for r in march]
f"{len(levels)} days, mean {sum(levels) / len(levels):.2f} m"
"""
Step = tuple[str, dict[str, Any]]


def steps() -> Generator[Step, str, None]:
    """Say what a model would do; the figure of the edit is what Python answered."""
    yield "search", {"query": "datum correction", "k": 1}
    yield "open", {"id": "docs/gauge.md", "line": 8, "max_lines": 2}
    answer = yield "python", {"code": MEAN}
    mean = re.search(r"mean (\S+) m", answer)
    figure = f"{mean[1]} m" if mean else "2.20 m, uncorrected"  # where there is no sandbox
    now = f"Mean level: {figure} [docs/gauge.md:L9]"
    yield "edit_file", {"path": "report.md", "edits": [{"old": "Mean level: 2.20 m", "new": now}]}
    yield "facts", {"key": "gauge_k1.correction"}
    yield "read_file", {"path": "../../etc/passwd"}
    yield "grep", {"patern": "equinox"}


def demo(out: TextIO | None = None) -> int:
    """Play the steps and show what a model would see."""
    console = Console(file=out, highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="k2demo-") as name:
        folder = Path(name) / "rivers"
        shutil.copytree(EXAMPLE / "rivers", folder)
        state = Path(name) / "state"
        started_s = time.perf_counter()
        calls = anyio.run(played, console, folder, state)
        took_s = time.perf_counter() - started_s
        return _audit(console, state / "runs" / "demo", calls, took_s)


async def played(console: Console, folder: Path, state: Path) -> int:
    """Start the server, connect, play: -> number of calls."""
    serve = ["-m", "k2tools", "serve", str(folder), "--state", str(state), "--run", "demo"]
    server = StdioServerParameters(
        command=sys.executable,
        args=[*serve, "--facts", str(EXAMPLE / "facts.jsonl")],
    )
    console.print("[dim]$ k2tools serve rivers --facts facts.jsonl[/]")
    with (state.parent / "stderr").open("w") as messages:
        async with Client(stdio_client(server, errlog=messages)) as client:
            tools = (await client.list_tools()).tools
            console.print(f"[dim]{len(tools)} tools: {', '.join(t.name for t in tools)}[/]")
            return await _played(console, client)


async def _played(console: Console, client: Client) -> int:
    playing, count = steps(), 0
    name, arguments = next(playing)
    while True:
        result = await client.call_tool(name, arguments)
        answer = "\n".join(block.text for block in result.content if block.type == "text")
        count += 1
        colour = "red" if result.is_error else "green"
        console.print(f"\n[bold {colour}]>[/] [bold]{_shown(name, arguments)}[/]")
        console.print(answer, markup=False)
        try:
            name, arguments = playing.send(answer)
        except StopIteration:
            return count


def _shown(name: str, arguments: dict[str, Any]) -> str:
    """Write a call for people: code on lines of its own."""
    if "code" in arguments:
        return f"{name}\n[/][cyan]{arguments['code'].rstrip()}[/][bold]".replace("[r", r"\[r")
    return call_text(name, arguments).replace("[", r"\[")


def _audit(console: Console, run: Path, calls: int, took_s: float) -> int:
    """Show the log as `k2tools show` does: every call, and whether the chain holds."""
    verdict = verify(run)
    console.print("\n[dim]$ k2tools show demo[/]")
    for record in verdict.records:
        console.print(headline(record, max_chars=60), markup=False)
    good = not verdict.problems and len(verdict.records) == calls
    state = "chain verified" if good else "chain BROKEN"
    console.print(f"{calls} calls, {state}; {took_s:.1f} s with the start of the server")
    return 0 if good else 1
