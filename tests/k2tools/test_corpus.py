"""The contract of a corpus: the same tests for every engine, the built-in one and another."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from k2tools.corpus import Corpus, Document
from k2tools.index import Index
from k2tools.query import parse
from k2tools.settings import Settings
from tests.k2tools.conftest import Connect, text
from tests.k2tools.memory_corpus import MemoryCorpus

ENGINES: dict[str, Callable[[Path], Corpus]] = {
    "sqlite": lambda folder: Index(folder / "index.sqlite"),
    "memory": lambda _: MemoryCorpus(),
}


@pytest.fixture(params=ENGINES)
def corpus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Corpus]:
    made = ENGINES[request.param](tmp_path)
    yield made
    made.close()


def doc(id: str, text: str, **about: str) -> Document:
    return Document(id, text.split("\n"), **about)


def ids(corpus: Corpus, query: str, k: int = 10, **options: object) -> list[str]:
    return [p.id for p in corpus.search(parse(query), k, **options)]


def test_passages_with_all_words_come_before_those_with_some(corpus: Corpus) -> None:
    corpus.add([doc("some", "the copper coil"), doc("all", "a coil of old copper wire")])
    corpus.add([doc("none", "unrelated")])
    assert ids(corpus, "copper wire coil") == ["all", "some"]


def test_phrases_and_exclusions_hold(corpus: Corpus) -> None:
    corpus.add(
        [doc("a", "rate limit reached"), doc("b", "limit the rate"), doc("c", "rate limit v1")]
    )
    assert ids(corpus, '"rate limit" -v1') == ["a"]


def test_a_title_counts_and_so_does_the_path(corpus: Corpus) -> None:
    corpus.add([doc("guide/retry.md", "wait and try again", title="Backoff")])
    assert ids(corpus, "backoff") == ids(corpus, "retry") == ["guide/retry.md"]


def test_a_replaced_document_is_found_by_its_new_words_only(corpus: Corpus) -> None:
    corpus.add([doc("a", "alpha\n" * 500), doc("b", "beta")])
    before = corpus.version()
    corpus.add([doc("a", "gamma")])
    assert ids(corpus, "alpha") == []
    assert ids(corpus, "gamma") == ["a"]
    assert corpus.version() != before
    corpus.add([doc("a", "alpha\n" * 500)])
    assert corpus.version() == before


def test_a_deleted_document_is_gone(corpus: Corpus) -> None:
    empty = corpus.version()
    corpus.add([doc("a", "alpha")])
    corpus.delete(["a", "never there"])
    assert ids(corpus, "alpha") == []
    assert corpus.get("a", 1, 5) is None
    assert corpus.version() == empty


def test_lines_come_back_as_they_were_at_any_window(corpus: Corpus) -> None:
    lines = [f"line {n} {'x' * (n % 90)}" if n % 7 else "" for n in range(1, 400)]
    corpus.add([Document("a", lines, title="T")])
    for line, count in ((1, 1), (1, 999), (57, 60), (399, 5), (200, 1)):
        window = corpus.get("a", line, count)
        assert window is not None
        assert window.lines == lines[line - 1 : line - 1 + count]
        assert (window.title, window.total) == ("T", 399)


def test_site_takes_subdomains_and_since_leaves_out_the_undated(corpus: Corpus) -> None:
    corpus.add(
        [
            doc("a", "tea", url="https://docs.example.org/a", date="2025-03-01"),
            doc("b", "tea", url="https://example.org/b", date="2024-03-01"),
            doc("c", "tea", url="https://notexample.org/c"),
        ]
    )
    assert ids(corpus, "tea", site="example.org") == ["a"]  # b says the same
    assert ids(corpus, "tea", site="docs.example.org") == ["a"]
    assert ids(corpus, "tea", since="2025-01-01") == ["a"]
    assert ids(corpus, "tea", since="2026-01-01") == []


def test_pages_have_no_gap_and_no_repeat(corpus: Corpus) -> None:
    words = [f"unique{n} other{n} third{n} fourth{n} fifth{n}" for n in range(180)]
    corpus.add([doc(f"d{n:03}", f"shared {text}") for n, text in enumerate(words)])
    whole = ids(corpus, "shared", k=180)
    assert len(set(whole)) == 180
    paged = [id for at in range(0, 180, 7) for id in ids(corpus, "shared", k=7, offset=at)]
    assert paged == whole


def test_near_duplicates_are_one_hit(corpus: Corpus) -> None:
    text = "\n".join(f"sentence {n} about turbines" for n in range(20))
    corpus.add([doc("a", text), doc("copy", text), doc("other", "turbines elsewhere")])
    hits = corpus.search(parse("turbines sentence"), 10)
    assert [(p.id, p.twins) for p in hits] == [("a", ("copy",)), ("other", ())]


TEXTS = st.lists(st.sampled_from(["red", "green", "blue", "cyan"]), min_size=1, max_size=6)


@pytest.mark.parametrize("engine", ENGINES)
@hypothesis_settings(max_examples=15)
@given(st.lists(TEXTS, min_size=2, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_hits_does_not_depend_on_the_order_of_adding(
    engine: str, texts: list[list[str]], random: Random
) -> None:
    documents = [doc(f"d{n}", " ".join(words)) for n, words in enumerate(texts)]
    answers = []
    for _ in range(2):
        with TemporaryDirectory() as folder:
            corpus = ENGINES[engine](Path(folder))
            for document in documents:
                corpus.add([document])
            answers.append((corpus.version(), corpus.search(parse("red blue"), 20)))
            corpus.close()
        random.shuffle(documents)
    assert answers[0] == answers[1]


def test_what_the_library_asks_about_documents(corpus: Corpus) -> None:
    corpus.add([doc("a/x.md", "alpha", url="https://e.org/x", folder="", stamp="1")])
    corpus.add([doc("d:x.md", "beta", folder="d:", stamp="2"), Document("d:z.bin", [], stamp="3")])
    assert corpus.size() == (2, 2)
    assert corpus.unknown(parse("alpha gamma")) == ["gamma"]
    assert corpus.by_url("https://e.org/x") == "a/x.md"
    assert corpus.by_url("https://e.org/y") is None
    assert corpus.like("x.md", 5) == ["a/x.md", "d:x.md"]
    assert sorted(corpus.folders()) == ["", "d:"]
    assert corpus.stamps("d:") == {"d:x.md": "2"}
    assert (corpus.stamp("d:z.bin"), corpus.stamp("none")) == ("3", None)
    assert int(corpus.version()[:8], 16) >= 0


@pytest.mark.anyio
async def test_the_server_searches_with_the_engine_that_is_named(
    connect: Connect, settings: Settings
) -> None:
    (settings.workspace / "a.md").write_text("alpha beta")
    chosen = replace(settings, corpus_engine="tests.k2tools.memory_corpus:MemoryCorpus")
    async with connect(chosen) as client:
        assert "1. [a.md:L1-L1]" in await text(client, "search", query="alpha")
        assert "1\talpha beta" in await text(client, "open", id="a.md")
    assert not (settings.state / "index.sqlite").exists()
