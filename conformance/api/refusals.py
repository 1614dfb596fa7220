"""Requests: what must be refused, and what must not."""

from collections.abc import Iterator
from typing import Any

from conformance.api.target import HELLO, Finding, Target, check, function, judge
from conformance.results import Verdict

ONE = {"max_tokens": 1}
BROKEN: dict[str, Any] = {
    "no-json": "{",
    "no-messages": {"messages": None},
    "messages-text": {"messages": "hi"},
    "role": {"messages": [{"role": "wizard", "content": "hi"}]},
    "temperature": {"temperature": -1},
    "top-p": {"top_p": 7},
    "max-tokens": {"max_tokens": -5},
    "tools-text": {"tools": "get_weather"},
}


@check("api:errors")
def check_broken(target: Target) -> Iterator[Finding]:
    """A wrong request is answered with 400 and a sentence, never with 200 or 5xx."""
    for case, change in BROKEN.items():
        body = change if isinstance(change, str) else target.body(HELLO, **ONE) | change
        if isinstance(body, dict):
            body = {key: value for key, value in body.items() if value is not None}
        answer = target.post(body)
        problems = [] if answer.status in (400, 422) else [f"HTTP {answer.status}"]
        error = answer.json()
        if not problems and not (
            isinstance(error, dict) and {"error", "detail", "message"} & set(error)
        ):
            problems.append("the error has no message")
        yield judge(case, problems)


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


SCHEMAS: dict[str, Any] = {
    "enum": {"type": "string", "enum": ["a", "b"]},
    "nested": {"type": "object", "properties": {"b": _object(c={"type": "integer"})}},
    "array": {"type": "array", "items": _object(x={"type": "number"})},
    "any-of": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    "limits": {"type": "integer", "minimum": 1, "maximum": 9},
    "default": {"type": "boolean", "default": False},
    "additional": {"type": "object", "properties": {}, "additionalProperties": {"type": "string"}},
    "unicode": {"type": "string", "description": "天气 <x>&'\"", "enum": ["北京"]},
}


@check("api:schemas")
def check_schema(target: Target) -> Iterator[Finding]:
    """Tool schemas that MFJS allows are accepted."""
    shapes = {name: _object(a=schema) for name, schema in SCHEMAS.items()}
    shapes["no-parameters"] = _object()
    node = _object(value={"type": "string"})
    shapes["references"] = _object(root={"$ref": "#/$defs/Node"}) | {"$defs": {"Node": node}}
    for case, parameters in shapes.items():
        answer = target.post(target.body(HELLO, tools=[function("f", parameters)], **ONE))
        yield judge(
            case, [] if answer.status == 200 else [f"HTTP {answer.status}: {answer.body[:120]}"]
        )


@check("api:schemas")
def check_untyped(target: Target) -> Iterator[Finding]:
    """A property without a type: the official endpoint refuses it, others differ."""
    parameters = _object(a={"description": "no type"})
    answer = target.post(target.body(HELLO, tools=[function("f", parameters)], **ONE))
    done = "accepted" if answer.status == 200 else f"refused with {answer.status}"
    yield Finding("", Verdict.QUESTION, f"a property without type is {done}")


IMMUTABLE: dict[str, Any] = {
    "temperature": 1.1,
    "top_p": 0.8,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "n": 2,
}


@check("api:immutable-parameters")
def check_immutable(target: Target) -> Iterator[Finding]:
    """Settings that the official endpoint refuses with 400, and self-hosted ones mostly take."""
    taken = [
        f"{name} {value}"
        for name, value in IMMUTABLE.items()
        if target.post(target.body(HELLO, **ONE) | {name: value}).status == 200
    ]
    yield Finding("", Verdict.QUESTION, f"takes {', '.join(taken) or 'none of them'}")
