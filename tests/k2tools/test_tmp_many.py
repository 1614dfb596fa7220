"""No call that its schema accepts ends in an internal error, whatever its strings hold."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import given, settings
from hypothesis import strategies as st

from k2tools.server import PACKS, lifespan, tools_of
from k2tools.settings import Settings

TOOLS = tools_of(PACKS)
NASTY = (
    *("a.txt", "sub/b.md", "../x", "/etc/passwd", ".", "", " ", "a\0b", "r1", "r99", "~", "con"),
    *(
        "**/*",
        "*",
        "[",
        "[!",
        "{a,b",
        "**/**/**",
        "a.txt:L1-L2",
        "x" * 300,
        "é\u202e",
        "\U0001f600",
    ),
    *("(", "(?P<n>a)(?P=n)", "\\", "(a+)+$", "$^", "a{,3}", "[[:alpha:]]", "\\p{L}", "(?i)A"),
    *('"unbalanced', "-", "-word", "NEAR(a b)", "a AND NOT", "col:val", "*", "'", '"" ""', "--"),
    *("2024-01-01", "2024-13-45", "example.org", "http://[::1", "https://x.invalid/é", "\ud7ff"),
    *("\r\n", "a\rb", "\n\n", "\ufeff", "1" * 30, "0x10", "NaN", "null", "{}"),
)


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Draw values that a schema accepts, the odd ones first."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of(map(values, schema["anyOf"]))
    kind = schema["type"]
    if kind == "string":
        return st.sampled_from(NASTY) | st.text(st.characters(codec="utf-8"), max_size=40)
    if kind == "integer":
        low, high = schema.get("minimum", -(2**53)), schema.get("maximum", 2**53)
        return st.integers(low, high) | st.sampled_from([low, high])
    if kind == "array":
        return st.lists(values(schema["items"]), min_size=schema.get("minItems", 0), max_size=3)
    if kind == "object":
        return objects(schema)
    return st.booleans() if kind == "boolean" else st.floats(-1e9, 1e9)


def objects(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    properties = {name: values(sub) for name, sub in schema.get("properties", {}).items()}
    required = set(schema.get("required", ()))
    return st.fixed_dictionaries(
        {name: value for name, value in properties.items() if name in required},
        optional={name: value for name, value in properties.items() if name not in required},
    )


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One server for the whole module: tool, arguments -> Outcome."""
    base = tmp_path_factory.mktemp("all")
    (base / "ws" / "sub").mkdir(parents=True)
    (base / "ws" / "a.txt").write_text("one\ntwo\nthree\n")
    (base / "ws" / "sub" / "b.md").write_text("# Title\n\ntext é\n")
    chosen = Settings(base / "ws", base / "state", grep_timeout_s=2, rate_burst_calls=10**6)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(lifespan(chosen, PACKS, TOOLS)) as state,
    ):
        session = state.sessions.get("local")
        yield lambda name, args: portal.call(
            functools.partial(state.dispatcher.call, session, name, args)
        )


EXAMPLES = {"python": 5, "grep": 15}  # these start processes


@pytest.mark.parametrize("name", TOOLS)
def test_no_valid_call_ends_in_an_internal_error(name: str, call: Any, tmp_path: Path) -> None:
    schema = TOOLS[name].schema

    @settings(max_examples=EXAMPLES.get(name, 60) * 25)
    @given(objects(schema))
    def holds(arguments: dict[str, Any]) -> None:
        assert jsonschema.Draft202012Validator(schema).is_valid(arguments)
        outcome = call(name, arguments)
        assert "failed inside the server" not in outcome.text
        assert outcome.status in ("ok", "error", "timeout")
        assert len(outcome.text) <= 32_000
        outcome.text.encode()  # can be sent

    holds()
