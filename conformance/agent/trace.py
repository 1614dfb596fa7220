"""Reading a record: the turns of a run, and a text view of them.

Reasoning is shown as what it is, unverified; what was checked stands in the verdict.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conformance.agent.messages import Call, Message, calls_of, reasoning_of
from conformance.agent.record import events
from k2ref.errors import InputError


@dataclass
class Turn:
    """One reply of the model and what its calls returned."""

    number: int
    message: Message
    spent: dict[str, Any]
    hidden: list[int]
    texts: list[str] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)

    @property
    def calls(self) -> list[Call]:
        return calls_of(self.message)


@dataclass
class Trace:
    """A whole record."""

    run: str
    prompt: list[Message]
    turns: list[Turn]
    end: dict[str, Any]
    model: str = ""
    currency: str = ""


def read(path: Path) -> Trace:
    """Read a record: path -> Trace."""
    if not path.is_file():
        raise InputError(f"no record at {path}; a run writes turns.jsonl into its --out directory")
    trace = Trace("", [], [], {})
    for event in events(path):
        if event["kind"] == "start":
            trace.run, trace.prompt = event["run"], event["messages"]
            trace.model, trace.currency = event["model"], event["currency"]
        elif event["kind"] == "turn":
            number = len(trace.turns) + 1
            turn = Turn(number, event["message"], event["spent"], event["hidden"])
            trace.turns.append(turn)
        elif event["kind"] == "results":
            trace.turns[-1].texts, trace.turns[-1].results = event["texts"], event["results"]
        elif event["kind"] == "end":
            trace.end = event
    if not trace.prompt:
        raise InputError(f"{path} is no record of a run: it has no start")
    return trace


def view(trace: Trace, *, width: int = 100, reasoning: bool = True) -> Iterator[str]:
    """Render a trace as lines of text."""
    for message in trace.prompt:
        yield _cut(f"{message['role']}: {message['content']}", width)
    for turn in trace.turns:
        thought = reasoning_of(turn.message)
        if thought and reasoning:
            yield _cut(f"{turn.number:>4} thinks (unverified): {thought}", width)
        for call, text in zip(turn.calls, turn.texts, strict=False):
            yield _cut(f"{turn.number:>4} calls  {call.name}({_arguments(call)})", width)
            yield _cut(f"     sees   {_joined(text)}", width)
        if not turn.calls:
            yield _cut(f"{turn.number:>4} answers {_joined(turn.message['content'])}", width)
    if trace.end:
        yield f"end: {trace.end['status']} {trace.end['detail']}".rstrip()
        yield "spent: " + spent_line(trace.end["spent"])


def spent_line(spent: dict[str, Any]) -> str:
    """Word the counters of a run in one line."""
    parts = [
        f"{spent['steps']} steps",
        f"{spent['calls']} calls",
        f"{spent['prompt_tokens']} prompt tokens ({spent['cached_tokens']} cached)",
        f"{spent['completion_tokens']} completion tokens",
        f"model {spent['model_seconds']:.1f} s",
        f"tools {spent['tool_seconds']:.1f} s",
    ]
    extra = [
        f"{spent[name]} {name}" for name in ("leaks", "think_only", "malformed") if spent[name]
    ]
    return ", ".join(parts + extra)


def _arguments(call: Call) -> str:
    try:
        return ", ".join(
            f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in call.parsed().items()
        )
    except ValueError:
        return call.arguments


def _joined(text: str) -> str:
    return " ⏎ ".join(text.splitlines())


def _cut(line: str, width: int) -> str:
    line = _joined(line)
    return line if len(line) <= width else line[: width - 1] + "…"
