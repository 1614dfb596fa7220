"""The built-in corpus: SQLite FTS5, in one file beside the run logs.

The plan of a search: first the passages that hold all terms (AND), then those that hold some of
the rarest (OR); each block of 50 is ordered again by coverage and proximity, near-duplicates are
dropped. The order of equal scores is by id and line, so it does not depend on the order in which
files were added.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path

from k2tools.corpus import Document, Passage, Window
from k2tools.index_file import connect, insert, remove, require_format, transaction
from k2tools.query import Query
from k2tools.ranking import Distinct, Scored, rerank

BLOCK = 50  # passages that are ordered again together
MAX_BLOCKS = 20  # as far as a cursor reaches
RARE_TERMS = 12
OR_PASSAGES = 12_000  # that OR looks at: the rarest terms which together have no more

BEST = "SELECT rowid, rank FROM words WHERE words MATCH ? ORDER BY rank LIMIT ?"
COLUMNS = "p.key, d.id, p.line, p.text, d.title, d.date, d.url"
ROWS = f"""
SELECT {COLUMNS} FROM passages p JOIN documents d ON d.key = p.document WHERE p.key IN ({{places}})
"""
HIT = f"""
SELECT {COLUMNS}, rank
FROM words JOIN passages p ON p.key = words.rowid JOIN documents d ON d.key = p.document
WHERE words MATCH ? {{filters}} ORDER BY rank, d.id, p.line LIMIT ? OFFSET ?
"""


class Index:
    """A corpus in one SQLite file; safe to use from several threads and processes."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._reader = connect(path)
        self._writer = connect(path)
        self._reading, self._writing = threading.Lock(), threading.Lock()
        try:
            with self._writing, transaction(self._writer):
                require_format(self._writer)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        with self._reading, self._writing:
            self._reader.close()
            self._writer.close()

    def add(self, documents: Iterable[Document]) -> None:
        """Add or replace documents in one transaction: all of them or none."""
        with self._writing, transaction(self._writer):
            for document in documents:
                remove(self._writer, document.id)
                insert(self._writer, document)

    def delete(self, ids: Iterable[str]) -> None:
        """Forget documents in one transaction."""
        with self._writing, transaction(self._writer):
            for id in ids:
                remove(self._writer, id)

    def like(self, name: str, limit: int) -> list[str]:
        """Find ids that end with a name: name, how many -> ids in order."""
        sql = "SELECT id FROM documents WHERE total AND substr(id, -?) = ? ORDER BY id LIMIT ?"
        return [id for (id,) in self._read(sql, (len(name), name, limit))]

    def by_url(self, url: str) -> str | None:
        """Find the document that was made from an address: URL -> id, or None."""
        found = self._read("SELECT id FROM documents WHERE url = ? ORDER BY id LIMIT 1", (url,))
        return str(found[0][0]) if found else None

    def unknown(self, query: Query) -> list[str]:
        """List the terms of a query that occur nowhere."""
        return [term for term in query.terms if not self._count(term)]

    def folders(self) -> list[str]:
        """List the folders that documents come from."""
        return [name for (name,) in self._read("SELECT DISTINCT folder FROM documents")]

    def stamps(self, folder: str) -> dict[str, str]:
        """Say from which state of its file each document of a folder was made: -> id, stamp."""
        return dict(self._read("SELECT id, stamp FROM documents WHERE folder = ?", (folder,)))

    def stamp(self, id: str) -> str | None:
        found = self._read("SELECT stamp FROM documents WHERE id = ?", (id,))
        return str(found[0][0]) if found else None

    def version(self) -> str:
        """Name the contents, whatever the order they came in."""
        return str(self._read("SELECT version FROM contents")[0][0])

    def size(self) -> tuple[int, int]:
        """Count: -> documents with text, passages."""
        sql = "SELECT (SELECT count(*) FROM documents WHERE total), (SELECT count(*) FROM passages)"
        documents, passages = self._read(sql, ())[0]
        return documents, passages

    def get(self, id: str, line: int, max_lines: int) -> Window | None:
        """Read lines of a document: id, first line, how many -> Window, or None if unknown."""
        found = self._read("SELECT key, title, total FROM documents WHERE id = ?", (id,))
        if not found:
            return None
        key, title, total = found[0]
        rows = self._read(
            "SELECT line, text FROM passages WHERE document = ?1 AND line < ?3 AND line >= "
            "(SELECT max(line) FROM passages WHERE document = ?1 AND line <= ?2) ORDER BY line",
            (key, line, line + max_lines),
        )
        lines = [text for _, passage in rows for text in passage.split("\n")]
        skipped = line - rows[0][0] if rows else 0
        return Window(title, lines[skipped : skipped + max_lines], total)

    def search(
        self, query: Query, k: int, *, offset: int = 0, site: str = "", since: str = ""
    ) -> list[Passage]:
        """Rank passages: query, how many, how many to pass over -> passages, best first."""
        return list(islice(self._ranked(query, site.lower(), since), offset, offset + k))

    def _ranked(self, query: Query, site: str, since: str) -> Iterator[Passage]:
        distinct, seen = Distinct(), set[int]()
        for match in self._plan(query):
            for block in range(MAX_BLOCKS):
                rows = self._block(match, block, site, since)
                fresh = [row for row in rows if row[0] not in seen]
                seen.update(row[0] for row in fresh)
                yield from distinct(rerank([_scored(row) for row in fresh], query.terms))
                if len(rows) < BLOCK:
                    break

    def _plan(self, query: Query) -> Iterator[str]:
        """Write the two FTS5 expressions: all terms, then any of the rarest."""
        excluded = "".join(f" NOT {quoted(term)}" for term in query.excluded)
        yield f"({' AND '.join(map(quoted, query.terms))}){excluded}"
        if len(query.terms) > 1 and (rare := self._rarest(query.terms)):
            yield f"({' OR '.join(map(quoted, rare))}){excluded}"

    def _rarest(self, terms: Sequence[str]) -> list[str]:
        """Choose the terms that OR can afford: at least the rarest one that occurs."""
        counts = {term: self._count(term) for term in terms}
        by_rarity = sorted((term for term in terms if counts[term]), key=lambda t: (counts[t], t))
        sums = accumulate(counts[term] for term in by_rarity)
        affordable = sum(total <= OR_PASSAGES for total in sums)
        return by_rarity[: min(RARE_TERMS, max(1, affordable))]

    def _count(self, term: str) -> int:
        sql = f"SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT {OR_PASSAGES})"
        return int(self._read(sql, (quoted(term),))[0][0])

    def _block(self, match: str, block: int, site: str, since: str) -> list[tuple]:
        """Fetch the next 50 rows by score, equal scores by id and line.

        Only rows that are shown need their id, unless scores are equal where a block ends.
        """
        if not (site or since):
            first, end = block * BLOCK, (block + 1) * BLOCK
            best = self._read(BEST, (match, end + 1))
            edges = [at for at in (first, end) if 0 < at < len(best)]
            if all(best[at - 1][1] != best[at][1] for at in edges):
                return self._rows(best[first:end])
        filters, values = _filters(site, since)
        return self._read(HIT.format(filters=filters), (match, *values, BLOCK, block * BLOCK))

    def _rows(self, best: list[tuple]) -> list[tuple]:
        """Complete (key, score) pairs to rows."""
        places = ", ".join("?" * len(best))
        rows = self._read(ROWS.format(places=places), [key for key, _ in best])
        scores = dict(best)
        return [(*row, scores[row[0]]) for row in rows]

    def _read(self, sql: str, values: Sequence[object] = ()) -> list[tuple]:
        with self._reading:
            return self._reader.execute(sql, values).fetchall()


def opened(path: Path) -> Index:
    """Open an index; a damaged one is begun anew, since its sources are still there."""
    try:
        return Index(path)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return Index(path)


def quoted(term: str) -> str:
    """Write a term as an FTS5 string; it holds letters, digits and spaces only."""
    return f'"{term}"'


def _filters(site: str, since: str) -> tuple[str, list[str]]:
    sql, values = "", []
    if site:
        sql += "AND (d.host = ? OR substr(d.host, -?) = ?)"
        values += [site, str(len(site) + 1), "." + site]
    if since:
        sql += " AND d.date >= ?"
        values.append(since)
    return sql, values


def _scored(row: tuple) -> Scored:
    _, id, line, text, title, date, url, rank = row
    return Scored(Passage(id, line, text.split("\n"), title, date, url), -rank)
