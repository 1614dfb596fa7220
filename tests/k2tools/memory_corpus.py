"""Another engine behind the same interface: everything in memory, scores by counting words."""

import hashlib
from collections.abc import Iterable
from urllib.parse import urlsplit

from k2tools.corpus import Document, Passage, Window
from k2tools.passages import cut
from k2tools.query import Query, split_words
from k2tools.ranking import Distinct, Scored, rerank
from k2tools.settings import Settings


class MemoryCorpus:
    def __init__(self, _: Settings | None = None) -> None:
        self.documents: dict[str, Document] = {}

    def add(self, documents: Iterable[Document]) -> None:
        self.documents |= {document.id: document for document in documents}

    def delete(self, ids: Iterable[str]) -> None:
        for id in list(ids):
            self.documents.pop(id, None)

    def search(
        self, query: Query, k: int, *, offset: int = 0, site: str = "", since: str = ""
    ) -> list[Passage]:
        scored = [
            Scored(Passage(d.id, piece.line, piece.lines, d.title, d.date, d.url), score)
            for d in self.documents.values()
            if _passes(d, site, since)
            for piece in cut(d.lines)
            if (score := _score(query, f"{d.id} {d.title} " + " ".join(piece.lines)))
        ]
        return Distinct()(rerank(scored, query.terms))[offset : offset + k]

    def get(self, id: str, line: int, max_lines: int) -> Window | None:
        if id not in self.documents:
            return None
        title, lines = self.documents[id].title, self.documents[id].lines
        return Window(title, lines[line - 1 : line - 1 + max_lines], len(lines))

    def version(self) -> str:
        text = repr(sorted(self.documents.values()))
        return hashlib.sha256(text.encode()).hexdigest()

    def size(self) -> tuple[int, int]:
        full = [d for d in self.documents.values() if d.lines]
        return len(full), sum(1 for d in full for _ in cut(d.lines))

    def unknown(self, query: Query) -> list[str]:
        texts = [" ".join(d.lines) for d in self.documents.values()]
        return [t for t in query.terms if not any(_score(Query((t,)), text) for text in texts)]

    def by_url(self, url: str) -> str | None:
        return min((d.id for d in self.documents.values() if d.url == url), default=None)

    def like(self, name: str, limit: int) -> list[str]:
        return sorted(id for id, d in self.documents.items() if d.lines and id.endswith(name))[
            :limit
        ]

    def folders(self) -> list[str]:
        return sorted({d.folder for d in self.documents.values()})

    def stamps(self, folder: str) -> dict[str, str]:
        return {d.id: d.stamp for d in self.documents.values() if d.folder == folder}

    def stamp(self, id: str) -> str | None:
        return self.documents[id].stamp if id in self.documents else None

    def close(self) -> None:
        self.documents.clear()


def _passes(document: Document, site: str, since: str) -> bool:
    host = f".{urlsplit(document.url).hostname or ''}"
    return (not site or host.endswith("." + site)) and document.date >= since


def _score(query: Query, text: str) -> float:
    """Count the terms that occur; all of them together weigh more; 0 when an excluded one does."""
    words = f" {' '.join(split_words(text))} "
    found = [term for term in query.terms if f" {term} " in words]
    if any(f" {term} " in words for term in query.excluded):
        return 0.0
    return len(found) + 10.0 * (len(found) == len(query.terms))
