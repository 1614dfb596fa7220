"""An answer to a chat request, read into what it says and what is wrong with its form."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from conformance.api.exchange import Answer
from k2ref.chat.lexer import MARKERS
from k2ref.chat.wire import REASONING_FIELDS


class ToolCall(NamedTuple):
    """A tool call as the endpoint wrote it."""

    id: str
    name: str
    arguments: str

    def wire(self) -> dict[str, Any]:
        """Write it as a message carries it: -> call."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass
class Completion:
    """What an answer says. `problems` are breaches of the form of chat completions."""

    content: str = ""
    reasoning: str | None = None
    reasoning_field: str = REASONING_FIELDS[0]
    calls: list[ToolCall] = field(default_factory=list)
    finish: str | None = None
    usage: dict[str, Any] | None = None
    logprobs: list[dict[str, Any]] | None = None
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
        return [f"{m} in {name}" for name, text in fields.items() for m in MARKERS if m in text]


def read_whole(answer: Answer) -> Completion:
    """Read an answer that was not streamed: answer -> Completion."""
    body = answer.json()
    completion = Completion()
    try:
        choice = body["choices"][0]
        message = choice["message"]
        _take_text(completion, message)
        for call in message.get("tool_calls") or []:
            function = call["function"]
            arguments = function.get("arguments") or ""
            completion.calls.append(ToolCall(call["id"], function["name"], arguments))
        completion.finish = choice.get("finish_reason")
        completion.logprobs = (choice.get("logprobs") or {}).get("content")
        completion.usage = body.get("usage")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        completion.problems.append(f"not a chat completion: {error!r} in {answer.body[:200]}")
    return completion


def _take_text(completion: Completion, part: Mapping[str, Any]) -> None:
    completion.content += part.get("content") or ""
    for name in REASONING_FIELDS:
        if part.get(name) is not None:
            completion.reasoning = (completion.reasoning or "") + part[name]
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
        completion.usage = chunk.get("usage") or completion.usage
        for choice in chunk.get("choices") or []:
            delta = choice.get("delta") or {}
            order += _kinds(delta)
            _take_text(completion, delta)
            for call in delta.get("tool_calls") or []:
                completion.problems += _take_call(parts, call)
            if (logprobs := choice.get("logprobs")) and logprobs.get("content"):
                completion.logprobs = (completion.logprobs or []) + logprobs["content"]
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
