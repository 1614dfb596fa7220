"""Every client bug of the catalogue, planted in our driver, meets the rule that names it.

The driver speaks HTTP to the strict endpoint, as a client does. A breach of an error rule is
refused with HTTP 400; what the public cases leave in doubt is a warning, and noted.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from conformance.agent import mutants_history as history
from conformance.agent import mutants_loop as loop
from conformance.agent.attempt import attempt
from conformance.agent.driver import Driver
from conformance.agent.families import chase
from conformance.agent.families.twins import pair
from conformance.agent.messages import Model
from conformance.agent.misbehaving import Malformed, Silent
from conformance.agent.mock import StrictEndpoint, serve
from conformance.agent.provider import Endpoint
from conformance.agent.rules import RULES
from conformance.agent.simulated import Oracle
from conformance.agent.smalltools import SmallTools
from conformance.agent.tasks import write_world
from conformance.agent.toolbox import Tool


@dataclass
class Hyphens(SmallTools):
    """Names a tool with a hyphen, which MCP allows."""

    def tools(self) -> list[Tool]:
        return [*super().tools(), Tool("read-more", "Read more.", {"type": "object"}, True)]


@dataclass
class Untyped(SmallTools):
    """Declares a property without a type, as generated schemas do."""

    def tools(self) -> list[Tool]:
        schema = {"type": "object", "properties": {"value": {"description": "Anything."}}}
        return [*super().tools(), Tool("set_value", "Set it.", schema)]


class Bug(NamedTuple):
    """A bug of clients, the rule that names it, and how it is planted."""

    seen_in: str
    rule: str
    driver: type[Driver] = Driver
    extra: dict[str, Any] | None = None
    dialect: str = "reasoning_content"
    brain: Callable[[Oracle], Model] = lambda oracle: oracle
    tools: type[SmallTools] = SmallTools


BUGS = [
    Bug("bytedance/deer-flow#3043", "reasoning-missing", history.DropReasoning),
    Bug("anomalyco/opencode#28542", "reasoning-missing", history.OnlyLastReasoning),
    Bug("MoonshotAI/kimi-cli#2498", "reasoning-missing", history.DropEmptyReasoning, brain=Silent),
    Bug("<think>None</think>", "reasoning-null", history.NullReasoning),
    Bug("can1357/oh-my-pi#1485", "reasoning-changed", history.PlaceholderReasoning),
    Bug("a stream cut short", "reasoning-changed", history.CutReasoning),
    Bug("vllm-project/router#115", "reasoning-renamed", history.RenameField, dialect="reasoning"),
    Bug("MoonshotAI/Kimi-K2#89", "content-changed", history.FoldReasoning),
    Bug("ai-dynamo/dynamo#9227", "content-changed", history.StripThinkEnd),
    Bug("vLLM blog 2025-10-28", "content-list", history.ContentParts),
    Bug("JetBrains/koog#2095", "arguments-json", history.DoubleEncoded),
    Bug("MoonshotAI/kimi-cli#1378", "arguments-json", loop.RawArguments, brain=Malformed),
    Bug("a call under another name", "calls-changed", history.RenamedCalls),
    Bug("swapped ids", "ids-swapped", history.SwapCallIds),
    Bug("sgl-project/sglang#25218", "ids-repeated", history.IdsPerTurn),
    Bug("sgl-project/sglang#25358", "id-native", history.OwnIds),
    Bug("MoonshotAI/kimi-cli#1977", "answer-missing", history.DropResult),
    Bug("NousResearch/hermes-agent#4534", "answer-unknown", history.ForeignResultIds),
    Bug("two results of one call", "answer-twice", history.AnswerTwice),
    Bug("llama.cpp K2-Thinking template", "answer-order", history.ReorderResults),
    Bug("can1357/oh-my-pi#827", "tool-choice", extra={"tool_choice": "required"}),
    Bug("Kimi-Vendor-Verifier: top_p", "parameters", extra={"top_p": 0.8}),
    Bug("Kimi-Vendor-Verifier: temperature", "parameters", loop.OwnTemperature),
    Bug("max_tokens of other models", "max-tokens", loop.SmallMaxTokens),
    Bug("names as MCP allows them", "tool-name", tools=Hyphens),
    Bug("schemas as SDKs generate them", "schema-type", tools=Untyped),
]


def attacked(bug: Bug, folder: Path) -> StrictEndpoint:
    """Let a driver with a bug work on two parallel chains over HTTP."""
    task = pair(chase.make("left", 8), chase.make("right", 10))
    write_world(task.files, folder)
    box = bug.tools(folder)
    task = replace(task, tools=tuple(tool.name for tool in box.tools()))
    endpoint = StrictEndpoint(bug.brain(Oracle(task.policy)), bug.dialect)
    with serve(endpoint) as url:
        model = Endpoint(url, "simulated", extra=bug.extra or {})
        attempt(task, model, toolbox=box, root=folder, driver=bug.driver)
    return endpoint


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.rule}: {bug.seen_in}")
def test_a_bug_of_clients_meets_its_rule(bug: Bug, tmp_path: Path) -> None:
    endpoint = attacked(bug, tmp_path / "world")
    met = {breach.rule.id: breach.rule for breach in endpoint.breaches}
    assert bug.rule in met
    assert (endpoint.rejected > 0) == any(rule.severity == "error" for rule in met.values())
    if met[bug.rule].severity == "error":
        assert endpoint.rejected > 0


def test_a_driver_without_a_bug_meets_no_rule(tmp_path: Path) -> None:
    endpoint = attacked(Bug("", ""), tmp_path / "world")
    assert endpoint.breaches == []
    assert endpoint.rejected == 0


def test_every_rule_is_met_by_a_bug() -> None:
    assert {bug.rule for bug in BUGS} == {rule.id for rule in RULES}
