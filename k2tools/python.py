"""The tool `python`: code in, printed text and the last value out, variables kept by handle."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Annotated

import anyio
from mcp_types import ToolAnnotations
from pydantic import Field

from k2tools.broker import broker
from k2tools.interpreters import NEW, Interpreters, Session, running
from k2tools.results import Result, ToolError
from k2tools.sandbox.kernel import GRACE_S, Kernel, Outcome
from k2tools.settings import Settings
from k2tools.toolbox import App, Context, Pack, Tool, tool
from k2tools.workspace import Entry, printable

MAX_CODE_CHARS = 200_000
MAX_NAMED_FILES = 20
QUICK_SCAN = 100  # files; a larger workspace is scanned beside the event loop
ANSWER_S = 1.0  # of the call's time, for what comes after the cell
WRITE = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False)

UNCONFINED = "The sandbox is switched off here: code runs with the rights of the server."

Files = dict[str, Entry]


async def python(
    cx: Context,
    code: str,
    session: str = "",
    timeout_s: Annotated[int, Field(ge=1, le=50)] = 30,
) -> Result:
    """Run Python in a sandbox without network, in the workspace. Print what you want to see.
    session="" is a fresh process; session="new" starts one that keeps variables and returns its id
    (dropped after 30 idle minutes). Inside, `import k2` calls the other tools, e.g.
    k2.search(query=...)."""
    if len(code) > MAX_CODE_CHARS:
        raise ToolError(
            f"the code has {len(code)} characters, the limit is {MAX_CODE_CHARS}; write it to a "
            "file with write_file and import it"
        )
    interpreters = cx.services[Interpreters]
    if session and session != "new":
        held = await interpreters.sessions.get(cx.session.principal, session, renew=NEW)
        return await _in_session(cx, held, session, code, timeout_s)
    kernel = await interpreters.take()
    if session == "new":
        held = Session(kernel)
        try:
            handle = await interpreters.sessions.mint(cx.session.principal, held)
        except BaseException:
            await kernel.close()
            raise
        result = await _in_session(cx, held, handle, code, timeout_s)
        return Result(f"session {handle}\n{result.text}", keep="ends")
    try:
        return await _run(cx, kernel, code, timeout_s, handle="")
    finally:
        await kernel.close()


async def _in_session(cx: Context, held: Session, handle: str, code: str, timeout_s: int) -> Result:
    try:
        return await _run(cx, held, code, timeout_s, handle)
    finally:
        if not held.kernel.alive:
            await cx.services[Interpreters].sessions.drop(cx.session.principal, handle)


async def _run(
    cx: Context, kernel: Kernel | Session, code: str, timeout_s: int, handle: str
) -> Result:
    """Run a cell and say what it printed, what it is worth, and which files it changed."""
    limit_s = min(timeout_s, cx.settings.call_timeout_s - GRACE_S - ANSWER_S)
    before = await _files(cx, {})
    call = broker(cx, cx.settings.max_inner_calls)
    outcome = await kernel.execute(code, timeout_s=limit_s, call=call)
    parts = [outcome.output.rstrip("\n"), outcome.value, outcome.error]
    if outcome.dropped_bytes:
        parts.append(f"[{outcome.dropped_bytes} bytes of output dropped from the middle]")
    parts += [_ending(outcome, limit_s, handle), _changes(before, await _files(cx, before))]
    return Result("\n".join(filter(None, parts)) or "(no output)", keep="ends")


def _ending(outcome: Outcome, limit_s: float, handle: str) -> str:
    """Say how the cell was stopped, and what became of the variables."""
    if outcome.ended:
        lost = f"; its variables are lost, {NEW}" if handle else ""
        return f"[killed: {outcome.ended}{lost}]"
    if outcome.interrupted:
        kept = "; variables are kept" if handle else ""
        return f"[interrupted after {limit_s:g} s{kept}]"
    return ""


async def _files(cx: Context, before: Files) -> Files:
    """List the files of the workspace, none of them when there are too many to compare."""

    def scan() -> Files:
        try:
            return {e.path: e for e in cx.workspace.files(max_files=cx.settings.max_compared)}
        except ToolError:
            return {}

    return scan() if len(before) < QUICK_SCAN else await anyio.to_thread.run_sync(scan)


def _changes(before: Files, after: Files) -> str:
    """Name the files that a cell made, changed or removed, in order."""
    lines = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if new is None:
            lines.append(f"{printable(path)} removed")
        elif old != new:
            lines.append(f"{printable(path)} {'changed' if old else 'new'} {new.size} B")
    if len(lines) > MAX_NAMED_FILES:
        lines[MAX_NAMED_FILES:] = [f"and {len(lines) - MAX_NAMED_FILES} more"]
    return f"[files: {'; '.join(lines)}]" if lines else ""


def announced(tools: Mapping[str, Tool], settings: Settings) -> dict[str, Tool]:
    """Say it to every client when the operator has switched the sandbox off."""
    if not settings.unsafe_no_sandbox or "python" not in tools:
        return dict(tools)
    tool = tools["python"]
    annotations = WRITE.model_copy(update={"open_world_hint": True})
    changed = replace(tool, description=f"{tool.description} {UNCONFINED}", annotations=annotations)
    return {**tools, "python": changed}


@asynccontextmanager
async def start(app: App) -> AsyncIterator[None]:
    """Hold the sandboxes of a server."""
    async with running(app.settings) as interpreters:
        app.services.add(interpreters)
        yield


PACK = Pack(
    tools=(tool(python, example={"code": "sum(range(10))"}, annotations=WRITE),), start=start
)
