"""An answer to a chat request, read into what it says and what is wrong with its form."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from conformance.api.exchange import Answer, counts
from k2ref.chat.lexer import MARKERS
from k2ref.chat.wire import REASONING_FIELDS
from k2ref.tokenizer import TURN_NAMES

CONTROL = tuple(dict.fromkeys((*MARKERS, *TURN_NAMES)))


class ToolCall(NamedTuple):
    """A tool call as the endpoint wrote it."""

    id: str
    name: str
    arguments: str

    def wire(self) -> dict[str, Any]:
        """Write it as a message carries it: -> call."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}

    def value(self) -> Any:
        """Read the arguments: -> JSON value.

        Raises:
            ValueError: they are no JSON, or nested without end.
        """
        try:
            return json.loads(self.arguments)
        except RecursionError:
            raise ValueError("nested too deep") from None


@dataclass
class Completion:
    """What an answer says. `problems` are breaches of the form of chat completions."""

    content: str = ""
    reasoning: str | None = None
    reasoning_field: str = REASONING_FIELDS[0]
    calls: list[ToolCall] = field(default_factory=list)
    finish: str | None = None
    usage: dict[str, int] | None = None
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def message(self) -> dict[str, Any]:
        """Write it as the message that a client sends back: -> message."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning is not None:
            message[self.reasoning_field] = self.reasoning
        if self.calls:
            message["tool_calls"] = [call.wire() for call in self.calls]
        return message

    def leaks(self) -> list[str]:
        """Name the markers that stand in its fields: -> sentences."""
        fields = {"content": self.content, "reasoning": self.reasoning or ""}
        fields |= {f"arguments of {call.name}": call.arguments for call in self.calls}
        return [f"{m} in {name}" for name, text in fields.items() for m in CONTROL if m in text]


def read_whole(answer: Answer) -> Completion:
    """Read an answer that was not streamed: answer -> Completion."""
    body = answer.json()
    completion = Completion()
    try:
        choice = body["choices"][0]
        message = choice["message"]
        _take_text(completion, message)
        for call in message.get("tool_calls") or []:
            names = (_text(call, "id"), _text(call["function"], "name"))
            completion.calls.append(ToolCall(*names, _text(call["function"], "arguments")))
        completion.finish = choice.get("finish_reason")
        completion.logprobs = _entries(choice)
        completion.usage = _usage(body)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        completion.problems.append(f"not a chat completion: {error!r} in {answer.body[:200]}")
    return completion


def _text(part: Mapping[str, Any], name: str) -> str:
    text = part.get(name)
    if not isinstance(text, str | None):
        raise TypeError(f"{name} is no text")
    return text or ""


def _entries(choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read the logprobs of a choice, which may be null: choice -> entries."""
    entries: list[dict[str, Any]] = (choice.get("logprobs") or {}).get("content") or []
    tops = [top for entry in entries for top in entry.get("top_logprobs") or []]
    if not all(isinstance(top, dict) for top in tops):
        raise TypeError("top_logprobs holds no objects")
    return entries


def _usage(part: Mapping[str, Any]) -> dict[str, int] | None:
    return None if part.get("usage") is None else counts(part["usage"])


def _take_text(completion: Completion, part: Mapping[str, Any]) -> None:
    completion.content += _text(part, "content")
    for name in REASONING_FIELDS:
        if part.get(name) is not None:
            completion.reasoning = (completion.reasoning or "") + _text(part, name)
            completion.reasoning_field = name
            break  # some endpoints send both


def read_stream(answer: Answer) -> Completion:
    """Join the chunks of a streamed answer: answer -> Completion."""
    events, done = answer.events()
    completion = Completion()
    if not done:
        completion.problems.append("the stream does not end with [DONE]")
    try:
        _join(completion, events)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        completion.problems.append(f"a chunk is not of the form of chat completions: {error!r}")
    return completion


def _join(completion: Completion, events: list[Any]) -> None:
    parts: dict[int, list[str]] = {}
    order: list[str] = []
    for chunk in events:
        if "error" in chunk:
            completion.problems.append(f"an error inside the stream: {chunk['error']}")
        completion.usage = _usage(chunk) or completion.usage
        for choice in chunk.get("choices") or []:
            delta = choice.get("delta") or {}
            order += _kinds(delta)
            _take_text(completion, delta)
            for call in delta.get("tool_calls") or []:
                completion.problems += _take_call(parts, call)
            completion.logprobs += _entries(choice)
            if finish := choice.get("finish_reason"):
                if completion.finish:
                    completion.problems.append("more than one finish_reason")
                completion.finish = finish
            elif completion.finish and _kinds(delta):
                completion.problems.append("a delta behind the finish_reason")
    completion.calls = [ToolCall(*parts[index]) for index in sorted(parts)]
    completion.problems += _order_problems(order)
    if sorted(parts) != list(range(len(parts))):
        completion.problems.append(f"indices of calls are {sorted(parts)}")
    if len({chunk.get("id") for chunk in events}) > 1:
        completion.problems.append("chunks of one completion have several ids")
    if completion.finish is None:
        completion.problems.append("no finish_reason")


def _kinds(delta: Mapping[str, Any]) -> list[str]:
    names = [*REASONING_FIELDS, "content", "tool_calls"]
    kinds = ["reasoning" if n in REASONING_FIELDS else n for n in names if delta.get(n)]
    return list(dict.fromkeys(kinds))


def _order_problems(order: list[str]) -> Iterator[str]:
    if "reasoning" in order and {"content", "tool_calls"} & set(order):
        last = len(order) - 1 - order[::-1].index("reasoning")
        first = min(order.index(kind) for kind in ("content", "tool_calls") if kind in order)
        if last > first:
            yield "reasoning behind content or calls"


def _take_call(parts: dict[int, list[str]], delta: Mapping[str, Any]) -> Iterator[str]:
    function = delta.get("function") or {}
    index = delta.get("index")
    if index is None:
        yield "a delta of a call has no index"
        index = 0
    if index not in parts and not (delta.get("id") and function.get("name")):
        yield "the first delta of a call lacks its id or name"
    slots = parts.setdefault(index, ["", "", ""])
    if slots[0] and delta.get("id") not in (None, "", slots[0]):
        yield "the id of a call changes"
    slots[0] = slots[0] or delta.get("id") or ""
    slots[1] += function.get("name") or ""
    slots[2] += function.get("arguments") or ""
