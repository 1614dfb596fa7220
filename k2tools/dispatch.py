"""The way of every call: validate, charge, run within the time limit, log, shorten.

The same way serves a model's call, a call from `import k2` inside python, and replay.
"""

import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

import anyio
from anyio.abc import TaskGroup
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, InputRequiredResult

from k2tools.keys import UNKNOWN
from k2tools.results import Result, ToolError, disarmed, sealed, shorten, shown
from k2tools.runlog import Record
from k2tools.schemas import checked, nearest
from k2tools.session import Session
from k2tools.toolbox import App, Context, Outcome, Tool

logger = logging.getLogger(__name__)

UNLOGGED = "the run log could not be written, so its answer is withheld; tell the operator"
Raw = CallToolResult | InputRequiredResult | MCPError


class Denied(ToolError):
    """The operator does not allow the tool."""


class Ended(NamedTuple):
    """How a tool's function ended."""

    status: str  # ok | error | denied | timeout | cancelled
    result: Result = Result("")
    raw: Raw | None = None  # a protocol answer that passes through unchanged


class Pending:
    """A keyed call under way, which everybody who sends its key waits for."""

    def __init__(self, ref: str) -> None:
        self.ended = anyio.Event()
        self.outcome = Outcome(ref, "unknown", UNKNOWN, UNKNOWN)  # unless it ends before the server

    async def result(self) -> Outcome:
        await self.ended.wait()
        return self.outcome


class Dispatcher:
    """The tools of a server and the way to call them."""

    def __init__(self, app: App, tools: Mapping[str, Tool], beyond: TaskGroup) -> None:
        self.app, self.tools = app, tools
        self._beyond = beyond  # runs keyed calls, which outlive their requests
        self._pending: dict[tuple[Session, str], Pending] = {}
        self._running = 0  # calls under way, of all principals

    async def call(
        self,
        session: Session,
        name: str,
        arguments: Mapping[str, Any] | None,
        *,
        request: ServerRequestContext[Any, Any] | None = None,
        parent: str = "",
        trace_id: str = "",
        ref: str = "",
        key: str = "",
    ) -> Outcome:
        """Run one call to its end: session, name, arguments -> Outcome."""
        ref, started_s = ref or session.arrive(), time.perf_counter()
        args: Mapping[str, Any] = dict(arguments or {})
        cx = Context(self.app, session, ref, self._cap(name, args), self.call, request)
        ended = Ended("cancelled")
        self._running += 1
        try:
            tool = self._tool(name)
            args = checked(name, tool.schema, args, tool.example)
            session.charge()
            if key and not tool.annotations.read_only_hint:
                await _flushed(session)
            ended = await self._run(tool, cx, args, inner=bool(parent))
        except ToolError as error:
            status = "denied" if isinstance(error, Denied) else "error"
            ended = Ended(status, Result(str(error)))
        finally:
            ms = (time.perf_counter() - started_s) * 1e3
            record = Record(ref, name, args, ended.status, ms, trace_id, parent)
            body = ended.result.text[: self.app.settings.body_chars]
            unlogged = await _logged(session, record, body, alone=self._running == 1)
            self._running -= 1
            session.leave()
        return self._outcome(cx, unlogged or ended)

    def keyed(
        self,
        session: Session,
        key: str,
        name: str,
        arguments: Mapping[str, Any] | None,
        **more: Any,
    ) -> Pending:
        """Begin the call that a key names, or find it: under way, or in the log."""
        ref = session.keys.find(key, name, arguments)
        if (session, key) in self._pending:
            return self._pending[session, key]
        if ref:
            return self._remembered(session, ref, name, arguments)
        ref = session.arrive()
        try:
            session.keys.note(key, name, arguments, ref)
        except BaseException:
            session.leave()
            raise
        pending = self._pending[session, key] = Pending(ref)
        call = partial(self.call, session, name, arguments, ref=ref, key=key, **more)
        self._beyond.start_soon(self._to_its_end, (session, key), call)
        return pending

    async def _to_its_end(
        self, which: tuple[Session, str], call: Callable[[], Awaitable[Outcome]]
    ) -> None:
        """Run a keyed call, whoever still waits for it."""
        pending = self._pending[which]
        try:
            pending.outcome = await call()
        except Exception:
            text = _incident("the call").result.text
            pending.outcome = Outcome("", "error", text, text)
        finally:
            del self._pending[which]
            pending.ended.set()

    def _remembered(
        self, session: Session, ref: str, name: str, arguments: Mapping[str, Any] | None
    ) -> Pending:
        """Give the answer that the log has."""
        found, status = Pending(ref), session.log.status(ref)
        found.ended.set()
        if status and status != "cancelled":
            body = session.log.body(ref)
            if body is None:
                body = f"it was executed and ended as {status}; its result was not kept"
            cx = Context(self.app, session, ref, self._cap(name, arguments or {}), self.call)
            found.outcome = self._outcome(cx, Ended(status, Result(body)))
        return found

    async def _run(self, tool: Tool, cx: Context, args: Mapping[str, Any], *, inner: bool) -> Ended:
        """Run the function within its time: calls from inside python hold their parent's place."""
        limit_s = self.app.settings.call_timeout_s
        try:
            with anyio.fail_after(limit_s):
                async with _heartbeat(cx, self.app.settings.heartbeat_s):
                    if inner:
                        return await _ended(tool, cx, args)
                    async with cx.session.limiter:
                        return await _ended(tool, cx, args)
        except TimeoutError:
            text = f"{tool.name} was stopped after {limit_s:.0f} s: ask for less"
            return Ended("timeout", Result(text))

    def _outcome(self, cx: Context, ended: Ended) -> Outcome:
        body = ended.result.text[: self.app.settings.body_chars]
        text = shorten(
            disarmed(body),
            ref=cx.ref,
            max_chars=cx.max_chars,
            line_chars=self.app.settings.line_chars,
            keep=ended.result.keep,
        )
        text = sealed(text, cx.ref, cx.session.step())
        return Outcome(cx.ref, ended.status, body, text, ended.result.data, ended.raw)

    def _tool(self, name: str) -> Tool:
        tool = self.tools.get(name)
        if tool is None:
            names = list(self.tools)
            there = f"there are {', '.join(names)}"
            raise ToolError(f"no tool {shown(name)}{nearest(name, names)}; {there}")
        if name in self.app.settings.deny_tools:
            raise Denied(f"the operator does not allow {name} here; use another tool")
        return tool

    def _cap(self, name: str, args: Mapping[str, Any]) -> int:
        """Choose the cap: the hard one, less the ref line, when the caller named a size."""
        tool, settings = self.tools.get(name), self.app.settings
        asked = tool is not None and not tool.size_arguments.isdisjoint(args)
        return settings.hard_chars - 100 if asked else settings.default_chars


async def _ended(tool: Tool, cx: Context, args: Mapping[str, Any]) -> Ended:
    """Run the function itself; whatever it raises becomes an answer, a defect an incident."""
    try:
        value = await tool.function(cx, **tool.bound(args))
    except ToolError as error:
        return Ended("error", Result(str(error)))
    except MCPError as error:
        return Ended("error", Result(str(error)), error)
    except ExceptionGroup as group:
        refusals = group.subgroup(ToolError)
        if refusals is None:
            return _incident(tool.name)
        return Ended("error", Result("; ".join(_leaves(refusals))))
    except Exception:
        return _incident(tool.name)
    if isinstance(value, CallToolResult | InputRequiredResult):
        failed = isinstance(value, CallToolResult) and value.is_error
        return Ended("error" if failed else "ok", Result(value.model_dump_json()), value)
    return Ended("ok", value if isinstance(value, Result) else Result(str(value)))


async def _flushed(session: Session) -> None:
    """Have the keys on disk before an effect; without them it must not happen."""
    try:
        await anyio.to_thread.run_sync(session.keys.flush)
    except OSError as error:
        raise ToolError(f"nothing was done: {UNLOGGED}: {error.strerror}") from None


async def _logged(session: Session, record: Record, body: str, *, alone: bool) -> Ended | None:
    """Write the record, whatever happens to the caller: -> what to answer when that failed.

    Where no other call would wait for the disk, a thread costs more than it saves.
    """
    try:
        if alone:
            session.log.append(record, body)
            return None
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(session.log.append, record, body)
    except OSError as error:
        logger.error("run log: %s", error)
        return Ended("error", Result(f"{record.tool} ran but {UNLOGGED}: {error.strerror}"))
    return None


def _leaves(group: BaseExceptionGroup[ToolError]) -> list[str]:
    return [
        text
        for error in group.exceptions
        for text in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [str(error)])
    ]


def _incident(name: str) -> Ended:
    """Log the exception under an id; the model sees the id only."""
    incident = secrets.token_hex(4)
    logger.exception("incident %s in %s", incident, name)
    text = f"{name} failed inside the server (incident {incident}); try another way"
    return Ended("error", Result(text))


@asynccontextmanager
async def _heartbeat(cx: Context, every_s: float) -> AsyncIterator[None]:
    """Report progress while a call runs, to clients that asked for it."""
    if cx.request is None or not (cx.request.meta or {}).get("progress_token"):
        yield
        return

    async def beat() -> None:
        while True:
            await anyio.sleep(every_s)
            await cx.progress("still running")

    async with anyio.create_task_group() as group:
        group.start_soon(beat)
        yield
        group.cancel_scope.cancel()
