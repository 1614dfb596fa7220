"""Order passages by how well they cover the query, and drop those that say the same again.

All lexical: words, their order and their distance. Meaning is the business of `semantic.py`.
"""

from functools import lru_cache
from typing import NamedTuple

from k2tools.corpus import Passage
from k2tools.query import split_words

SHINGLE_WORDS = 4
TWIN_SHARE = 0.8  # of the shingles; measured against edited copies in the tests


class Scored(NamedTuple):
    """A passage with the score of the engine, larger is better."""

    passage: Passage
    score: float


@lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """Cut the commonest English endings; only for comparing words within the re-ranking."""
    for ending in ("ing", "ies", "ed", "es", "s"):
        if len(word) > len(ending) + 3 and word.endswith(ending):
            return word[: -len(ending)]
    return word


def closeness(words: list[str], terms: list[list[str]]) -> float:
    """Judge coverage and proximity: words of a passage, terms -> 0 (nothing) to 2 (side by side).

    Coverage is the share of the terms that occur; proximity the number of terms that occur over
    the length of the shortest stretch holding one of each.
    """
    places = occurrences(words, terms)
    found = len({which for _, which in places})
    if not found:
        return 0.0
    span = shortest_span(places, found)
    length = sum(len(term) for term in terms) * found / len(terms)
    return found / len(terms) + min(1.0, length / span) * (found / len(terms))


def occurrences(words: list[str], terms: list[list[str]]) -> list[tuple[int, int]]:
    """Find terms of one or more words in a row: words, terms -> (position, which term) in order."""
    beginning: dict[str, list[int]] = {}
    for which, term in enumerate(terms):
        beginning.setdefault(term[0], []).append(which)
    return [
        (at, which)
        for at, word in enumerate(words)
        if word in beginning
        for which in beginning[word]
        if words[at : at + len(terms[which])] == terms[which]
    ]


def shortest_span(places: list[tuple[int, int]], kinds: int) -> int:
    """Find the shortest stretch that holds every kind: sorted (position, kind) -> its length."""
    count: dict[int, int] = {}
    best, left = places[-1][0] - places[0][0] + 1, 0
    for at, kind in places:
        count[kind] = count.get(kind, 0) + 1
        while len(count) == kinds:
            start, first = places[left]
            best = min(best, at - start + 1)
            count[first] -= 1
            if not count[first]:
                del count[first]
            left += 1
    return best


def rerank(scored: list[Scored], terms: tuple[str, ...]) -> list[Passage]:
    """Order by engine score times closeness; ties by id and line."""
    wanted = [[stem(word) for word in term.split()] for term in terms]

    def key(item: Scored) -> tuple[float, str, int]:
        text = " ".join((item.passage.title, *item.passage.lines))
        words = [stem(word) for word in split_words(text)]
        worth = item.score * (1 + closeness(words, wanted))
        return -round(worth, 9), item.passage.id, item.passage.line

    return [item.passage for item in sorted(scored, key=key)]


Shingles = frozenset[tuple[str, ...]]


def shingles(passage: Passage) -> Shingles:
    """Take every run of words: passage -> the set that near-duplicates share."""
    words = split_words(" ".join(passage.lines))
    if len(words) < SHINGLE_WORDS:
        return frozenset([tuple(words)])
    return frozenset(zip(*(words[at:] for at in range(SHINGLE_WORDS)), strict=False))


class Distinct:
    """Lets each text through once; a near-duplicate is noted on the one it repeats."""

    def __init__(self) -> None:
        self._known: list[Shingles] = []

    def __call__(self, passages: list[Passage]) -> list[Passage]:
        """Drop near-duplicates of this and earlier lists: passages -> the distinct ones."""
        kept: dict[int, Passage] = {}
        for passage in passages:
            own = shingles(passage)
            twin = next((i for i, known in enumerate(self._known) if alike(own, known)), None)
            if twin is None:
                kept[len(self._known)] = passage
                self._known.append(own)
            elif twin in kept:
                kept[twin] = with_twin(kept[twin], passage.id)
        return list(kept.values())


def alike(a: Shingles, b: Shingles) -> bool:
    """Compare two shingle sets by their Jaccard index."""
    small, large = sorted((len(a), len(b)))
    if small < TWIN_SHARE * large:
        return False
    both = len(a & b)
    return both >= TWIN_SHARE * (len(a) + len(b) - both)


def with_twin(passage: Passage, id: str) -> Passage:
    """Note another document that says the same, once and not the passage's own."""
    if id == passage.id or id in passage.twins:
        return passage
    return passage._replace(twins=(*passage.twins, id))
