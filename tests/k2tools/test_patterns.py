"""Searches by expression: the same hits as line by line, and no expression holds the server."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from k2tools.pattern_worker import grep
from k2tools.patterns import Patterns
from k2tools.results import ToolError
from k2tools.settings import Settings
from tests.k2tools.conftest import Connect, text

PIECES = ("a", "b", ".", "^", "$", r"\b", r"\B", r"\s", r"\w", "a*", "(a|b)", "[^a]", "b+", r"\n")
MORE = (r"\A", r"\Z", "(?=a)", "(?<!b)", "a++", r"(?i:A)", "|", r"\S+")


def request(root: Path, pattern: str, **changes: Any) -> dict[str, Any]:
    return {
        "root": str(root),
        "secret_globs": (),
        "pattern": pattern,
        "glob": "**/*",
        "context": 0,
        "max_hits": 200,
        "max_bytes": 10**6,
        "max_files": 100,
        "fallback": "cp1252",
        "limit_s": 10,
    } | changes


@given(
    st.lists(st.sampled_from(PIECES + MORE), min_size=1, max_size=4).map("".join),
    st.lists(st.text("ab A", max_size=4), max_size=5),
    st.sampled_from(["\n", "\r\n"]),
)
def test_the_whole_text_filter_never_changes_the_hits(
    tmp_path_factory: pytest.TempPathFactory, pattern: str, lines: list[str], ending: str
) -> None:
    try:
        compiled = re.compile(pattern)
    except re.error:
        assume(False)
    root = tmp_path_factory.mktemp("g")
    (root / "f").write_bytes("".join(line + ending for line in lines).encode())
    found = grep(request(root, pattern))
    expected = [f"f:{n}: {line}" for n, line in enumerate(lines, 1) if compiled.search(line)]
    assert found["lines"] == expected


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
def test_a_search_leaves_no_descriptor_open(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_text("x\n")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        grep(request(tmp_path, "x", max_hits=1))
    assert len(os.listdir("/proc/self/fd")) == before


def test_context_is_shown_once_and_groups_are_apart(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1\nx\n3\nx\n5\n6\n7\nx\n")
    found = grep(request(tmp_path, "x", context=1))
    assert found["lines"] == [
        *("a-1- 1", "a:2: x", "a-3- 3", "a:4: x", "a-5- 5"),
        *("--", "a-7- 7", "a:8: x"),
    ]


def test_hits_stop_at_their_limit_and_binaries_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x\n" * 10)
    (tmp_path / "b").write_bytes(b"x\0x\n")
    found = grep(request(tmp_path, "x", max_hits=3))
    assert (found["hits"], found["ended"]) == (3, "hits")
    whole = grep(request(tmp_path, "x"))
    assert (whole["hits"], whole["skipped"], whole["ended"]) == (10, 1, "")


@pytest.mark.anyio
async def test_a_hostile_expression_is_stopped_and_the_next_search_works() -> None:
    patterns = Patterns()
    try:
        with pytest.raises(ToolError, match="nested repeats"):
            await patterns.find("(a+)+$", ["a" * 40 + "b"], max_hits=1, limit_s=0.2)
        hits, total = await patterns.find("B", ["a", "b"], max_hits=5, limit_s=5)
        assert (hits, total) == ([(2, "b")], 1)
    finally:
        await patterns.close()


@pytest.mark.anyio
async def test_searches_run_side_by_side_and_few_workers_stay() -> None:
    patterns = Patterns()
    try:
        async with anyio.create_task_group() as group:
            for number in range(6):
                group.start_soon(one_find, patterns, number)
        assert len(patterns._idle) <= 2
    finally:
        await patterns.close()


async def one_find(patterns: Patterns, number: int) -> None:
    hits, _ = await patterns.find(f"^{number}$", list("0123456789"), max_hits=1, limit_s=20)
    assert hits == [(number + 1, str(number))]


@pytest.mark.anyio
@pytest.mark.parametrize("pattern", ["(", "[", "*a", "(?P<1>a)", "a{99999999999}"])
async def test_what_is_no_expression_is_said(connect: Connect, pattern: str) -> None:
    async with connect() as client:
        assert "no Python regular expression" in await text(client, "grep", pattern=pattern)


@pytest.mark.anyio
async def test_secrets_are_not_searched(connect: Connect, settings: Settings) -> None:
    (settings.workspace / ".env").write_text("password")
    (settings.workspace / "plain").write_text("password")
    async with connect(replace(settings)) as client:
        assert await text(client, "grep", pattern="password") == "plain:1: password\n[r1]"
