"""Rules about a request's tools and parameters."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from conformance.agent.messages import Reply
from conformance.agent.rule import Body, rule


@rule(
    "tool-name",
    "C4",
    r"a tool's name is not [A-Za-z_]\w{2,63}",
    "MoonshotAI/walle docs/mfjs-spec.md",
)
def tool_name(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    for tool in body.get("tools") or []:
        if not re.fullmatch(r"[A-Za-z_]\w{2,63}", tool["function"]["name"], re.ASCII):
            yield tool["function"]["name"]


@rule("schema-type", "C4", "type is not defined", "MoonshotAI/walle docs/mfjs-spec.md")
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
    "tool_choice is not compatible with thinking",
    "can1357/oh-my-pi#827, AstrBotDevs/AstrBot#7805",
)
def tool_choice(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    if body.get("tool_choice") not in (None, "auto", "none"):
        yield repr(body["tool_choice"])


@rule(
    "parameters",
    "C4",
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
    "max-tokens",
    "C4",
    "max_tokens is below 16000",
    "use-kimi-k2-thinking-model guide",
    "the guide advises it; a reply that fits in less is served",
)
def max_tokens(body: Body, sent: Sequence[Reply]) -> Iterator[str]:
    given = body.get("max_tokens") or body.get("max_completion_tokens")
    if given is not None and given < 16_000:
        yield str(given)
