"""What a searchable collection of documents is, whichever engine stands behind it.

A document is numbered lines under an id; a passage is some consecutive lines of it. The built-in
engine is SQLite FTS5 (`index.py`); another one (OpenSearch, Qdrant, …) offers the same five verbs
and passes the same contract test.
"""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from k2tools.query import Query


class Document(NamedTuple):
    """A text with an id that never changes, and the little that is known about it."""

    id: str
    lines: list[str]
    title: str = ""
    date: str = ""  # YYYY-MM-DD, "" when the document states none
    url: str = ""
    folder: str = ""  # the source it comes from, which is brought up to date as a whole
    stamp: str = ""  # of the file it was made from; equal stamps need no second reading


class Passage(NamedTuple):
    """Consecutive lines of a document, as found by a search."""

    id: str
    line: int  # number of the first
    lines: list[str]
    title: str = ""
    date: str = ""
    url: str = ""
    twins: tuple[str, ...] = ()  # ids of other documents that say nearly the same


class Window(NamedTuple):
    """Lines that somebody asked for, and how many there are in all."""

    title: str
    lines: list[str]
    total: int


class Corpus(Protocol):
    """The five verbs; equal contents give equal answers in equal order."""

    def add(self, documents: Iterable[Document]) -> None:
        """Add documents; one with a known id replaces the old one."""

    def delete(self, ids: Iterable[str]) -> None:
        """Forget documents."""

    def search(
        self, query: Query, k: int, *, offset: int = 0, site: str = "", since: str = ""
    ) -> list[Passage]:
        """Rank passages: query, how many, how many to pass over -> passages, best first."""

    def get(self, id: str, line: int, max_lines: int) -> Window | None:
        """Read lines of a document: id, first line, how many -> Window, or None if unknown."""

    def version(self) -> str:
        """Name the contents: the same documents have the same version."""
