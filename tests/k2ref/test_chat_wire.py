"""k2ref/chat/wire.py: reasoning fields and renamed ids."""

from typing import Any

import pytest
from hypothesis import given

from k2ref.chat import native_ids
from k2ref.chat.wire import reasoning_of
from k2ref.errors import InputError
from tests.k2ref.chat_strategies import conversations
from tests.k2ref.vocabulary import cases


@pytest.mark.parametrize("case", cases("wire"), ids=lambda case: case["id"])
def test_reasoning_survives_the_wire(case: dict[str, Any]) -> None:
    if case["result"] == "invalid":
        with pytest.raises(InputError, match="differ; send one"):
            reasoning_of(case["message"])
    else:
        assert reasoning_of(case["message"]) == case["reasoning"]


def ids_of(messages: list[dict[str, Any]]) -> list[Any]:
    found: list[Any] = []
    for message in messages:
        if message.get("tool_calls"):
            found.append([call["id"] for call in message["tool_calls"]])
        elif "tool_call_id" in message:
            found.append(message["tool_call_id"])
    return found


@pytest.mark.parametrize(
    "case", [c for c in cases("ids") if "messages" in c], ids=lambda case: case["id"]
)
def test_foreign_ids_are_renamed(case: dict[str, Any]) -> None:
    if case["result"] == "invalid":
        with pytest.raises(InputError, match=r"message \d"):
            native_ids(case["messages"])
    else:
        before = repr(case["messages"])
        assert ids_of(native_ids(case["messages"])) == case["renamed"]
        assert repr(case["messages"]) == before, "the caller's messages are left alone"


@given(conversations())
def test_native_ids_stay_as_they_are(messages: list[dict[str, Any]]) -> None:
    assert native_ids(messages) == messages


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (1, "a tool call needs a function"),
        ({"function": {"name": "f", "arguments": [1]}}, "an object, or its text"),
    ],
)
def test_a_broken_call_is_named(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        native_ids([{"role": "assistant", "tool_calls": [call]}])


def test_an_answer_to_nothing_says_what_is_open() -> None:
    with pytest.raises(InputError, match="answers 'x', but the open calls are none"):
        native_ids([{"role": "tool", "tool_call_id": "x"}])
    with pytest.raises(InputError, match="tool_calls must be a list"):
        native_ids([{"role": "assistant", "tool_calls": "f"}])
