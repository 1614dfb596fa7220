"""What the built-in engine adds to the contract: words in other forms, processes, formats."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from k2tools.index import Index
from tests.k2tools.test_corpus import doc, ids


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    made = Index(tmp_path / "index.sqlite")
    yield made
    made.close()


def test_endings_and_camel_case_and_accents_do_not_hide_a_word(index: Index) -> None:
    index.add([doc("a", "def parseHeaders(self):"), doc("b", "un café noir")])
    assert ids(index, "header") == ["a"]
    assert ids(index, "cafe") == ["b"]


def test_two_processes_may_hold_the_same_file(tmp_path: Path) -> None:
    one, two = Index(tmp_path / "i.sqlite"), Index(tmp_path / "i.sqlite")
    one.add([doc("a", "alpha")])
    assert ids(two, "alpha") == ["a"]
    two.add([doc("b", "alpha beta")])
    assert ids(one, "beta") == ["b"]
    one.close()
    two.close()


def test_an_index_of_another_format_is_made_anew(tmp_path: Path) -> None:
    index = Index(tmp_path / "i.sqlite")
    index.add([doc("a", "alpha")])
    index.close()
    with sqlite3.connect(tmp_path / "i.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    index = Index(tmp_path / "i.sqlite")
    assert index.size() == (0, 0)
    index.add([doc("a", "alpha")])
    assert ids(index, "alpha") == ["a"]
    index.close()
