"""Regular expressions from a model, run where they can be killed.

`Patterns` keeps a few idle worker processes; a search that passes its time limit, or whose caller
gave up, takes its worker with it. Start-up is paid once: about 40 ms, then 0.1 ms per search.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import Process

from k2tools.results import ToolError
from k2tools.toolbox import App

HOME = str(Path(__file__).parents[1])
START = f"import sys; sys.path.insert(0, {HOME!r}); from k2tools.pattern_worker import main; main()"
MAX_IDLE = 2
MAX_ANSWER_BYTES = 16 * 2**20


class Patterns:
    """A pool of killable processes that search."""

    def __init__(self) -> None:
        self._idle: list[Process] = []

    async def search(self, op: str, *, limit_s: float, **request: Any) -> dict[str, Any]:
        """Run one search: operation, its arguments -> its answer, or ToolError."""
        process = self._idle.pop() if self._idle else await _started()
        answer = b""
        try:
            with anyio.move_on_after(limit_s + 1):
                answer = await _asked(process, request | {"op": op, "limit_s": math.ceil(limit_s)})
        finally:
            if answer.endswith(b"\n") and len(self._idle) < MAX_IDLE:
                self._idle.append(process)
            else:
                await _end(process)
        if not answer.endswith(b"\n"):
            raise ToolError(
                f"the pattern took more than {limit_s:.0f} s and was stopped; avoid nested "
                "repeats such as (a+)+ or name fewer files"
            )
        parsed: dict[str, Any] = json.loads(answer)
        if "error" in parsed:
            raise ToolError(parsed["error"])
        found: dict[str, Any] = parsed["ok"]
        return found

    async def find(
        self, pattern: str, lines: list[str], *, max_hits: int, limit_s: float
    ) -> tuple[list[tuple[int, str]], int]:
        """Find lines that match, whatever their case: -> [(number, line)], how many in all."""
        found = await self.search(
            "find", limit_s=limit_s, pattern=pattern, lines=lines, max_hits=max_hits
        )
        return [(number, line) for number, line in found["hits"]], found["total"]

    async def close(self) -> None:
        for process in self._idle:
            await _end(process)
        self._idle.clear()


async def _started() -> Process:
    return await anyio.open_process(
        [sys.executable, "-I", "-S", "-c", START],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PYTHONHASHSEED": "0", **_windows_needs()},
        start_new_session=True,
    )


def _windows_needs() -> dict[str, str]:
    """Name the one variable without which Python does not start on Windows."""
    return {"SYSTEMROOT": root} if (root := os.environ.get("SYSTEMROOT")) else {}


async def _asked(process: Process, request: dict[str, Any]) -> bytes:
    """Send a request and read the answer's line; b"" when the worker died."""
    assert process.stdin is not None
    assert process.stdout is not None
    parts: list[bytes] = []
    with suppress(anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
        await process.stdin.send(json.dumps(request).encode() + b"\n")
        while not parts or not parts[-1].endswith(b"\n"):
            parts.append(await process.stdout.receive())
            if sum(map(len, parts)) > MAX_ANSWER_BYTES:
                break
        return b"".join(parts)
    return b""


async def _end(process: Process) -> None:
    """Kill a worker and reap it, also while the call is being cancelled."""
    with suppress(ProcessLookupError):
        process.kill()
    with anyio.move_on_after(2, shield=True):
        await process.aclose()


@asynccontextmanager
async def serving(app: App) -> AsyncIterator[None]:
    """Keep a pool while the server runs."""
    patterns = Patterns()
    app.services.add(patterns)
    try:
        yield
    finally:
        await patterns.close()
