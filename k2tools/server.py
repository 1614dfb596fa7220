"""Where tools meet the protocol: one factory for stdio, HTTP, tests and conformance.

Both eras of the wire (2025 with `initialize`, 2026-07-28 without) are served by the same object.
Every answer is one text block; nothing is structured, so every client shows the model the same.
"""

import json
import os
import platform
import re
import stat
import tarfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from mcp.server import Server
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import principal_components
from mcp.server.caching import CacheHint
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    InputRequiredResult,
    ListToolsResult,
    TextContent,
)
from mcp_types import Tool as ListedTool

from k2tools import facts, files, python, search
from k2tools.dispatch import UNLOGGED, Dispatcher
from k2tools.keys import memory_name
from k2tools.results import ToolError
from k2tools.runlog import InUse
from k2tools.session import LOCAL, Session, Sessions
from k2tools.settings import Settings
from k2tools.toolbox import App, Pack, Tool
from k2tools.workspace import Workspace

PACKS: tuple[Pack, ...] = (search.PACK, facts.PACK, python.PACK, files.PACK)
# in _meta. Of a request: its run, and its call's key. Of a list of tools: what remembers keys.
# Of a result: "unknown" where nobody can know whether the call was executed.
RUN_KEY, CALL_KEY = "io.k2tools/run", "io.k2tools/key"
MEMORY_KEY, FATE_KEY = "io.k2tools/memory", "io.k2tools/fate"
RUN_HEADER = "k2tools-run"
TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
HOUR_MS = 3_600_000


class State(NamedTuple):
    """What the protocol's handlers find in the lifespan."""

    dispatcher: Dispatcher
    sessions: Sessions
    memory: str  # names the state folder


def build_server(settings: Settings, packs: Sequence[Pack] = PACKS) -> Server[State]:
    """Build the server of a workspace: settings, packs -> Server."""
    tools = python.announced(tools_of(packs), settings)
    if unknown := settings.deny_tools - tools.keys():
        raise ValueError(
            f"no tool {', '.join(sorted(unknown))} to deny; there are {', '.join(tools)}"
        )
    listed = ListToolsResult(tools=[_listed(tool) for tool in tools.values()])

    async def list_tools(cx: ServerRequestContext[State], _: Any) -> ListToolsResult:
        return listed.model_copy(update={"meta": {MEMORY_KEY: cx.lifespan_context.memory}})

    hint = CacheHint(ttl_ms=HOUR_MS, scope="public")
    return Server(
        "k2tools",
        version=_version(),
        title="k2tools",
        description="Search, Python, files and facts over one workspace",
        lifespan=lambda _: lifespan(settings, packs, tools),
        cache_hints={"tools/list": hint, "server/discover": hint},
        get_tool_input_schema=lambda name: tools[name].schema if name in tools else None,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def tools_of(packs: Sequence[Pack]) -> dict[str, Tool]:
    """List the tools of packs by name, in their order."""
    return {tool.name: tool for pack in packs for tool in pack.tools}


@asynccontextmanager
async def lifespan(
    settings: Settings, packs: Sequence[Pack], tools: Mapping[str, Tool]
) -> AsyncIterator[State]:
    """Hold open what lives as long as the server: workspace, services, sessions."""
    async with AsyncExitStack() as stack:
        workspace = Workspace(
            settings.workspace, writable=settings.writable, secret_globs=settings.secret_globs
        )
        stack.callback(workspace.close)
        app = App(settings, workspace)
        sessions = Sessions(settings, on_new=lambda folder: _begin(folder, settings, workspace))
        stack.callback(sessions.close)
        for pack in packs:
            if pack.start is not None:
                await stack.enter_async_context(pack.start(app))
        memory = memory_name(settings.state)
        async with anyio.create_task_group() as beyond:
            yield State(Dispatcher(app, tools, beyond), sessions, memory)
            beyond.cancel_scope.deadline = anyio.current_time() + settings.shutdown_grace_s


async def call_tool(
    request: ServerRequestContext[State], params: CallToolRequestParams
) -> CallToolResult | InputRequiredResult:
    """Serve `tools/call`: find the session, run the call, answer in one text block."""
    dispatcher, sessions, _ = request.lifespan_context
    meta: Mapping[str, Any] = dict(request.meta or {})
    key = str(meta.get(CALL_KEY, ""))
    asked = (params.name, params.arguments)
    more: dict[str, Any] = {"request": request, "trace_id": _trace_id(meta)}
    try:
        patience_s = dispatcher.app.settings.call_timeout_s if key else 0.0
        session = await _session(sessions, _run(request, meta), patience_s=patience_s)
        ending = dispatcher.keyed(session, key, *asked, **more).result() if key else None
    except (ToolError, ValueError) as error:
        return _text(str(error), is_error=True)
    except OSError as error:
        return _text(f"nothing was done: {UNLOGGED}: {error.strerror}", is_error=True)
    outcome = await (ending or dispatcher.call(session, *asked, **more))
    if isinstance(outcome.raw, MCPError):
        raise outcome.raw
    fate = {FATE_KEY: outcome.status} if outcome.status == "unknown" else None
    return outcome.raw or _text(outcome.text, is_error=outcome.is_error, meta=fate)


def _run(request: ServerRequestContext[State], meta: Mapping[str, Any]) -> str:
    """Read the run that a request names in its _meta or its headers, "" when it names none."""
    headers = getattr(request.request, "headers", {})
    return str(meta.get(RUN_KEY) or headers.get(RUN_HEADER, ""))


async def _session(sessions: Sessions, run: str, *, patience_s: float) -> Session:
    """Find the session of a caller by token and run, never by connection.

    A keyed call has patience: the server of a killed client may still end a call of the run.
    """
    token = get_access_token()
    principal = "/".join(part or "" for part in principal_components(token)) if token else LOCAL
    find = partial(sessions.get, principal, run, authenticated=token is not None)
    with anyio.move_on_after(patience_s):
        while True:
            try:
                return find()
            except InUse:
                await anyio.sleep(0.05)
    return find()


def _trace_id(meta: Mapping[str, Any]) -> str:
    """Read the trace id of a W3C traceparent, "" without one."""
    match = TRACEPARENT.fullmatch(str(meta.get("traceparent", "")))
    return match[1] if match else ""


def _text(text: str, *, is_error: bool, meta: dict[str, Any] | None = None) -> CallToolResult:
    return CallToolResult(
        content=[TextContent(type="text", text=text)], is_error=is_error, _meta=meta
    )


def _listed(tool: Tool) -> ListedTool:
    return ListedTool(
        name=tool.name,
        description=tool.description,
        input_schema=tool.schema,
        annotations=tool.annotations,
    )


def _begin(folder: Path, settings: Settings, workspace: Workspace) -> None:
    """Note what a new run began with: the settings, and the workspace on request."""
    kept = {
        name: sorted(value) if isinstance(value, frozenset) else value
        for name, value in asdict(settings).items()
        if not isinstance(value, Path)
    }
    note = {"k2tools": _version(), "python": platform.python_version(), "settings": kept}
    (folder / "run.json").write_text(json.dumps(note, indent=1) + "\n", "utf-8")
    if settings.snapshot:
        with tarfile.open(folder / "workspace.tar", "w") as archive:
            for entry in workspace.files():
                with suppress(ToolError):  # what is closed to the server no call can read either
                    _archive(workspace, entry.path, archive)


def _archive(workspace: Workspace, path: str, archive: tarfile.TarFile) -> None:
    """Add one file of the workspace, whatever its size."""
    with os.fdopen(workspace.open(path), "rb") as handle:
        status = os.fstat(handle.fileno())
        member = tarfile.TarInfo(path)
        member.size, member.mode = status.st_size, stat.S_IMODE(status.st_mode)
        member.mtime = status.st_mtime_ns // 10**9
        archive.addfile(member, handle)


def _version() -> str:
    try:
        return version("k2ref")
    except PackageNotFoundError:
        return "0"
