"""What the parser says: events while the output comes, and the reply they add up to."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any


@dataclass(frozen=True)
class Reasoning:
    """More reasoning."""

    text: str


@dataclass(frozen=True)
class Content:
    """More of the answer."""

    text: str


@dataclass(frozen=True)
class CallStart:
    """A tool call, by its id; the name is None where the id carries none."""

    index: int
    id: str
    name: str | None
    recovered: bool = False
    """it stood outside a section of calls"""


@dataclass(frozen=True)
class Arguments:
    """More of a call's arguments, byte for byte."""

    index: int
    text: str


@dataclass(frozen=True)
class CallEnd:
    """The end of a call; not complete if the output stopped in its middle."""

    index: int
    complete: bool


Event = Reasoning | Content | CallStart | Arguments | CallEnd


@dataclass
class Counts:
    """What went wrong on the way, so that nothing goes wrong in silence."""

    leaked: int = 0
    """calls outside a section"""
    truncated: int = 0
    """calls that the end of the output cut"""
    malformed: int = 0
    """calls without arguments marker, or whose id carries no name"""
    stray: int = 0
    """markers that mean nothing where they stand"""
    dropped: int = 0
    """characters other than spaces between and behind calls"""


@dataclass(frozen=True)
class Call:
    """A tool call of a reply."""

    id: str
    name: str | None
    arguments: str
    complete: bool = True
    recovered: bool = False


@dataclass(frozen=True)
class Reply:
    """A parsed reply. Reasoning is None where the model was not to think and did not."""

    reasoning: str | None
    content: str
    calls: tuple[Call, ...] = ()
    counts: Counts = field(default_factory=Counts)

    def message(self, *, reasoning_field: str = "reasoning_content") -> dict[str, Any]:
        """Write the reply as an assistant message, without incomplete calls: -> message."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning is not None:
            message[reasoning_field] = self.reasoning
        if calls := [call for call in self.calls if call.complete]:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name or "", "arguments": call.arguments},
                }
                for call in calls
            ]
        return message


def merge(events: Iterable[Event]) -> list[Event]:
    """Join deltas of the same field: events -> events that do not depend on the cuts."""
    merged: list[Event] = []
    for _, group in groupby(events, key=_field):
        first, *rest = group
        if isinstance(first, Reasoning | Content | Arguments):
            text = first.text + "".join(
                e.text for e in rest if not isinstance(e, CallStart | CallEnd)
            )
            merged.append(replace(first, text=text))
        else:
            merged += [first, *rest]
    return merged


def _field(event: Event) -> tuple[type, int]:
    return type(event), getattr(event, "index", 0)


def collect(events: Iterable[Event]) -> tuple[str, str, tuple[Call, ...]]:
    """Add events up: events -> reasoning, content, calls."""
    reasoning, content = [], []
    calls: list[Call] = []
    for event in merge(events):
        match event:
            case Reasoning(text):
                reasoning.append(text)
            case Content(text):
                content.append(text)
            case CallStart(_, call_id, name, recovered):
                calls.append(Call(call_id, name, "", complete=False, recovered=recovered))
            case Arguments(index, text):
                calls[index] = replace(calls[index], arguments=text)
            case CallEnd(index, complete):
                calls[index] = replace(calls[index], complete=complete)
    return "".join(reasoning), "".join(content), tuple(calls)


def is_json(text: str) -> bool:
    """Tell whether a text is one JSON value: text -> bool."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
