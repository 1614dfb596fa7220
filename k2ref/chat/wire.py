"""Messages as they travel over an API: field names, tool ids, and ids renumbered for K2.

A message is a dictionary as in the OpenAI chat API. A K2 model learnt one form of tool id,
`functions.NAME:INDEX`, where INDEX counts all calls of the conversation from 0. The id is the only
place in the prompt that carries the name of the function. A history with other ids teaches the
model a bad form, so servers rename before they render.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from k2ref.errors import InputError

Message = Mapping[str, Any]
REASONING_FIELDS = ("reasoning_content", "reasoning")
ROLES = ("system", "user", "assistant", "tool")
_ID = re.compile(r"(?:functions\.)?(?P<name>.+):(?P<index>\d+)", re.DOTALL)


def call_name(call_id: str) -> str | None:
    """Read the function's name out of a tool id: id -> name, or None if the id has none."""
    match = _ID.fullmatch(call_id.strip())
    return match["name"] if match else None


def reasoning_of(message: Message) -> str | None:
    """Read the reasoning under either of its field names: message -> text or None.

    "" is an answer (the model thought nothing) and differs from None (nobody kept it).
    """
    found = [message[f] for f in REASONING_FIELDS if message.get(f) is not None]
    if any(not isinstance(text, str) for text in found):
        raise InputError(f"reasoning must be text, got {found}")
    if len(set(found)) > 1:
        raise InputError("reasoning_content and reasoning differ; send one of them")
    return found[0] if found else None


def check_messages(messages: Sequence[Message]) -> None:
    """Refuse messages that cannot be rendered without guessing: messages.

    Raises:
        InputError: names the message by its place and says what it needs.
    """
    for place, message in enumerate(messages):
        try:
            _check(message)
            for call in _list(message, "tool_calls"):
                _check_call(call)
        except InputError as error:
            raise InputError(f"message {place}: {error}") from None


def _check(message: Message) -> None:
    if not isinstance(message, Mapping):
        raise InputError(f"wanted an object, got {type(message).__name__}")
    if message.get("role") not in ROLES:
        raise InputError(f"role must be one of {', '.join(ROLES)}, got {message.get('role')!r}")
    for key in ("name", "tool_call_id"):
        if not isinstance(message.get(key), str | None):
            raise InputError(f"{key} must be text, got {message[key]!r}")
    if not isinstance(message.get("content"), str | list | None):
        raise InputError(f"content must be text or a list of parts, got {message['content']!r}")
    reasoning_of(message)
    if message.get("partial"):
        raise InputError("no published prompt shows how partial is continued; leave it out")
    if message["role"] == "tool" and not message.get("tool_call_id"):
        raise InputError("a tool message needs the tool_call_id of the call that it answers")


def _list(message: Message, key: str) -> list[Any]:
    value = message.get(key)
    if value is not None and not isinstance(value, list):
        raise InputError(f"{key} must be a list, got {value!r}")
    return value or []


def _check_call(call: Any) -> None:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InputError("a tool call needs a function with a name")
    if not isinstance(function.get("arguments"), str | Mapping):
        raise InputError("the arguments of a tool call are an object, or its text")
    if not isinstance(call.get("id"), str) or not call["id"]:
        raise InputError("a tool call needs an id; native_ids mints functions.NAME:INDEX")


def native_ids(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Rename all tool ids to `functions.NAME:INDEX`, counted from 0: messages -> messages.

    An answer is matched with the calls of the last assistant message before it.
    """
    renamed, count = [], 0
    pending: dict[Any, str] = {}
    for place, message in enumerate(messages):
        message = dict(message)
        if calls_before := _list(message, "tool_calls"):
            pending, calls = {}, []
            for call in calls_before:
                _check_call({**call, "id": "any"} if isinstance(call, Mapping) else call)
                new = f"functions.{call['function']['name']}:{count}"
                count += 1
                pending[call.get("id")] = new
                calls.append({**call, "id": new})
            if len(pending) < len(calls):
                raise InputError(
                    f"message {place}: two calls share an id, so answers are ambiguous"
                )
            message["tool_calls"] = calls
        elif message.get("role") == "tool":
            message["tool_call_id"] = _answered(place, message, pending)
        renamed.append(message)
    return renamed


def _answered(place: int, message: Message, pending: Mapping[Any, str]) -> str:
    given = message.get("tool_call_id")
    if given not in pending:
        raise InputError(
            f"message {place} answers {given!r}, but the open calls are "
            f"{', '.join(map(repr, pending)) or 'none'}"
        )
    return pending[given]
