"""The convention of every tool module.

A tool is `async def name(cx: Context, argument: type = default, …) -> str | Result`. Its docstring
is the description that the model reads; `Annotated[int, Field(ge=1, le=50, description="…")]`
gives limits and descriptions; the schema is derived from the signature (`schemas.schema_of`), so
arguments arrive validated, complete and strictly typed. It raises `ToolError` for whatever the
model should read; any other exception is a defect and shows the model an incident id only.

It returns the *whole* text: `results.shorten` cuts it to `cx.max_chars` and the rest stays behind
the ref. A tool with a window of its own (open, read_file) uses `results.page` with `cx.max_chars`.
Files are reached through `cx.workspace` only, earlier results through `cx.session.result(ref)`,
other tools through `cx.call(name, arguments)` (validated, budgeted, logged with this call as
parent), long-lived objects through `cx.services[Kind]`.

A module ends with its pack: `PACK = Pack(tools=(tool(search, …), …), start=start)`, where
`start(app)` is an async context manager entered once per server that puts the module's long-lived
objects into `app.services` and closes them. There are no module-level objects that hold state.
"""

import inspect
import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_type_hints

from mcp.server.context import ServerRequestContext
from mcp_types import ToolAnnotations
from pydantic import TypeAdapter

from k2tools.results import Result
from k2tools.schemas import Schema, schema_of
from k2tools.session import Session
from k2tools.settings import Settings
from k2tools.workspace import Workspace

Kind = TypeVar("Kind")


class Services:
    """The long-lived objects of a server, one per type."""

    def __init__(self) -> None:
        self._held: dict[type, Any] = {}

    def add(self, service: object) -> None:
        self._held[type(service)] = service

    def __getitem__(self, kind: type[Kind]) -> Kind:
        found: Kind = self._held[kind]
        return found

    def __contains__(self, kind: type) -> bool:
        return kind in self._held


@dataclass(frozen=True)
class App:
    """What lives as long as the server."""

    settings: Settings
    workspace: Workspace
    services: Services = field(default_factory=Services)


class Outcome:
    """How a call ended: text for the model, data for a program."""

    __slots__ = ("body", "data", "raw", "ref", "status", "text")

    def __init__(
        self, ref: str, status: str, body: str, text: str, data: Any = None, raw: Any = None
    ) -> None:
        self.ref, self.status, self.body, self.text = ref, status, body, text
        self.data = data
        self.raw = raw  # a protocol result that passes through unchanged (conformance fixtures)

    @property
    def is_error(self) -> bool:
        return self.status != "ok"


@dataclass(frozen=True)
class Context:
    """What one call may use."""

    app: App
    session: Session
    ref: str
    max_chars: int  # of the text this call may return
    dispatch: Callable[..., Awaitable[Outcome]]
    request: ServerRequestContext[Any, Any] | None = None
    ticks: Iterator[int] = field(default_factory=lambda: itertools.count(1))  # progress only rises

    @property
    def settings(self) -> Settings:
        return self.app.settings

    @property
    def workspace(self) -> Workspace:
        return self.app.workspace

    @property
    def services(self) -> Services:
        return self.app.services

    async def call(self, name: str, arguments: Mapping[str, Any]) -> Outcome:
        """Call another tool on this call's account: name, arguments -> Outcome."""
        return await self.dispatch(self.session, name, arguments, parent=self.ref)

    async def progress(self, message: str) -> None:
        """Tell the client that work goes on; nothing happens when it did not ask."""
        if self.request is not None:
            await self.request.session.report_progress(next(self.ticks), None, message)


_NESTED = ("array", "object")
Function = Callable[..., Awaitable[Any]]


@dataclass(frozen=True)
class Tool:
    """A function that a model can call."""

    name: str
    description: str
    schema: Schema
    example: Mapping[str, Any]
    annotations: ToolAnnotations
    function: Function
    size_arguments: frozenset[str] = frozenset()  # given by the caller, they lift the default cap
    adapters: Mapping[str, TypeAdapter[Any]] = field(default_factory=dict)

    def bound(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Build what is not plain JSON: validated arguments -> keyword arguments."""
        built = {
            name: adapter.validate_python(arguments[name])
            for name, adapter in self.adapters.items()
            if name in arguments
        }
        return {**arguments, **built}


@dataclass(frozen=True)
class Pack:
    """The tools of one module and the objects they live on."""

    tools: tuple[Tool, ...]
    start: Callable[[App], AbstractAsyncContextManager[None]] | None = None


def tool(
    function: Callable[..., Awaitable[str | Result]],
    *,
    example: Mapping[str, Any],
    annotations: ToolAnnotations,
    size_arguments: tuple[str, ...] = (),
) -> Tool:
    """Make a tool of a plain typed function: its docstring is what the model reads."""
    description = " ".join((inspect.getdoc(function) or "").split())
    schema, hints = schema_of(function), get_type_hints(function, include_extras=True)
    nested = [n for n, sub in schema["properties"].items() if sub.get("type") in _NESTED]
    return Tool(
        name=function.__name__,
        description=description,
        schema=schema,
        example=example,
        annotations=annotations,
        function=function,
        size_arguments=frozenset(size_arguments),
        adapters={name: TypeAdapter(hints[name]) for name in nested},
    )
