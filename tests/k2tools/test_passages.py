"""Passages partition a document; near-duplicates and closeness, by hand."""

from hypothesis import given
from hypothesis import strategies as st

from k2tools.corpus import Passage
from k2tools.passages import FULL_CHARS, cut
from k2tools.ranking import Distinct, Scored, closeness, rerank


@given(st.lists(st.sampled_from(["", "# Head", "word " * 30, "x" * 900, "text"]), max_size=60))
def test_passages_are_all_the_lines_in_order(lines: list[str]) -> None:
    pieces = list(cut(lines))
    assert [line for piece in pieces for line in piece.lines] == lines
    assert [piece.line for piece in pieces] == [
        1 + sum(len(p.lines) for p in pieces[:at]) for at in range(len(pieces))
    ]
    for piece in pieces:
        assert sum(len(line) + 1 for line in piece.lines[:-1]) < FULL_CHARS


def test_a_heading_opens_a_passage_and_names_it() -> None:
    first, second = cut(["# One", "a" * 400, "## Two", "b"])
    assert (first.heading, first.line, second.heading, second.line) == ("One", 1, "Two", 3)


def test_closeness_rewards_all_terms_and_then_their_distance() -> None:
    terms = [["rate"], ["limit"]]
    together = closeness(["the", "rate", "limit", "is", "ten"], terms)
    apart = closeness(["the", "rate", "of", "change", "has", "a", "limit"], terms)
    half = closeness(["the", "rate", "of", "change"], terms)
    assert together == 2.0
    assert together > apart > half > 0
    assert closeness(["nothing"], terms) == 0.0


def test_equal_scores_are_ordered_by_id_and_line() -> None:
    scored = [
        Scored(Passage(id, line, ["same"]), 1.0) for id, line in (("b", 1), ("a", 9), ("a", 2))
    ]
    assert [(p.id, p.line) for p in rerank(scored, ("same",))] == [("a", 2), ("a", 9), ("b", 1)]


def test_a_near_duplicate_is_noted_on_the_first_and_dropped() -> None:
    text = [f"word{n} and word{n + 1}" for n in range(30)]
    copy = [*text[:-1], "another end"]
    distinct = Distinct()
    (kept, other) = distinct(
        [Passage("a", 1, text), Passage("b", 1, copy), Passage("c", 1, ["quite", "different"])]
    )
    assert kept.id == "a"
    assert kept.twins == ("b",)
    assert other.id == "c"
    assert distinct([Passage("d", 1, text)]) == []
