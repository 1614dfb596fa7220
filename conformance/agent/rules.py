"""The rules of the strict endpoint: what a K2 endpoint refuses or a K2 model suffers from.

Each rule names its public source. They encode what issues and sources report, not Moonshot's code,
so the set has a version, and a rule that is doubtful is a warning.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from conformance.agent.messages import REASONING_FIELDS, Message, Reply, calls_of, reasoning_of

VERSION = "2026-11"
Body = dict[str, Any]
Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Rule:
    """One rule: `check` yields a detail for every breach."""

    id: str
    client_check: str
    severity: Severity
    message: str
    source: str
    check: Callable[[Body, Sequence[Reply]], Iterator[str]]


RULES: list[Rule] = []
Check = Callable[[Body, Sequence[Reply]], Iterator[str]]


def rule(
    id: str, client_check: str, severity: Severity, message: str, source: str
) -> Callable[[Check], Check]:
    """Register a rule beside the function that checks it."""

    def register(check: Check) -> Check:
        RULES.append(Rule(id, client_check, severity, message, source, check))
        return check

    return register


class Breach(NamedTuple):
    """One breach of a rule."""

    rule: Rule
    detail: str


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
    "error",
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
    "error",
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
    "error",
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
    "error",
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
    "error",
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
    "warning",
    "content is a list of parts",
    "vLLM blog 2025-10-28, second bug",
)
def content_list(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    for index, message in enumerate(body["messages"]):
        if message["role"] == "assistant" and isinstance(message.get("content"), list):
            yield f"message {index}"


@rule("calls-changed", "C2", "error", "a tool call is not what was sent", "JetBrains/koog#2095")
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
    "error",
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
    "error",
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
    "error",
    "a tool call has no result",
    "MoonshotAI/kimi-cli#1977, MoonshotAI/kimi-code#705, #269",
)
def answer_missing(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    for index, asked, given in _answers(body):
        for missing in sorted(set(asked) - set(given)):
            yield f"message {index}: {missing}"


@rule(
    "answer-unknown", "C2", "error", "tool_call_id is not found", "NousResearch/hermes-agent#4534"
)
def answer_unknown(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    for index, asked, given in _answers(body):
        for unknown in sorted(set(given) - set(asked)):
            yield f"after message {index}: {unknown}"


@rule(
    "answer-twice",
    "C2",
    "error",
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
    "warning",
    "results are not in the order of the calls",
    "ggml-org/llama.cpp moonshotai-Kimi-K2-Thinking.jinja pairs them by position",
)
def answer_order(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    for index, asked, given in _answers(body):
        if sorted(asked) == sorted(given) and asked != given:
            yield f"after message {index}: {given} for {asked}"


@rule(
    "arguments-json",
    "C2",
    "error",
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
    "tool-name",
    "C4",
    "error",
    r"a tool's name is not [A-Za-z_]\w{2,63}",
    "MoonshotAI/walle docs/mfjs-spec.md",
)
def tool_name(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    for tool in body.get("tools") or []:
        if not re.fullmatch(r"[A-Za-z_]\w{2,63}", tool["function"]["name"], re.ASCII):
            yield tool["function"]["name"]


@rule("schema-type", "C4", "error", "type is not defined", "MoonshotAI/walle docs/mfjs-spec.md")
def schema_type(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    for tool in body.get("tools") or []:
        schema = tool["function"].get("parameters") or {}
        yield from _untyped(schema, tool["function"]["name"])


def _untyped(schema: Any, where: str) -> Iterator[str]:
    for name, sub in (schema.get("properties") or {}).items():
        if not {"type", "anyOf", "oneOf", "allOf", "$ref", "enum"} & set(sub):
            yield f"{where}.{name}"
        yield from _untyped(sub, f"{where}.{name}")


@rule(
    "tool-choice",
    "C4",
    "error",
    "tool_choice is not compatible with thinking",
    "can1357/oh-my-pi#827, AstrBotDevs/AstrBot#7805",
)
def tool_choice(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    if body.get("tool_choice") not in (None, "auto", "none"):
        yield repr(body["tool_choice"])


@rule(
    "parameters",
    "C4",
    "error",
    "an immutable parameter was set",
    "MoonshotAI/Kimi-Vendor-Verifier verify_params.py, later tests/params/test_params.py",
)
def parameters(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    fixed = {"top_p": 0.95, "n": 1, "presence_penalty": 0, "frequency_penalty": 0}
    for name, value in fixed.items():
        if body.get(name) not in (None, value):
            yield f"{name}={body[name]}"
    temperature = body.get("temperature")
    if temperature is not None and not 0 <= temperature <= 1:
        yield f"temperature={temperature}"


@rule(
    "max-tokens", "C4", "warning", "max_tokens is below 16000", "use-kimi-k2-thinking-model guide"
)
def max_tokens(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    given = body.get("max_tokens") or body.get("max_completion_tokens")
    if given is not None and given < 16_000:
        yield str(given)


@rule(
    "id-native",
    "C3",
    "warning",
    "an id is not functions.NAME:INDEX",
    "MoonshotAI/K2-Vendor-Verifier README",
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
