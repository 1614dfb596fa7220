"""conformance/api/schemas.py: schemas that MFJS allows, and servers that refuse one thing of it."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.api import schemas
from conformance.api.exchange import Answer
from conformance.api.request import read_request
from conformance.api.schemas import SHAPES, make_schema
from conformance.api.target import HELLO, function, run_checks
from conformance.results import Verdict
from k2ref.chat.typescript import declare_tools
from tests.conformance.api.scripted import target

ANNOTATIONS = {"description", "default"}
KEYWORDS = {  # of walle's table, by the type that may have them
    "string": {"enum", "minLength", "maxLength"},
    "integer": {"enum", "minimum", "maximum"},
    "number": {"enum", "minimum", "maximum"},
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
    "boolean": set(),
    "null": set(),
}


def problems(schema: dict[str, Any], *, root: bool = False) -> Iterator[str]:
    """Say what MFJS forbids in a schema: the rules, written a second time."""
    given = set(schema) - ANNOTATIONS - ({"$defs"} if root else set())
    if {"anyOf", "$ref"} & given:
        if len(given) > 1 or "default" in schema:
            yield f"{given} stand together"
        if schema.get("$ref", "#") not in ("#", "#/$defs/Node"):
            yield f"{schema['$ref']} refers to nothing"
        for branch in schema.get("anyOf", ()):
            yield from problems(branch)
        return
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    allowed = {"type"}.union(*(KEYWORDS[kind] for kind in kinds)) if kinds else {"enum"}
    if len(kinds) > 1:
        allowed = {"type"}
    if given - allowed:
        yield f"{given - allowed} of {kinds}"
    if len({type(value) for value in schema.get("enum", [0])}) != 1:
        yield "an enum is mixed or empty"
    if set(schema.get("required", ())) - set(schema.get("properties", ())):
        yield "what is required is not declared"
    for lower, upper in (("minLength", "maxLength"), ("minimum", "maximum")):
        if schema.get(lower, 0) > schema.get(upper, 99):
            yield f"{lower} is above {upper}"
    yield from inner_problems(schema, root)


def inner_problems(schema: dict[str, Any], root: bool) -> Iterator[str]:
    inner = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values()]
    inner += [schema["items"]] if "items" in schema else []
    extra = schema.get("additionalProperties")
    inner += [extra] if isinstance(extra, dict) and extra else []
    if not root and not schema:
        yield "an empty schema inside"
    for part in inner:
        yield from problems(part)


@given(st.randoms(use_true_random=False))
def test_a_generated_schema_is_allowed_and_read_by_the_reference(source: random.Random) -> None:
    schema = make_schema(source)
    assert list(problems(schema, root=True)) == []
    jsonschema.Draft202012Validator.check_schema(schema)
    tools = [function("f", schema)]
    assert "type f = (_: {" in declare_tools(tools) or "parameters" in declare_tools(tools)
    body = {"model": "k2", "messages": HELLO, "tools": tools}
    assert read_request(body, model="k2").tools == tools


@given(st.randoms(use_true_random=False))
def test_the_smallest_object_of_a_generated_schema_ends(source: random.Random) -> None:
    schema = make_schema(source)
    node = schema["$defs"]["Node"]
    for kind in (schema, node):
        rules = jsonschema.Draft202012Validator({**kind, "$defs": schema["$defs"]})
        rules.validate(smallest(kind, node))


def smallest(schema: dict[str, Any], node: dict[str, Any]) -> Any:
    """Make the smallest value of a schema; a recursion without end would show here."""
    if "$ref" in schema:
        return smallest(node, node)
    if "anyOf" in schema:
        return None  # one branch of each is null
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema["type"] if isinstance(schema["type"], str) else schema["type"][0]
    if kind == "object":
        return {n: smallest(schema["properties"][n], node) for n in schema.get("required", ())}
    plain: dict[str, Any] = {"string": "x", "array": [], "boolean": True, "null": None}
    return plain.get(kind, schema.get("minimum", 0))


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_by_hand_is_allowed(name: str) -> None:
    if SHAPES[name]:
        assert list(problems(SHAPES[name], root=True)) == []


def nodes(schema: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Walk over the schemas in a schema: -> the keyword above each, and the schema."""
    yield place, schema
    for key in ("properties", "$defs"):
        for part in schema.get(key, {}).values():
            yield from nodes(part, key)
    for part in schema.get("anyOf", ()):
        yield from nodes(part, "anyOf")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], key)


Refuses = Callable[[list[dict[str, Any]]], bool]


def failing(refuses: Refuses) -> dict[str, str]:
    """Put the check to a server that refuses some tools: -> messages of failing cases."""
    asked = target()
    honest = asked.exchange.transport

    def send(method: str, path: str, body: Any) -> Answer:
        parameters = [tool["function"]["parameters"] for tool in body["tools"]]
        if refuses(parameters):
            return Answer(400, "application/json", '{"error": {"message": "unsupported schema"}}')
        return honest(method, path, body)

    asked.exchange.transport = send
    results = run_checks(asked, ["api:schemas"])
    return {r.case: r.message for r in results if r.verdict is Verdict.FAIL}


def anywhere(*keywords: str, under: str | None = None) -> Refuses:
    def refuses(parameters: list[dict[str, Any]]) -> bool:
        found = (node for schema in parameters for node in nodes(schema))
        return any(
            set(keywords) <= set(node) for place, node in found if under is None or place == under
        )

    return refuses


@pytest.mark.parametrize(
    "keyword",
    [
        *("type", "properties", "required", "additionalProperties", "items", "enum", "anyOf"),
        *("$defs", "$ref", "description", "default", "minimum", "maximum"),
        *("minLength", "maxLength", "minItems", "maxItems"),
    ],
)
def test_a_server_without_one_keyword_is_caught_twice(keyword: str) -> None:
    found = failing(anywhere(keyword))
    assert "generated" in found
    assert len(found) > 1
    assert keyword in found["generated"], "the schema that is refused is shown"


@pytest.mark.parametrize(
    ("keyword", "under"),
    [
        *(("anyOf", "items"), ("$ref", "additionalProperties"), ("enum", "anyOf")),
        *(("default", "items"), ("properties", "anyOf"), ("required", "$defs")),
        ("type", "additionalProperties"),
    ],
)
def test_a_server_that_misses_a_keyword_in_one_place_is_caught(keyword: str, under: str) -> None:
    assert "generated" in failing(anywhere(keyword, under=under))


def names_as_keywords(parameters: list[dict[str, Any]]) -> bool:
    """Take a property that is called enum for the keyword."""
    found = (node for schema in parameters for _, node in nodes(schema))
    return any(isinstance(node.get("properties", {}).get("enum"), dict) for node in found)


def test_names_that_look_like_keywords_are_tried() -> None:
    assert {"schema-names", "generated"} <= set(failing(names_as_keywords))


def test_tools_that_are_refused_only_together_are_caught() -> None:
    found = failing(lambda parameters: len(parameters) > 1)
    assert found == {"generated": 'HTTP 400: {"error": {"message": "unsupported schema"}}'}


def test_all_generated_schemas_are_sent() -> None:
    sent: list[dict[str, Any]] = []
    failing(lambda parameters: sent.extend(parameters) or False)  # type: ignore[func-returns-value]
    assert len(sent) == len(SHAPES) + schemas.GENERATED + 1
