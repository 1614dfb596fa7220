"""The query language: words, "quoted phrases" and -excluded ones, whichever engine answers.

A chunk between spaces is one term: `foo_bar.baz` is the phrase foo bar baz, as the index sees it.
"""

import re
from typing import NamedTuple

from k2tools.results import ToolError, shown

MAX_TERMS = 32
_CHUNK = re.compile(r'(-?)(?:"([^"]*)"?|(\S+))')
_WORD = re.compile(r"[^\W_]+")
_CJK = re.compile(r"([぀-ヿ㐀-䶿一-鿿豈-﫿가-힯])")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_HUMP = re.compile(r"[A-Z](?<=[a-z0-9].)[A-Za-z0-9]*+")  # capital first: six times faster
# Words that say nothing about the topic; kept only when a query has no other.
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by can do does for from has have how if in into is it its "
        "of on or that the their this to was were what when where which who why will with "
        "you your ",
    )
)


class Query(NamedTuple):
    """What must occur and what must not; each term is one or more words in a row."""

    terms: tuple[str, ...]
    excluded: tuple[str, ...] = ()


def parse(text: str) -> Query:
    """Read a query as the model wrote it: text -> Query."""
    wanted: dict[str, None] = {}
    excluded: dict[str, None] = {}
    for minus, phrase, chunk in _CHUNK.findall(text):
        words = " ".join(split_words(phrase or chunk))
        if words:
            (excluded if minus else wanted)[words] = None
    terms = [term for term in wanted if term not in STOP_WORDS] or list(wanted)
    if not terms:
        raise ToolError(
            f'the query {shown(text)} has no word to look for. Give words, "a phrase" or -word, '
            'with at least one that is wanted. Example: search(query="rate limit -deprecated")'
        )
    return Query(tuple(terms[:MAX_TERMS]), tuple(excluded)[:MAX_TERMS])


def split_words(text: str) -> list[str]:
    """Cut text into the words of the index: lower case, one word per CJK character."""
    return _WORD.findall(_CJK.sub(r" \1 ", text).lower())


def indexed_form(text: str) -> str:
    """Prepare text for the index: CJK characters apart, the parts of camelCase names added."""
    names = [_CAMEL.sub(" ", _whole(text, match)) for match in _HUMP.finditer(text)]
    if not text.isascii():
        text = _CJK.sub(r" \1 ", text)
    return f"{text}\n{' '.join(names)}" if names else text


def _whole(text: str, hump: re.Match[str]) -> str:
    """Widen a match to the name that it ends."""
    start = hump.start()
    while start and text[start - 1].isalnum():
        start -= 1
    return text[start : hump.end()]
