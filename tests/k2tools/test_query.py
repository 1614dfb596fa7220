"""The query language, and what the index makes of text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2tools.query import Query, indexed_form, parse
from k2tools.results import ToolError


def test_words_phrases_and_exclusions_are_told_apart() -> None:
    assert parse('rate "Token Bucket" -draft -"old api"') == Query(
        ("rate", "token bucket"), ("draft", "old api")
    )


def test_a_name_with_punctuation_is_a_phrase_of_its_parts() -> None:
    assert parse("os.path.join").terms == ("os path join",)


def test_words_that_say_nothing_are_dropped_unless_there_is_nothing_else() -> None:
    assert parse("what is the latency").terms == ("latency",)
    assert parse("to be or").terms == ("to", "be", "or")


def test_chinese_is_searched_character_by_character_in_a_row() -> None:
    assert parse("北京天气").terms == ("北 京 天 气",)
    assert indexed_form("去北京").split() == ["去", "北", "京"]


def test_the_parts_of_a_camel_case_name_are_indexed_too() -> None:
    assert indexed_form("x = parseHTTPHeader(y)").split("\n")[1] == "parse HTTP Header"
    assert indexed_form("plain words, CONSTANT, Title") == "plain words, CONSTANT, Title"


@pytest.mark.parametrize("text", ["", "   ", "-only", '""', "!?", "-"])
def test_a_query_without_a_wanted_word_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ToolError, match="Example: search"):
        parse(text)


@given(st.text(max_size=80))
def test_no_text_escapes_into_the_syntax_of_the_engine(text: str) -> None:
    try:
        query = parse(text)
    except ToolError:
        return
    for term in query.terms + query.excluded:
        assert term
        assert all(c.isalnum() or c == " " for c in term)
