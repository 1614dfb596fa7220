"""The toolbox that is an MCP server: in memory, over stdio, or over streamable HTTP.

The driver is synchronous, the client is not: one portal thread runs the client, and the calls of
a turn run there at the same time. Every call carries a W3C trace id, which the server's log keeps.
A server that names a memory in its list of tools gets a key with every call: the same key again
asks for the answer of the same call.
"""

import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import Client, StdioServerParameters
from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT

from conformance.agent.toolbox import LOST, Result, ServerLost, Tool, ToolCall
from k2ref.errors import InputError

TIMEOUT_S = 60.0
MEMORY, KEY, FATE = "io.k2tools/memory", "io.k2tools/key", "io.k2tools/fate"  # in _meta


def server_of(target: str, *, environment: Mapping[str, str] | None = None) -> Any:
    """Read a server given on the command line: a URL, or the command of a stdio server."""
    if target.startswith(("http://", "https://")):
        return target
    command, *args = shlex.split(target)
    return StdioServerParameters(command=command, args=args, env=dict(environment or {}))


@dataclass
class McpTools:
    """Tools of one MCP server; use it in a `with` block."""

    server: Any
    run_id: str = ""
    mode: str = "auto"
    reconnect: bool = False  # open and close the client around each turn, as some clients do
    _stack: ExitStack = field(default_factory=ExitStack)
    _portal: BlockingPortal | None = None
    _client: Client | None = None
    _tools: list[Tool] | None = None
    _is_lost: bool = False

    def __enter__(self) -> Self:
        self._portal = self._stack.enter_context(start_blocking_portal())
        if not self.reconnect:
            client = Client(self.server, mode=self.mode, read_timeout_seconds=TIMEOUT_S)
            opened = self._portal.wrap_async_context_manager(client)
            try:
                self._client = self._stack.enter_context(opened)
            except Exception as error:
                self._stack.close()
                raise InputError(
                    f"the tool server {_named(self.server)} did not start: {_leaf(error)}; what it "
                    "printed stands above"
                ) from None
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self._stack.close()
        except Exception:
            if not self._is_lost:  # a transport that broke is reported once
                raise

    def _run(self, function: Any, *args: Any) -> Any:
        if self._portal is None:
            raise RuntimeError("McpTools is used outside its `with` block")
        return self._portal.call(self._with_client, function, *args)

    async def _with_client(self, function: Any, *args: Any) -> Any:
        if self._client is not None:
            return await function(self._client, *args)
        async with Client(self.server, mode=self.mode, read_timeout_seconds=TIMEOUT_S) as client:
            return await function(client, *args)

    def tools(self) -> list[Tool]:
        if self._tools is None:
            self._tools = self._run(_list_tools)
        return self._tools

    def call_all(self, calls: Sequence[ToolCall]) -> list[Result]:
        try:
            return self._run(_call_all, calls, self.run_id)
        except Exception as error:
            self._is_lost = True
            names = ", ".join(call.name for call in calls)
            raise ServerLost(
                f"the tool server went away during {names} ({_leaf(error)!r}); start it again and "
                "take the run up with --resume"
            ) from None


def _named(server: Any) -> str:
    """Name a server as it was given: its URL or its command."""
    if isinstance(server, StdioServerParameters):
        return shlex.join([server.command, *server.args])
    return str(server)


def _leaf(error: BaseException) -> BaseException:
    """Take the first cause out of a group of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _list_tools(client: Client) -> list[Tool]:
    listed = await client.list_tools()
    memory = str((listed.meta or {}).get(MEMORY, ""))
    return [
        Tool(
            tool.name,
            tool.description or "",
            tool.input_schema,
            bool(tool.annotations and tool.annotations.read_only_hint),
            memory,
        )
        for tool in listed.tools
    ]


async def _call_all(client: Client, calls: Sequence[ToolCall], run_id: str) -> list[Result]:
    results: list[Result | None] = [None] * len(calls)

    async def one(index: int, call: ToolCall) -> None:
        results[index] = await _call(client, call, run_id)

    async with anyio.create_task_group() as group:
        for index, call in enumerate(calls):
            group.start_soon(one, index, call)
    return [result for result in results if result is not None]


async def _call(client: Client, call: ToolCall, run_id: str) -> Result:
    meta: dict[str, Any] = {}
    if call.trace_id:
        meta["traceparent"] = f"00-{call.trace_id}-{call.trace_id[:16]}-01"
    if run_id:
        meta["io.k2tools/run"] = run_id
    timeout_s = TIMEOUT_S
    if call.key:
        meta[KEY] = call.key
        timeout_s *= 2  # the server may wait for the one before it to end
    start = time.perf_counter()
    try:
        got = await client.call_tool(call.name, call.args, timeout_s, meta=meta or None)  # type: ignore[arg-type]
    except MCPError as error:
        if error.code == CONNECTION_CLOSED:
            raise
        text = f"no answer within {timeout_s:.0f} s: {LOST}"
        text = text if error.code == REQUEST_TIMEOUT else error.message
        return Result(text, True, time.perf_counter() - start)
    text = "\n".join(block.text for block in got.content if block.type == "text")
    fault = "lost" if (got.meta or {}).get(FATE) == "unknown" else ""
    return Result(text, bool(got.is_error), time.perf_counter() - start, fault)
