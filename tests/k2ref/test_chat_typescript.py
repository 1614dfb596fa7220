"""k2ref/chat/typescript.py: declarations of spec/chat, and refusals."""

from typing import Any

import pytest

from k2ref.chat.typescript import declare_tools
from tests.k2ref.vocabulary import cases


@pytest.mark.parametrize("case", cases("typescript"), ids=lambda case: case["id"])
def test_tools_are_declared_as_in_the_spec(case: dict[str, Any]) -> None:
    if case["result"] == "invalid":
        with pytest.raises(ValueError, match=r"a schema needs a type|a reference must be"):
            declare_tools(case["tools"])
    else:
        assert declare_tools(case["tools"]) == case["text"]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": ["string", "weird"]}, "unknown type 'weird'"),
        ({"enum": ["a"], "type": ["string", "number"]}, "one type and null"),
        ({"enum": ["a", 1], "type": "string"}, "1 in the enum is no string"),
        ({"$ref": "#/$defs/Missing"}, "#/\\$defs/Missing"),
    ],
)
def test_a_schema_without_typescript_form_says_why(schema: Any, message: str) -> None:
    parameters = {"type": "object", "properties": {"a": schema}}
    with pytest.raises(ValueError, match=message):
        declare_tools([{"type": "function", "function": {"name": "f", "parameters": parameters}}])
