"""Every client bug of the catalogue, planted in our driver, meets the rule that names it.

The driver speaks HTTP to the strict endpoint, as a client does, and is refused with HTTP 400. What
the sources leave in doubt is only noted where the endpoint is not strict.
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
from conformance.agent.run import Run
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


def attacked(bug: Bug, folder: Path, *, strict: bool) -> tuple[StrictEndpoint, Run]:
    """Let a driver with a bug work on two parallel chains over HTTP."""
    task = pair(chase.make("left", 8), chase.make("right", 10))
    write_world(task.files, folder)
    box = bug.tools(folder)
    task = replace(task, tools=tuple(tool.name for tool in box.tools()))
    endpoint = StrictEndpoint(bug.brain(Oracle(task.policy)), bug.dialect, strict=strict)
    with serve(endpoint) as url:
        model = Endpoint(url, "simulated", extra=bug.extra or {})
        found = attempt(task, model, toolbox=box, root=folder, driver=bug.driver)
    return endpoint, found.run


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.rule}: {bug.seen_in}")
def test_a_bug_of_clients_is_refused_by_the_rule_that_names_it(bug: Bug, tmp_path: Path) -> None:
    endpoint, run = attacked(bug, tmp_path / "world", strict=True)
    (rule,) = (rule for rule in RULES if rule.id == bug.rule)
    assert endpoint.rejected > 0
    assert run.status == "provider_error"
    assert f"[{rule.id}, {rule.source}]" in run.detail
    assert "400" in run.detail


DOUBTFUL = [bug for bug in BUGS if bug.rule in {rule.id for rule in RULES if rule.doubt}]


@pytest.mark.parametrize("bug", DOUBTFUL, ids=lambda bug: f"{bug.rule}: {bug.seen_in}")
def test_what_the_sources_leave_in_doubt_is_noted_by_default(bug: Bug, tmp_path: Path) -> None:
    endpoint, run = attacked(bug, tmp_path / "world", strict=False)
    assert {breach.rule.id for breach in endpoint.breaches} == {bug.rule}
    assert endpoint.rejected == 0
    assert run.status == "done"


def test_a_driver_without_a_bug_is_never_refused(tmp_path: Path) -> None:
    endpoint, run = attacked(Bug("", ""), tmp_path / "world", strict=True)
    assert endpoint.breaches == []
    assert run.status == "done"


def test_every_rule_is_met_by_a_bug() -> None:
    assert {bug.rule for bug in BUGS} == {rule.id for rule in RULES}
