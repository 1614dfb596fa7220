"""What a searchable collection of documents is, whichever engine stands behind it.

A document is numbered lines under an id; a passage is some consecutive lines of it. The built-in
engine is SQLite FTS5 (`index.py`). Another one (OpenSearch, Qdrant, …) offers the same methods, is
named with `--corpus-engine MODULE:FACTORY`, and passes `tests/k2tools/test_corpus.py`.
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
    """Equal contents give equal answers in equal order, whatever was added first."""

    def add(self, documents: Iterable[Document]) -> None:
        """Add documents; one with a known id replaces the old one. All of them or none."""

    def delete(self, ids: Iterable[str]) -> None:
        """Forget documents; unknown ids are passed over."""

    def search(
        self, query: Query, k: int, *, offset: int = 0, site: str = "", since: str = ""
    ) -> list[Passage]:
        """Rank passages: query, how many, how many to pass over -> passages, best first."""

    def get(self, id: str, line: int, max_lines: int) -> Window | None:
        """Read lines of a document: id, first line, how many -> Window, or None if unknown."""

    def version(self) -> str:
        """Name the contents in at least 8 hexadecimal digits: same documents, same version."""

    def size(self) -> tuple[int, int]:
        """Count: -> documents with text, passages."""

    def unknown(self, query: Query) -> list[str]:
        """List the terms of a query that occur nowhere."""

    def by_url(self, url: str) -> str | None:
        """Find the document that was made from an address: URL -> id, or None."""

    def like(self, name: str, limit: int) -> list[str]:
        """Find ids that end with a name: name, how many -> ids in order."""

    def folders(self) -> list[str]:
        """List the folders that documents come from."""

    def stamps(self, folder: str) -> dict[str, str]:
        """Say from which state of its file each document of a folder was made: -> id, stamp."""

    def stamp(self, id: str) -> str | None:
        """The same for one document, or None if unknown."""

    def close(self) -> None:
        """Let go of files and connections."""
