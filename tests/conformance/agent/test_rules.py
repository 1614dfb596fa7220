"""Each rule of the strict endpoint accepts a right request and has one that breaches it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from conformance.agent.messages import Call, Reply
from conformance.agent.rule import RULES
from conformance.agent.rules import breaches

SENT = [
    Reply("", "R", (Call("functions.one_tool:0", "one_tool", '{"a": 1}'),
                    Call("functions.one_tool:1", "one_tool", '{"a": 2}')), "tool_calls"),
]  # fmt: skip
TOOL = {
    "type": "function",
    "function": {
        "name": "one_tool",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
RIGHT: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "R",
            "tool_calls": [
                {
                    "id": f"functions.one_tool:{i}",
                    "type": "function",
                    "function": {"name": "one_tool", "arguments": f'{{"a": {i + 1}}}'},
                }
                for i in range(2)
            ],
        },
        {"role": "tool", "tool_call_id": "functions.one_tool:0", "content": "x"},
        {"role": "tool", "tool_call_id": "functions.one_tool:1", "content": "y"},
    ],
    "tools": [TOOL],
    "max_tokens": 32_000,
    "temperature": 1.0,
    "tool_choice": "auto",
}
Change = Callable[[dict[str, Any]], object]
WRONG: dict[str, Change] = {
    "reasoning-missing": lambda b: b["messages"][1].pop("reasoning_content"),
    "reasoning-null": lambda b: b["messages"][1].update(reasoning_content=None),
    "reasoning-changed": lambda b: b["messages"][1].update(reasoning_content="."),
    "reasoning-renamed": lambda b: b["messages"][1].update(
        reasoning=b["messages"][1].pop("reasoning_content")
    ),
    "content-changed": lambda b: b["messages"][1].update(content="<think>R</think>"),
    "content-list": lambda b: b["messages"][1].update(content=[{"type": "text", "text": ""}]),
    "answer-missing": lambda b: b["messages"].pop(),
    "answer-unknown": lambda b: b["messages"][3].update(tool_call_id="call_9"),
    "answer-twice": lambda b: b["messages"].append(b["messages"][3]),
    "answer-order": lambda b: b["messages"].insert(2, b["messages"].pop()),
    "calls-changed": lambda b: _function(b).update(arguments='{"a": 7}'),
    "arguments-json": lambda b: _function(b).update(arguments='"{}"'),
    "ids-swapped": lambda b: (
        b["messages"][1]["tool_calls"][0].update(id="functions.one_tool:1")
        or b["messages"][1]["tool_calls"][1].update(id="functions.one_tool:0")
    ),
    "ids-repeated": lambda b: b["messages"].extend(b["messages"][1:]),
    "id-native": lambda b: b["messages"][1]["tool_calls"][0].update(id="call_1"),
    "tool-name": lambda b: b["tools"][0]["function"].update(name="web-search"),
    "schema-type": lambda b: b["tools"][0]["function"]["parameters"]["properties"].update(b={}),
    "tool-choice": lambda b: b.update(tool_choice="required"),
    "parameters": lambda b: b.update(top_p=0.8),
    "max-tokens": lambda b: b.update(max_tokens=4_096),
}


def _function(body: dict[str, Any]) -> dict[str, Any]:
    return body["messages"][1]["tool_calls"][0]["function"]


def test_a_right_request_breaches_nothing() -> None:
    assert breaches(RIGHT, SENT) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_every_rule_has_a_request_that_breaches_it(rule: Any) -> None:
    body = copy.deepcopy(RIGHT)
    WRONG[rule.id](body)
    assert rule.id in {breach.rule.id for breach in breaches(body, SENT)}


def test_every_rule_names_its_source() -> None:
    assert all(rule.source and rule.client_check in ("C1", "C2", "C3", "C4") for rule in RULES)
    assert len({rule.id for rule in RULES}) == len(RULES) == len(WRONG)
