"""Globs: what they match, and that no pattern takes long."""

import time

import pytest

from k2tools.globs import matcher
from k2tools.results import ToolError


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("**/*", ["a", "a/b", "a/b/c"], []),
        ("*", ["a", ".a"], ["a/b"]),
        ("**/*.py", ["x.py", "a/x.py"], ["x.pyc", "py"]),
        ("a/**", ["a/b", "a/b/c"], ["b", "ab"]),
        ("a/**/z", ["a/z", "a/b/c/z"], ["az", "a/zz"]),
        ("*.{md,txt}", ["a.md", "a.txt"], ["a.py", "a.{md,txt}"]),
        ("{a,b}/{c,d}", ["a/c", "b/d"], ["a/b"]),
        ("[ab]?", ["ax", "bb"], ["cx", "a"]),
        ("./a", ["a"], ["b"]),
        ("a//b", ["a/b"], ["a"]),
        ("", [], ["a"]),
    ],
)
def test_globs_match(glob: str, yes: list[str], no: list[str]) -> None:
    matches = matcher(glob)
    assert [path for path in yes if not matches(path)] == []
    assert [path for path in no if matches(path)] == []


@pytest.mark.parametrize("glob", ["**/" * 500 + "x", "*a" * 200 + "b", "**/*a*/**/*a*/" * 50])
def test_no_glob_takes_long(glob: str) -> None:
    started = time.process_time()
    matcher(glob)("a" * 1_000 + "/aa" * 100)
    assert time.process_time() - started < 2


def test_braces_that_multiply_are_refused() -> None:
    with pytest.raises(ToolError, match="64 alternatives"):
        matcher("{a,b}" * 10)
