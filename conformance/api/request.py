"""A chat request, read strictly: what a K2 endpoint refuses is refused with the field's name.

Rules and their sources: reasoning must come back with tool calls (QuantumNous/new-api#3121), other
sampling than one answer without penalties is no K2 setting (MoonshotAI/Kimi-Vendor-Verifier,
tests/params), and a forced tool choice contradicts thinking (vllm-project/vllm#46344).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from k2ref.chat import native_ids
from k2ref.chat.wire import reasoning_of
from k2ref.errors import InputError
from k2ref.generate import Sampling

MAX_TOP = 20
_KNOWN = {
    *("model", "messages", "tools", "tool_choice", "temperature", "top_p", "max_tokens"),
    *("max_completion_tokens", "stream", "stream_options", "stop", "logprobs", "top_logprobs"),
    *("seed", "n", "presence_penalty", "frequency_penalty", "thinking", "chat_template_kwargs"),
    *("response_format", "parallel_tool_calls"),
    *("user", "metadata", "store", "prompt_cache_key", "safety_identifier"),  # of no effect
}


class Refused(Exception):
    """A request that is answered with an error: the field, a sentence, the status."""

    def __init__(self, field: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.field = field
        self.status = status


@dataclass(frozen=True)
class Ask:
    """A request that can be answered."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    thinking: bool
    preserve_thinking: bool | None
    sampling: Sampling
    max_tokens: int | None
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    top_logprobs: int | None
    """how many alternatives per token; None without logprobs"""


def read_request(body: Any, *, model: str, thinks: bool = True) -> Ask:
    """Read a parsed body: body, the model served and whether it can think -> Ask.

    Raises:
        Refused: what is missing, unknown, of the wrong type or out of range.
    """
    if not isinstance(body, dict):
        raise Refused("body", "the body must be a JSON object")
    if unknown := sorted(set(body) - _KNOWN):
        raise Refused(unknown[0], f"unknown field {unknown[0]}")
    if body.get("model") != model:
        raise Refused("model", f"no model {body.get('model')!r}; this serves {model!r}", 404)
    _check_fixed(body)
    thinking, preserve = _thinking(body)
    thinking = thinking and thinks
    messages = _messages(body, thinking)
    options = _typed(body, "stream_options", dict, {})
    return Ask(
        messages=messages,
        tools=_tools(body),
        thinking=thinking,
        preserve_thinking=preserve,
        sampling=_sampling(body),
        max_tokens=_max_tokens(body),
        stop=_stop(body),
        stream=_typed(body, "stream", bool, False),
        include_usage=bool(options.get("include_usage")),
        top_logprobs=_top_logprobs(body),
    )


def _typed(body: Mapping[str, Any], field: str, kind: Any, default: Any) -> Any:
    value = body.get(field)
    if value is None:
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        names = kind if isinstance(kind, tuple) else (kind,)
        raise Refused(field, f"{field} must be {' or '.join(k.__name__ for k in names)}")
    return value


def _check_fixed(body: Mapping[str, Any]) -> None:
    for field, only in (("n", 1), ("presence_penalty", 0), ("frequency_penalty", 0)):
        if _typed(body, field, (int, float), only) != only:
            raise Refused(field, f"{field} must be {only}")
    if body.get("tool_choice", "auto") not in ("auto", "none", None):
        raise Refused("tool_choice", "tool_choice must be auto or none: the model thinks first")
    form = _typed(body, "response_format", dict, {"type": "text"})
    if form.get("type") != "text":
        raise Refused("response_format", "response_format must be text: nothing is constrained")


def _thinking(body: Mapping[str, Any]) -> tuple[bool, bool | None]:
    """Read both spellings: body -> thinking, preserve_thinking."""
    official = _typed(body, "thinking", dict, {})
    kwargs = _typed(body, "chat_template_kwargs", dict, {})
    if official.get("type", "enabled") not in ("enabled", "disabled"):
        raise Refused("thinking", "thinking.type must be enabled or disabled")
    if official.get("keep") not in (None, "all", "last_turn", "none"):
        raise Refused("thinking", "thinking.keep must be all, last_turn or none")
    asked = [kwargs[k] for k in ("thinking", "enable_thinking") if k in kwargs]
    thinking = official.get("type") != "disabled" and all(asked)
    keep = official.get("keep") == "all" or kwargs.get("preserve_thinking")
    return thinking, True if keep else None


def _messages(body: Mapping[str, Any], thinking: bool) -> list[dict[str, Any]]:
    messages = _typed(body, "messages", list, [])
    if not messages:
        raise Refused("messages", "messages must be a list of at least one message")
    try:
        renamed = native_ids(messages)
    except (InputError, TypeError, ValueError) as error:
        raise Refused("messages", str(error)) from None
    for place, message in enumerate(renamed):
        if thinking and message.get("tool_calls") and reasoning_of(message) is None:
            raise Refused(
                "messages",
                "thinking is enabled but reasoning_content is missing in assistant tool call "
                f"message at index {place}",
            )
    return renamed


def _tools(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    tools: list[dict[str, Any]] = _typed(body, "tools", list, [])
    for place, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise Refused("tools", f"tools[{place}] must be a function with a name")
        _check_schema(function.get("parameters") or {}, f"tools[{place}].parameters")
    return [] if body.get("tool_choice") == "none" else tools


def _check_schema(schema: Any, where: str) -> None:
    """Refuse a property that does not say what it is (MoonshotAI/walle): schema, place."""
    if not isinstance(schema, dict):
        raise Refused("tools", f"{where} must be a JSON Schema object")
    properties = schema.get("properties") or {}
    for name, inner in properties.items() if isinstance(properties, dict) else ():
        if not isinstance(inner, dict) or not {"type", "enum", "anyOf", "$ref"} & set(inner):
            raise Refused("tools", f"{where}.properties.{name}: type is not defined")
        _check_schema(inner, f"{where}.properties.{name}")


def _sampling(body: Mapping[str, Any]) -> Sampling:
    temperature = _typed(body, "temperature", (int, float), 1.0)
    if not 0 <= temperature <= 1:
        raise Refused("temperature", f"temperature must lie from 0 to 1, got {temperature}")
    top_p = _typed(body, "top_p", (int, float), 1.0)
    if not 0 < top_p <= 1:
        raise Refused("top_p", f"top_p must lie above 0 and be at most 1, got {top_p}")
    seed = _typed(body, "seed", int, 0)
    if not 0 <= seed < 2**64:
        raise Refused("seed", "seed must lie from 0 to 2**64 - 1")
    return Sampling(temperature, top_p, seed)


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    field = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    limit: int | None = _typed(body, field, int, None)
    if limit is not None and limit < 1:
        raise Refused(field, f"{field} must be at least 1, got {limit}")
    return limit


def _stop(body: Mapping[str, Any]) -> tuple[str, ...]:
    stop = _typed(body, "stop", (str, list), [])
    given = [stop] if isinstance(stop, str) else stop
    if any(not isinstance(text, str) or not text for text in given) or len(given) > 8:
        raise Refused("stop", "stop must be a text or at most 8 texts, none empty")
    return tuple(given)


def _top_logprobs(body: Mapping[str, Any]) -> int | None:
    wanted = _typed(body, "logprobs", bool, False)
    top = _typed(body, "top_logprobs", int, 0)
    if not 0 <= top <= MAX_TOP:
        raise Refused("top_logprobs", f"top_logprobs must lie from 0 to {MAX_TOP}")
    return top if wanted else None
