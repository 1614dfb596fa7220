"""Schemas: the frozen definitions, the model's dialect, and validation like the standard's."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2tools.results import ToolError
from k2tools.schemas import ALLOWED_KEYWORDS, checked
from k2tools.server import PACKS, tools_of

TOOLS = tools_of(PACKS)
FROZEN = [
    json.loads(line)
    for line in (Path(__file__).parent / "definitions.jsonl").read_text("utf-8").splitlines()
]
EDIT = TOOLS["edit_file"]


@pytest.mark.parametrize("frozen", FROZEN, ids=lambda frozen: frozen["name"])
def test_the_tools_have_their_frozen_definitions(frozen: dict[str, Any]) -> None:
    tool = TOOLS[frozen["name"]]
    assert {
        "name": tool.name,
        "description": tool.description,
        "inputSchema": tool.schema,
    } == frozen


def test_the_tools_are_listed_in_their_frozen_order() -> None:
    assert list(TOOLS) == [frozen["name"] for frozen in FROZEN]


def schemas_in(schema: Any) -> Iterator[dict[str, Any]]:
    """Walk a schema and the schemas inside it."""
    yield schema
    for sub in schema.get("properties", {}).values():
        yield from schemas_in(sub)
    for inner in (schema.get("items"), schema.get("additionalProperties")):
        if isinstance(inner, dict):
            yield from schemas_in(inner)
    for branch in schema.get("anyOf", ()):
        yield from schemas_in(branch)


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
def test_every_schema_is_in_the_strictest_reading_of_the_models_dialect(tool: Any) -> None:
    assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]{2,23}", tool.name)
    assert tool.schema["type"] == "object"
    assert tool.schema["additionalProperties"] is False
    for schema in schemas_in(tool.schema):
        assert schema.keys() <= ALLOWED_KEYWORDS
        assert ("type" in schema) != ("anyOf" in schema)
        assert isinstance(schema.get("default", ""), str | int | float | bool)
        assert set(schema.get("required", ())) <= set(schema.get("properties", ()))
    assert len(tool.description) < 500


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
def test_every_example_is_valid(tool: Any) -> None:
    checked(tool.name, tool.schema, tool.example, tool.example)
    jsonschema.validate(dict(tool.example), tool.schema)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 50) | st.floats(-2, 2) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab"), inner, max_size=2),
    max_leaves=4,
)


def arguments_like(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw arguments that are often valid and often nearly so."""
    names = [*schema["properties"], "other"]
    return st.dictionaries(
        st.sampled_from(names), json_values | st.integers(1, 20) | st.just("auto"), max_size=4
    )


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
@given(data=st.data())
def test_validation_agrees_with_the_standards(tool: Any, data: st.DataObject) -> None:
    drawn = data.draw(arguments_like(tool.schema))
    arguments = {**tool.example, **drawn} if data.draw(st.booleans()) else drawn
    valid = jsonschema.Draft202012Validator(tool.schema).is_valid(arguments)
    if not valid:
        with pytest.raises(ToolError):
            checked(tool.name, tool.schema, arguments, tool.example)
    else:
        complete = checked(tool.name, tool.schema, arguments, tool.example)
        assert complete.keys() >= arguments.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "a", "edits": []}, "edits has 0 items, wanted 1"),
        ({"path": "a"}, "missing argument 'edits'"),
        ({"path": 7, "edits": [{"old": "a", "new": "b"}]}, "path must be string, got 7"),
        ({"path": "a", "edits": '[{"old": "a"}]'}, "edits must be list of"),
        ({"path": "a", "edits": [{"old": "a"}]}, "missing argument 'edits[0].new'"),
        (
            {"path": "a", "edits": [{"old": "a", "new": "b", "cuont": 2}]},
            "unknown argument 'edits[0].cuont' (did you mean 'count'?)",
        ),
        (
            {"path": "a", "edits": [{"old": "a", "new": "b", "count": "2"}]},
            "edits[0].count must be integer >= 1, got '2'",
        ),
        ({"path": "a\ud800", "edits": [{"old": "a", "new": "b"}]}, "lone surrogate"),
        ({"path": "a", "edits": [{"old": "a", "new": "b", "count": 10**30}]}, "within"),
        ({"path": "a", "edits": [{"old": "a", "new": "b", "count": float("nan")}]}, "integer"),
    ],
)
def test_messages_say_what_came_the_limits_and_an_example(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ToolError) as caught:
        checked(EDIT.name, EDIT.schema, arguments, EDIT.example)
    assert message in str(caught.value)
    assert "Takes: path: string, edits: list of {old, new, count}" in str(caught.value)
    assert "Example: edit_file(path=" in str(caught.value)


def test_defaults_are_filled_in_and_nothing_else_changes() -> None:
    tool = TOOLS["read_file"]
    assert checked(tool.name, tool.schema, {"path": "a", "line": 5.0}, {}) == {
        "path": "a",
        "line": 5,
        "max_lines": 200,
    }
