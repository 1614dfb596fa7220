"""`import k2` inside the sandbox: the other tools of the server, as functions.

`k2.search(query="…")` returns data (the tool's text when it has no other form); a refusal raises
`k2.ToolError` with the message a model would read.
"""

import itertools
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from . import frames


class ToolError(Exception):
    """A tool of the server refused or failed."""


class Link(Protocol):
    """A way to the other tools."""

    def call(self, tool: str, arguments: dict[str, Any]) -> Any: ...


class Bridge:
    """The two pipes to the server; whoever holds the lock may read the one that leads in."""

    def __init__(self, orders: int, outcomes: int) -> None:
        self._orders, self._outcomes = orders, outcomes
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def next_cell(self) -> dict[str, Any]:
        """Wait for the next cell; calls of threads that outlive theirs wait meanwhile."""
        with self._lock:
            return frames.receive(self._orders)

    def outcome(self, message: dict[str, Any]) -> None:
        frames.send(self._outcomes, message)

    def call(self, tool: str, arguments: dict[str, Any]) -> Any:
        """Run a tool on the server: name, arguments -> data. Raises ToolError."""
        if os.getpid() != self._owner:
            raise ToolError("k2 works in the main process only, not in its children")
        with self._lock, uninterrupted():
            number = next(self._ids)
            self.outcome({"kind": "call", "id": number, "tool": tool, "args": arguments})
            reply = frames.receive(self._orders)
        if "error" in reply:
            raise ToolError(reply["error"])
        return reply["data"]


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold an interrupt back: half a frame read would leave the pipe out of step."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def install(link: Link) -> None:
    """Put the module `k2` where import finds it."""

    def function(name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(f"module 'k2' has no attribute {name!r}")

        def tool(**arguments: Any) -> Any:
            return link.call(name, arguments)

        tool.__name__ = tool.__qualname__ = name
        return tool

    module = types.ModuleType("k2", "The other tools of the server: k2.search(query=…).")
    module.__dict__.update(ToolError=ToolError, __getattr__=function)
    sys.modules["k2"] = module
