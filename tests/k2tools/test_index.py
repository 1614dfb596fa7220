"""The contract of a corpus, run against the built-in engine."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2tools.corpus import Corpus, Document
from k2tools.index import Index
from k2tools.query import parse


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    made = Index(tmp_path / "index.sqlite")
    yield made
    made.close()


def doc(id: str, text: str, **about: str) -> Document:
    return Document(id, text.split("\n"), **about)


def ids(corpus: Corpus, query: str, k: int = 10, **options: object) -> list[str]:
    return [p.id for p in corpus.search(parse(query), k, **options)]


def test_passages_with_all_words_come_before_those_with_some(index: Index) -> None:
    index.add([doc("some", "the copper coil"), doc("all", "a coil of old copper wire")])
    index.add([doc("none", "unrelated")])
    assert ids(index, "copper wire coil") == ["all", "some"]


def test_phrases_and_exclusions_hold(index: Index) -> None:
    index.add(
        [doc("a", "rate limit reached"), doc("b", "limit the rate"), doc("c", "rate limit v1")]
    )
    assert ids(index, '"rate limit" -v1') == ["a"]


def test_endings_and_camel_case_and_accents_do_not_hide_a_word(index: Index) -> None:
    index.add([doc("a", "def parseHeaders(self):"), doc("b", "un café noir")])
    assert ids(index, "header") == ["a"]
    assert ids(index, "cafe") == ["b"]


def test_a_title_counts_and_so_does_the_path(index: Index) -> None:
    index.add([doc("guide/retry.md", "wait and try again", title="Backoff")])
    assert ids(index, "backoff") == ids(index, "retry") == ["guide/retry.md"]


def test_a_replaced_document_is_found_by_its_new_words_only(index: Index) -> None:
    index.add([doc("a", "alpha\n" * 500), doc("b", "beta")])
    before = index.version()
    index.add([doc("a", "gamma")])
    assert ids(index, "alpha") == []
    assert ids(index, "gamma") == ["a"]
    assert index.version() != before
    index.add([doc("a", "alpha\n" * 500)])
    assert index.version() == before


def test_a_deleted_document_is_gone(index: Index) -> None:
    empty = index.version()
    index.add([doc("a", "alpha")])
    index.delete(["a", "never there"])
    assert ids(index, "alpha") == []
    assert index.get("a", 1, 5) is None
    assert index.version() == empty


def test_lines_come_back_as_they_were_at_any_window(index: Index) -> None:
    lines = [f"line {n} {'x' * (n % 90)}" if n % 7 else "" for n in range(1, 400)]
    index.add([Document("a", lines, title="T")])
    for line, count in ((1, 1), (1, 999), (57, 60), (399, 5), (200, 1)):
        window = index.get("a", line, count)
        assert window is not None
        assert window.lines == lines[line - 1 : line - 1 + count]
        assert (window.title, window.total) == ("T", 399)


def test_site_takes_subdomains_and_since_leaves_out_the_undated(index: Index) -> None:
    index.add(
        [
            doc("a", "tea", url="https://docs.example.org/a", date="2025-03-01"),
            doc("b", "tea", url="https://example.org/b", date="2024-03-01"),
            doc("c", "tea", url="https://notexample.org/c"),
        ]
    )
    assert ids(index, "tea", site="example.org") == ["a"]  # b says the same
    assert ids(index, "tea", site="docs.example.org") == ["a"]
    assert ids(index, "tea", since="2025-01-01") == ["a"]
    assert ids(index, "tea", since="2026-01-01") == []


def test_pages_have_no_gap_and_no_repeat(index: Index) -> None:
    words = [f"unique{n} other{n} third{n} fourth{n} fifth{n}" for n in range(180)]
    index.add([doc(f"d{n:03}", f"shared {text}") for n, text in enumerate(words)])
    whole = ids(index, "shared", k=180)
    assert len(set(whole)) == 180
    paged = [id for at in range(0, 180, 7) for id in ids(index, "shared", k=7, offset=at)]
    assert paged == whole


def test_near_duplicates_are_one_hit(index: Index) -> None:
    text = "\n".join(f"sentence {n} about turbines" for n in range(20))
    index.add([doc("a", text), doc("copy", text), doc("other", "turbines elsewhere")])
    hits = index.search(parse("turbines sentence"), 10)
    assert [(p.id, p.twins) for p in hits] == [("a", ("copy",)), ("other", ())]


TEXTS = st.lists(st.sampled_from(["red", "green", "blue", "cyan"]), min_size=1, max_size=6)


@settings(max_examples=15)
@given(st.lists(TEXTS, min_size=2, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_hits_does_not_depend_on_the_order_of_adding(
    texts: list[list[str]], random: Random
) -> None:
    documents = [doc(f"d{n}", " ".join(words)) for n, words in enumerate(texts)]
    answers = []
    for _ in range(2):
        with TemporaryDirectory() as folder:
            index = Index(Path(folder) / "i.sqlite")
            for document in documents:
                index.add([document])
            answers.append((index.version(), index.search(parse("red blue"), 20)))
            index.close()
        random.shuffle(documents)
    assert answers[0] == answers[1]


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
