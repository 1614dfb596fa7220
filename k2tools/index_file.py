"""The file behind the built-in corpus: its tables, and how a document gets in and out.

Passages are stored as text and indexed contentless (a third of the size). The version of the
contents is the exclusive or of the documents' hashes, so it does not depend on their order.
"""

import hashlib
import sqlite3
from pathlib import Path
from urllib.parse import urlsplit

from k2tools.corpus import Document
from k2tools.passages import Piece, cut
from k2tools.query import indexed_form

FORMAT = 2  # of the file; another one is rebuilt from its sources
INDEXED_CHARS = 20_000  # of one passage: one line can be a whole minified program
SCHEMA = """
CREATE TABLE documents(
  key INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, title TEXT NOT NULL, date TEXT NOT NULL,
  url TEXT NOT NULL, host TEXT NOT NULL, total INTEGER NOT NULL, sha BLOB NOT NULL,
  folder TEXT NOT NULL, stamp TEXT NOT NULL);
CREATE INDEX folders ON documents(folder);
CREATE TABLE passages(
  key INTEGER PRIMARY KEY, document INTEGER NOT NULL, line INTEGER NOT NULL,
  head TEXT NOT NULL, text TEXT NOT NULL);
CREATE INDEX passage_lines ON passages(document, line);
CREATE TABLE contents(version TEXT NOT NULL);
INSERT INTO contents VALUES('0000000000000000');
CREATE VIRTUAL TABLE words USING fts5(
  head, text, content='', tokenize='porter unicode61 remove_diacritics 2');
INSERT INTO words(words, rank) VALUES('rank', 'bm25(2.0, 1.0)');
"""


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a lost index is rebuilt, never wrong
        connection.execute("PRAGMA mmap_size = 1073741824")
    except BaseException:
        connection.close()
        raise
    return connection


class transaction:
    """Begin at once, commit on success, roll back on any exception."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        self._connection.execute("ROLLBACK" if kind else "COMMIT")


def require_format(connection: sqlite3.Connection) -> None:
    """Create the tables, or again when they are of another format."""
    if connection.execute("PRAGMA user_version").fetchone()[0] == FORMAT:
        return
    for table in ("words", "passages", "documents", "contents"):
        connection.execute(f"DROP TABLE IF EXISTS {table}")
    for statement in SCHEMA.split(";\n"):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {FORMAT}")


def insert(connection: sqlite3.Connection, document: Document) -> None:
    sha = _sha(document)
    _toggle(connection, sha)
    key = connection.execute(
        "INSERT INTO documents(id, title, date, url, host, total, sha, folder, stamp) "
        "VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            document.id,
            document.title,
            document.date,
            document.url,
            (urlsplit(document.url).hostname or "") if document.url else "",
            len(document.lines),
            sha,
            document.folder,
            document.stamp,
        ),
    ).lastrowid
    for piece in cut(document.lines):
        head, text = _head(document, piece), "\n".join(piece.lines)
        passage = connection.execute(
            "INSERT INTO passages(document, line, head, text) VALUES(?, ?, ?, ?)",
            (key, piece.line, head, text),
        ).lastrowid
        connection.execute(
            "INSERT INTO words(rowid, head, text) VALUES(?, ?, ?)",
            (passage, *_indexed(head, text)),
        )


def remove(connection: sqlite3.Connection, id: str) -> None:
    found = connection.execute("SELECT key, sha FROM documents WHERE id = ?", (id,)).fetchone()
    if not found:
        return
    document, sha = found
    _toggle(connection, sha)
    sql = "SELECT key, head, text FROM passages WHERE document = ?"
    for key, head, text in connection.execute(sql, (document,)).fetchall():
        connection.execute(  # a contentless table must be told what it had indexed
            "INSERT INTO words(words, rowid, head, text) VALUES('delete', ?, ?, ?)",
            (key, *_indexed(head, text)),
        )
    connection.execute("DELETE FROM passages WHERE document = ?", (document,))
    connection.execute("DELETE FROM documents WHERE key = ?", (document,))


def _toggle(connection: sqlite3.Connection, sha: bytes) -> None:
    """Take a document into the version, or out again: the order does not matter."""
    (version,) = connection.execute("SELECT version FROM contents").fetchone()
    changed = int(version, 16) ^ int.from_bytes(sha[:8], "big")
    connection.execute("UPDATE contents SET version = ?", (f"{changed:016x}",))


def _head(document: Document, piece: Piece) -> str:
    return f"{document.id}\n{document.title}\n{piece.heading}"


def _indexed(head: str, text: str) -> tuple[str, str]:
    return indexed_form(head), indexed_form(text[:INDEXED_CHARS])


def _sha(document: Document) -> bytes:
    text = "\n".join((document.id, document.title, document.date, document.url, *document.lines))
    return hashlib.sha256(text.encode()).digest()
