"""Where calls are executed: the toolbox protocol and its wrappers.

A toolbox lists tools and runs the calls of one turn, results in the order of the calls. `McpTools`
(mcp_tools.py) is the real one; wrappers add faults, distractors, an approval rule or a filter.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from k2ref.errors import InputError


class Tool(NamedTuple):
    """One tool as its server declares it; `memory` names what remembers the keys of its calls."""

    name: str
    description: str
    schema: dict[str, Any]
    read_only: bool = False
    memory: str = ""


class ToolCall(NamedTuple):
    """One call to execute: `trace_id` names it in the server's log, `key` in its memory."""

    name: str
    args: dict[str, Any]
    trace_id: str = ""
    key: str = ""


class Result(NamedTuple):
    """What one call returned; `fault` names a planted fault or a loss, never shown to the model."""

    text: str
    error: bool = False
    seconds: float = 0.0
    fault: str = ""


LOST = (
    "whether this call was executed is not known. Look at the present state first; repeat the call "
    "only if it did not happen."
)


class ServerLost(ConnectionError):
    """The server went away before it answered; the run can be taken up again from its record."""


class Toolbox(Protocol):
    """Anything that offers tools and executes calls."""

    def tools(self) -> list[Tool]: ...

    def call_all(self, calls: Sequence[ToolCall]) -> list[Result]: ...


REF = re.compile(r"\[(r\d+)\](?: step \d+/\d+)?\s*\Z")


def ref_of(text: str) -> str:
    """Find the ref that ends a result, `[r17]`; "" when there is none."""
    found = REF.search(text)
    return found[1] if found else ""


@dataclass
class Only:
    """Offer a part of a toolbox, in the order of `names`; `a|b` takes the first that is there."""

    inner: Toolbox
    names: Sequence[str]

    def tools(self) -> list[Tool]:
        offered = {tool.name: tool for tool in self.inner.tools()}
        chosen = [[n for n in name.split("|") if n in offered] for name in self.names]
        missing = [name for name, found in zip(self.names, chosen, strict=True) if not found]
        if missing:
            raise InputError(
                f"the task needs the tools {missing}; the server offers {sorted(offered)}. "
                "Start it with all its tools, or choose another family."
            )
        return [offered[found[0]] for found in chosen]

    def call_all(self, calls: Sequence[ToolCall]) -> list[Result]:
        return self.inner.call_all(calls)


@dataclass
class Approved:
    """Ask `deny` before each call; a reason denies the call, "" lets it pass."""

    inner: Toolbox
    deny: Callable[[str, Mapping[str, Any]], str]

    def tools(self) -> list[Tool]:
        return self.inner.tools()

    def call_all(self, calls: Sequence[ToolCall]) -> list[Result]:
        reasons = [self.deny(call.name, call.args) for call in calls]
        passed = iter(
            self.inner.call_all([c for c, r in zip(calls, reasons, strict=True) if not r])
        )
        return [Result(f"denied: {r}. Go on without it.", True) if r else next(passed)
                for r in reasons]  # fmt: skip


@dataclass
class Capped:
    """Cut results of more than `chars` at a line, and name the call that reads on.

    A result without a ref could not be read on, and stays whole.
    """

    inner: Toolbox
    chars: int

    def tools(self) -> list[Tool]:
        return self.inner.tools()

    def call_all(self, calls: Sequence[ToolCall]) -> list[Result]:
        return [r._replace(text=self._cut(r.text)) for r in self.inner.call_all(calls)]

    def _cut(self, text: str) -> str:
        ref = ref_of(text)
        head = text[: text.rfind("\n", 0, self.chars) + 1]
        if not ref or not head or len(text) <= self.chars:
            return text
        return f'{head}[more: open(id="{ref}", line={head.count(chr(10)) + 1})]\n[{ref}]'


def draw(seed: str, *parts: object) -> float:
    """Draw a number in [0, 1) that depends on nothing but its arguments."""
    text = ":".join(map(str, parts)).encode()
    digest = hmac.new(seed.encode(), text, hashlib.sha256).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)


FAULTS = {
    "rate_limit": "HTTP 429: too many requests. Wait, then send the same call again.",
    "timeout": "the call timed out after 50 s and did nothing. Send the same call again.",
    "truncated": "",
}


@dataclass
class Faulty:
    """Plant seeded faults: with probability `p` a call fails and is not executed, or is cut short.

    A fault is a function of the call's place in its run, so that a run repeats itself, resumed or
    not; a truncated output is a fault of reading tools only, since a write must not look undone.
    """

    inner: Toolbox
    seed: str
    p: float

    def tools(self) -> list[Tool]:
        return self.inner.tools()

    def call_all(self, calls: Sequence[ToolCall]) -> list[Result]:
        return [self._one(call) for call in calls]

    def _one(self, call: ToolCall) -> Result:
        kind = self._kind(call)
        if not kind:
            return self.inner.call_all([call])[0]
        if kind != "truncated":
            return Result(FAULTS[kind], True, 0.0, kind)
        text = self.inner.call_all([call])[0].text
        cut = text[: len(text) // 3] + "\n[output cut short: send the same call again]"
        return Result(cut, True, 0.0, kind)

    def _kind(self, call: ToolCall) -> str:
        if draw(self.seed, "fault", call.trace_id) >= self.p:
            return ""
        reads = {tool.name for tool in self.inner.tools() if tool.read_only}
        kinds = sorted(FAULTS) if call.name in reads else ["rate_limit", "timeout"]
        return kinds[int(draw(self.seed, "kind", call.trace_id) * len(kinds))]


SUBJECTS = ("weather", "trains", "recipes", "stamps", "chess")
VERBS = ("lookup", "list", "count", "compare")


@dataclass
class Distracted:
    """Add twenty tools that never help."""

    inner: Toolbox

    def tools(self) -> list[Tool]:
        query = {"type": "string", "description": "What to ask."}
        schema = {"type": "object", "properties": {"query": query}, "required": ["query"],
                  "additionalProperties": False}  # fmt: skip
        extra = [Tool(f"{s}_{v}", f"{v} {s}".capitalize() + ".", schema, True)
                 for s in SUBJECTS for v in VERBS]  # fmt: skip
        return [*self.inner.tools(), *extra]

    def call_all(self, calls: Sequence[ToolCall]) -> list[Result]:
        return [self._one(call) for call in calls]

    def _one(self, call: ToolCall) -> Result:
        if call.name.partition("_")[0] in SUBJECTS:
            return Result("no entry. This tool knows nothing about the task.")
        return self.inner.call_all([call])[0]
