"""The rules of the strict endpoint: what a K2 endpoint refuses or a K2 model suffers from.

Each rule names its public source. They encode what issues and sources report, not Moonshot's code,
so the set has a version. Where the sources disagree a rule says what the doubt is: it is a warning
then, and refused by a strict endpoint only.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from conformance.agent import rules_request  # noqa: F401  they register themselves
from conformance.agent.messages import REASONING_FIELDS, Message, Reply, calls_of, reasoning_of
from conformance.agent.rule import RULES, Body, Breach, rule


def _assistants(body: Body) -> list[tuple[int, Message]]:
    found = [(i, m) for i, m in enumerate(body["messages"]) if m["role"] == "assistant"]
    return [(i, m) for i, m in found if m.get("tool_calls")]


def _pairs(body: Body, sent: Sequence[Reply]) -> Iterator[tuple[int, Message, Reply]]:
    """Pair each assistant message that has calls with the reply it must repeat."""
    for (index, message), reply in zip(_assistants(body), sent, strict=False):
        yield index, message, reply


@rule(
    "reasoning-missing",
    "C1",
    "thinking is enabled but reasoning_content is missing in assistant tool call message",
    "bytedance/deer-flow#3043, cloudwego/eino-ext#700, anomalyco/opencode#16318",
)
def reasoning_missing(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    for index, message in _assistants(body):
        if not any(name in message for name in REASONING_FIELDS):
            yield f"message {index}"


@rule(
    "reasoning-null",
    "C1",
    "reasoning_content is null",
    "MoonshotAI/kimi-cli#2498; the template renders <think>None</think>",
)
def reasoning_null(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    for index, message in _assistants(body):
        if any(name in message and message[name] is None for name in REASONING_FIELDS):
            yield f"message {index}"


@rule(
    "reasoning-changed",
    "C1",
    "reasoning_content is not what was sent",
    "can1357/oh-my-pi#1485, router-for-me/CLIProxyAPI#4899; use-kimi-k2-thinking-model guide",
)
def reasoning_changed(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    for index, message, reply in _pairs(body, sent):
        returned = reasoning_of(message)
        if returned is not None and returned != (reply.reasoning or ""):
            yield f"message {index}: {returned[:40]!r} for {(reply.reasoning or '')[:40]!r}"


@rule(
    "reasoning-renamed",
    "C1",
    "reasoning is not under the name it was sent with",
    "vllm-project/vllm#27752, #33402, vllm-project/router#115",
)
def reasoning_renamed(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    for index, message, reply in _pairs(body, sent):
        for name in REASONING_FIELDS:
            if message.get(name) is not None and name != reply.reasoning_field:
                yield f"message {index}: {name} for {reply.reasoning_field}"


@rule(
    "content-changed",
    "C1",
    "content is not what was sent",
    "MoonshotAI/Kimi-K2#89, ai-dynamo/dynamo#9227",
)
def content_changed(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    for index, message, reply in _pairs(body, sent):
        content = message.get("content")
        text = "" if content is None else content
        if isinstance(text, list):
            text = "".join(part.get("text", "") for part in text)
        if text != reply.content:
            yield f"message {index}: {text[:40]!r} for {reply.content[:40]!r}"


@rule(
    "content-list",
    "C1",
    "content is a list of parts",
    "vLLM blog 2025-10-28, second bug",
    "the K2-Thinking template joins the text parts; vLLM's K2-Instruct wrote the list as it stood",
)
def content_list(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    for index, message in enumerate(body["messages"]):
        if message["role"] == "assistant" and isinstance(message.get("content"), list):
            yield f"message {index}"


@rule("calls-changed", "C2", "a tool call is not what was sent", "JetBrains/koog#2095")
def calls_changed(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    for index, message, reply in _pairs(body, sent):
        returned = [(c.name, _json(c.arguments)) for c in calls_of(message)]
        wanted = [(c.name, _json(c.arguments)) for c in reply.calls]
        valid = all(isinstance(value, dict) for _, value in wanted)
        if valid and returned != wanted:
            yield f"message {index}: {returned} for {wanted}"


@rule(
    "ids-swapped",
    "C3",
    "ids of calls are swapped",
    "MoonshotAI/Kimi-K2 docs/tool_call_guidance.md: the id carries the name",
)
def ids_swapped(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    for index, message, reply in _pairs(body, sent):
        returned = [c.id for c in calls_of(message)]
        wanted = [c.id for c in reply.calls]
        if returned != wanted and sorted(returned) == sorted(wanted):
            yield f"message {index}: {returned} for {wanted}"


@rule(
    "ids-repeated",
    "C3",
    "an id is used twice in a conversation",
    "MoonshotAI/Kimi-K2 docs/tool_call_guidance.md: idx counts all calls from 0",
)
def ids_repeated(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    seen: set[str] = set()
    for index, message in _assistants(body):
        for call in calls_of(message):
            if call.id in seen:
                yield f"message {index}: {call.id}"
            seen.add(call.id)


def _answers(body: Body) -> Iterator[tuple[int, list[str], list[str]]]:
    """Give for each assistant message the ids it asked and the ids that follow it."""
    messages = body["messages"]
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        given = []
        for following in messages[index + 1 :]:
            if following["role"] == "assistant":
                break
            if following["role"] == "tool":
                given.append(following.get("tool_call_id", ""))
        yield index, [c.id for c in calls_of(message)], given


@rule(
    "answer-missing",
    "C2",
    "a tool call has no result",
    "MoonshotAI/kimi-cli#1977, MoonshotAI/kimi-code#705, #269",
)
def answer_missing(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    for index, asked, given in _answers(body):
        for missing in sorted(set(asked) - set(given)):
            yield f"message {index}: {missing}"


@rule("answer-unknown", "C2", "tool_call_id is not found", "NousResearch/hermes-agent#4534")
def answer_unknown(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    for index, asked, given in _answers(body):
        for unknown in sorted(set(given) - set(asked)):
            yield f"after message {index}: {unknown}"


@rule(
    "answer-twice",
    "C2",
    "a tool call has two results",
    "chat completions API reference: one tool message for each tool call",
)
def answer_twice(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    for index, _, given in _answers(body):
        for repeated in sorted({i for i in given if given.count(i) > 1}):
            yield f"after message {index}: {repeated}"


@rule(
    "answer-order",
    "C2",
    "results are not in the order of the calls",
    "ggml-org/llama.cpp moonshotai-Kimi-K2-Thinking.jinja pairs them by position",
    "Moonshot's template names the id of each result, so that its order does not matter",
)
def answer_order(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    for index, asked, given in _answers(body):
        if sorted(asked) == sorted(given) and asked != given:
            yield f"after message {index}: {given} for {asked}"


@rule(
    "arguments-json",
    "C2",
    "arguments are not a JSON object",
    "MoonshotAI/Kimi-K2#26, JetBrains/koog#2095",
)
def arguments_json(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    for index, message in _assistants(body):
        for call in calls_of(message):
            if not isinstance(_json(call.arguments), dict):
                yield f"message {index}: {call.arguments[:60]!r}"


def _json(text: Any) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else None
    except json.JSONDecodeError:
        return None


@rule(
    "id-native",
    "C3",
    "an id is not functions.NAME:INDEX",
    "MoonshotAI/K2-Vendor-Verifier README",
    "the official API renames ids before the model sees them; other engines must, and not all do",
)
def id_native(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    for index, message in _assistants(body):
        for call in calls_of(message):
            if not re.fullmatch(rf"functions\.{re.escape(call.name)}:\d+", call.id):
                yield f"message {index}: {call.id}"
                return


def breaches(body: Body, sent: Sequence[Reply]) -> list[Breach]:
    """Apply all rules to one request: body, replies with calls sent so far -> breaches."""
    return [Breach(rule, detail) for rule in RULES for detail in rule.check(body, sent)]
