"""What passes between the driver and a model: requests, replies, calls and their usage.

A message is the plain dict of the chat completions API. Two rules of K2's endpoints shape it:
reasoning goes back verbatim under the name it came with (an empty string is not an absence), and
the id of a call is the only carrier of its name, `functions.NAME:INDEX`, counted over the run.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

Message = dict[str, Any]
REASONING_FIELDS = ("reasoning_content", "reasoning")


class Usage(NamedTuple):
    """Token counts of one reply; `cached` is the part of `prompt` served from a prefix cache."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0


class BadArguments(ValueError):
    """The model wrote arguments that are not a JSON object."""


@dataclass(frozen=True)
class Call:
    """One tool call; `arguments` is the text the model wrote."""

    id: str
    name: str
    arguments: str

    def parsed(self) -> dict[str, Any]:
        """Read the arguments; an empty text counts as no arguments."""
        try:
            value = json.loads(self.arguments or "{}")
        except json.JSONDecodeError as error:
            raise BadArguments(f"arguments are not JSON ({error})") from None
        if not isinstance(value, dict):
            raise BadArguments(f"arguments must be a JSON object, got {type(value).__name__}")
        return value


INVALID = "invalid_json"


def wrapped(call: Call) -> Call:
    """Wrap arguments that are not a JSON object: endpoints refuse them in a history."""
    try:
        call.parsed()
    except BadArguments:
        return replace(call, arguments=json.dumps({INVALID: call.arguments}))
    return call


def unwrapped(call: Call) -> Call:
    """Undo `wrapped`: the arguments as the model wrote them."""
    args = call.parsed()
    return replace(call, arguments=args[INVALID]) if set(args) == {INVALID} else call


@dataclass(frozen=True)
class Reply:
    """One answer of a model; `reasoning` is None when the field was absent."""

    content: str = ""
    reasoning: str | None = None
    calls: tuple[Call, ...] = ()
    finish: str = "stop"
    usage: Usage | None = None
    reasoning_field: str = "reasoning_content"

    @property
    def is_empty(self) -> bool:
        """Tell whether there is neither a call nor an answer (a think-only reply)."""
        return not self.calls and not self.content.strip()


@dataclass(frozen=True)
class Request:
    """One question to a model; `attempt` counts the retries of the same question."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    max_tokens: int = 32_000
    temperature: float = 1.0
    attempt: int = 0


Model = Callable[[Request], Reply]


def assistant_message(reply: Reply) -> Message:
    """Write the reply as the message that goes back into the history."""
    message: Message = {"role": "assistant", "content": reply.content}
    if reply.reasoning is not None:
        message[reply.reasoning_field] = reply.reasoning
    if reply.calls:
        message["tool_calls"] = [_tool_call(call) for call in reply.calls]
    return message


def _tool_call(call: Call) -> Message:
    function = {"name": call.name, "arguments": call.arguments or "{}"}
    return {"id": call.id, "type": "function", "function": function}


def calls_of(message: Message) -> list[Call]:
    """Read the calls of an assistant message."""
    return [
        Call(c["id"], c["function"]["name"], c["function"]["arguments"])
        for c in message.get("tool_calls") or []
    ]


def reasoning_of(message: Message) -> str | None:
    """Read the reasoning of a message under whichever name it has."""
    for field in REASONING_FIELDS:
        if message.get(field) is not None:
            return message[field]
    return None


def tool_message(call_id: str, text: str) -> Message:
    """Write one tool result."""
    return {"role": "tool", "tool_call_id": call_id, "content": text}


def wire_function(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Declare one tool in the form of the chat completions API."""
    function = {"name": name, "description": description, "parameters": schema}
    return {"type": "function", "function": function}
