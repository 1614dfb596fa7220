"""Schemas of tools that an endpoint must accept: MFJS, the subset of JSON Schema that K2 knows.

The rules are those of MoonshotAI/walle, docs/mfjs-walle-vs-draft-2020-12.md: few keywords, `$defs`
only at the root, references only into the document, nothing but a description beside `anyOf` and
`$ref`, and recursion that can end. Cases by hand name one thing each; generated ones combine them.
"""

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

from conformance.api.target import HELLO, Finding, Target, check, function, judge
from conformance.results import Verdict

Schema = dict[str, Any]
GENERATED, TOGETHER = 200, 8


def _object(**properties: Any) -> Schema:
    return {"type": "object", "properties": properties}


NODE = {"$ref": "#/$defs/Node"}
LEAVES: dict[str, Schema] = {
    "string": {"type": "string"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "null": {"type": "null"},
    "list": {"type": "array"},
    "length": {"type": "string", "minLength": 1, "maxLength": 9},
    "limits": {"type": "integer", "minimum": 1, "maximum": 9},
    "items": {"type": "array", "items": {"type": "string"}, "minItems": 0, "maxItems": 3},
    "enum": {"type": "string", "enum": ["a", "b"]},
    "integer-enum": {"type": "integer", "enum": [1, 2]},
    "enum-alone": {"enum": ["a", "b"]},
    "types": {"type": ["string", "null"]},
    "default": {"type": "boolean", "default": False},
    "unicode": {"type": "string", "description": "天气 <x>&'\"", "enum": ["北京"]},
}
SHAPES: dict[str, Schema] = {
    **{name: _object(a=leaf) for name, leaf in LEAVES.items()},
    "empty": {},
    "no-parameters": _object(),
    "nested": _object(a=_object(b=_object(c={"type": "integer"}))),
    "array": _object(a={"type": "array", "items": _object(x={"type": "number"})}),
    "any-of": _object(a={"anyOf": [{"type": "string"}, {"type": "null"}], "description": "d"}),
    "additional": _object(a=_object() | {"additionalProperties": {"type": "string"}}),
    "closed": _object(a={"type": "string"}) | {"required": ["a"], "additionalProperties": False},
    "references": _object(root=NODE)
    | {"required": ["root"], "$defs": {"Node": _object(value={"type": "string"})}},
    "recursion": _object(root=NODE)
    | {"$defs": {"Node": _object(next={"anyOf": [NODE, {"type": "null"}]})}},
    "self-reference": _object(children={"type": "array", "items": {"$ref": "#"}}),
    "names": _object(**{n: {"type": "string"} for n in ("type", "items", "enum", "a.b", "a/b")}),
}


def make_schema(source: random.Random) -> Schema:
    """Draw the parameters of a tool: source of choices -> schema."""
    definition = _record(source, 1)
    definition["properties"]["next"] = {"anyOf": [NODE, {"type": "null"}]}
    return _record(source, 2) | {"$defs": {"Node": definition}}


def _draw(source: random.Random, depth: int) -> Schema:
    if depth == 0 or source.random() < 0.4:
        leaves = [*LEAVES.values(), NODE, {"$ref": "#"}]
        node = dict(source.choice(leaves))
    else:
        node = source.choice((_list, _union, _record))(source, depth - 1)
    if source.random() < 0.3:
        node["description"] = "What it is for."
    return node


def _list(source: random.Random, depth: int) -> Schema:
    return {"type": "array", "items": _draw(source, depth)}


def _union(source: random.Random, depth: int) -> Schema:
    return {"anyOf": [_draw(source, depth), {"type": "null"}]}


def _record(source: random.Random, depth: int) -> Schema:
    names = source.sample(["city", "type", "items", "enum", "x_1", "日期"], source.randint(1, 3))
    node = _object(**{name: _draw(source, depth) for name in names})
    ending = [name for name in names if "$ref" not in json.dumps(node["properties"][name])]
    extra = source.choice((None, True, False, {}, _draw(source, 0)))
    node |= {} if extra is None else {"additionalProperties": extra}
    return node | {"required": source.sample(ending, source.randint(0, len(ending)))}


@check("api:schemas")
def check_schema(target: Target) -> Iterator[Finding]:
    """Each thing that MFJS allows is accepted, by itself."""
    for case, parameters in SHAPES.items():
        yield judge(case, _refusal(target, [parameters]))


@check("api:schemas")
def check_generated(target: Target) -> Iterator[Finding]:
    """And so are combinations, several tools at a time; what is refused is named."""
    source = random.Random(0)
    schemas = [make_schema(source) for _ in range(GENERATED)]
    for start in range(0, GENERATED, TOGETHER):
        group = schemas[start : start + TOGETHER]
        if problems := _refusal(target, group):
            yield judge("", _first_refusal(target, group) or problems)
            return
    yield judge("", [])


def _first_refusal(target: Target, schemas: Sequence[Schema]) -> list[str]:
    for schema in schemas:
        if problems := _refusal(target, [schema]):
            return [f"{problems[0]} for {json.dumps(schema, ensure_ascii=False)}"]
    return []


def _refusal(target: Target, schemas: Sequence[Schema]) -> list[str]:
    """Offer tools with these parameters: target, schemas -> problems."""
    tools = [function(f"f{place}", schema) for place, schema in enumerate(schemas)]
    answer = target.post(target.body(HELLO, tools=tools, max_tokens=1))
    return [] if answer.status == 200 else [f"HTTP {answer.status}: {answer.body[:120]}"]


@check("api:schemas")
def check_untyped(target: Target) -> Iterator[Finding]:
    """A property without a type: the official endpoint refuses it, others differ."""
    refused = _refusal(target, [_object(a={"description": "no type"})])
    done = f"refused with {refused[0]}" if refused else "accepted"
    yield Finding("", Verdict.QUESTION, f"a property without type is {done}")
