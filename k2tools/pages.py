"""Web pages as documents: fetched once, cached in SQLite, cited by short ids that never change.

An id `w3` belongs to a run and keeps the version of the page it was first read in; asking for the
URL again after an hour asks the server whether there is a newer one, which gets an id of its own.
"""

import hashlib
import json
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import anyio

from k2tools.documents import Extractor
from k2tools.fetch import Fetcher, Response, checked_url
from k2tools.results import ToolError, shown

SCHEMA = """
CREATE TABLE IF NOT EXISTS pages(
  principal TEXT, url TEXT, etag TEXT, modified TEXT, fetched_s REAL, version TEXT,
  PRIMARY KEY(principal, url)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS versions(
  version TEXT PRIMARY KEY, url TEXT, title TEXT, date TEXT, body BLOB, used_s REAL);
CREATE TABLE IF NOT EXISTS ids(
  run TEXT, number INTEGER, url TEXT, version TEXT, PRIMARY KEY(run, number)) WITHOUT ROWID;
"""
KINDS = {
    "text/html": "html",
    "application/xhtml+xml": "html",
    "application/pdf": "pdf",
    "application/json": "json",
    "application/xml": "text",
}


class Page(NamedTuple):
    """A version of a page."""

    url: str  # after redirects
    title: str
    date: str
    lines: list[str]
    version: str


class Reader(NamedTuple):
    """On whose account pages are read: their cache is shared by the runs of one principal."""

    principal: str
    run: str


class Pages:
    """The cache of pages and the ids under which a run knows them."""

    def __init__(
        self,
        path: Path,
        fetcher: Fetcher | None,
        extractor: Extractor,
        *,
        fresh_s: float,
        max_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")  # a lost page is fetched again
            self._db.executescript(SCHEMA)
        except BaseException:
            self._db.close()
            raise
        self._lock = threading.Lock()
        self._fetcher, self._extractor = fetcher, extractor
        self._fresh_s, self._max_bytes, self._clock = fresh_s, max_bytes, clock

    def close(self) -> None:
        with self._lock:
            self._db.close()

    async def by_url(self, reader: Reader, url: str) -> tuple[str, Page]:
        """Read a page, from the cache while it is fresh: URL -> its id, Page."""
        url = checked_url(url)
        page = await self._current(reader.principal, url)
        return self.number(reader, url, page.version), page

    async def by_id(self, reader: Reader, id: str) -> Page | None:
        """Read the version of a page that an id stands for: -> Page, or None when unknown."""
        rows = self._all(
            "SELECT url, version FROM ids WHERE run = ? AND number = ?", reader.run, id[1:]
        )
        if not rows:
            return None
        url, version = rows[0]
        kept = await anyio.to_thread.run_sync(self._version, version)
        if kept is not None:
            return kept
        page = await self._current(reader.principal, url)
        if version not in ("", page.version):
            raise ToolError(
                f"the version of {url} that {shown(id)} stands for is no longer kept, and the page "
                "has changed; open it by its URL"
            )
        self._all(
            "UPDATE ids SET version = ? WHERE run = ? AND number = ?",
            page.version,
            reader.run,
            id[1:],
        )
        return page

    def number(self, reader: Reader, url: str, version: str = "") -> str:
        """Give a URL in a version its id in a run: the known one, or the next."""
        with self._using() as db:
            row = db.execute(
                "SELECT number FROM ids WHERE run = ? AND url = ? AND version IN (?, '') "
                "ORDER BY version DESC, number LIMIT 1",
                (reader.run, url, version),
            ).fetchone()
            if row is None:
                row = db.execute(
                    "INSERT INTO ids SELECT ?1, 1 + coalesce(max(number), 0), ?2, ?3 "
                    "FROM ids WHERE run = ?1 RETURNING number",
                    (reader.run, url, version),
                ).fetchone()
            elif version:
                db.execute(
                    "UPDATE ids SET version = ? WHERE run = ? AND number = ?",
                    (version, reader.run, row[0]),
                )
        return f"w{row[0]}"

    async def _current(self, principal: str, url: str) -> Page:
        """Read a page as it is now, by the cache's rules."""
        rows = self._all(
            "SELECT etag, modified, fetched_s, version FROM pages WHERE principal = ? AND url = ?",
            principal,
            url,
        )
        etag, modified, fetched_s, version = rows[0] if rows else ("", "", 0.0, "")
        kept = await anyio.to_thread.run_sync(self._version, version)
        if kept is not None and 0 <= self._clock() - fetched_s < self._fresh_s:
            return kept
        if self._fetcher is None:
            raise ToolError("pages are not fetched here; the operator allows it with --fetch")
        conditions = {"If-None-Match": etag, "If-Modified-Since": modified} if kept else {}
        given = {name: value for name, value in conditions.items() if value}
        response = await self._fetcher.get(url, given)
        if response.status == 304 and kept is not None:
            page = kept
        else:
            page = await anyio.to_thread.run_sync(self._extracted, response)
        await anyio.to_thread.run_sync(self._keep, principal, url, response, page)
        return page

    def _extracted(self, response: Response) -> Page:
        if response.status != 200:
            raise ToolError(
                f"{response.url} answers {response.status}; search again or open another result"
            )
        kind, charset = kind_of(response)
        body = broken_into_lines(response.body) if kind == "json" else response.body
        kind = "text" if kind == "json" else kind
        found = self._extractor(kind, body, url=response.url, charset=charset)
        if not any(found.lines):
            raise ToolError(f"{response.url} holds no text (it may need a browser's scripts)")
        text = "\n".join((response.url, found.title, *found.lines))
        version = hashlib.sha256(text.encode()).hexdigest()
        return Page(response.url, found.title, found.date, found.lines, version)

    def _version(self, version: str) -> Page | None:
        rows = self._all(
            "UPDATE versions SET used_s = ? WHERE version = ? RETURNING url, title, date, body",
            self._clock(),
            version,
        )
        if not rows:
            return None
        url, title, date, body = rows[0]
        return Page(url, title, date, zlib.decompress(body).decode().split("\n"), version)

    def _keep(self, principal: str, url: str, response: Response, page: Page) -> None:
        headers = response.headers
        self._all(
            "REPLACE INTO versions VALUES(?, ?, ?, ?, ?, ?)",
            page.version,
            page.url,
            page.title,
            page.date,
            zlib.compress("\n".join(page.lines).encode(), 6),
            self._clock(),
        )
        self._all(
            "REPLACE INTO pages VALUES(?, ?, ?, ?, ?, ?)",
            principal,
            url,
            headers.get("etag", ""),
            headers.get("last-modified", ""),
            self._clock(),
            page.version,
        )
        self._all(  # the least recently used go first
            "DELETE FROM versions WHERE version IN (SELECT version FROM (SELECT version, "
            "sum(length(body)) OVER (ORDER BY used_s DESC, version) AS upto FROM versions) "
            "WHERE upto > ?)",
            self._max_bytes,
        )

    def _all(self, sql: str, *values: object) -> list[tuple]:
        with self._using() as db:
            return db.execute(sql, values).fetchall()

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """Hold the database; a full disk is a sentence for the model."""
        try:
            with self._lock:
                yield self._db
        except sqlite3.Error as error:
            raise ToolError(f"the cache of web pages cannot be used ({error})") from None


def broken_into_lines(body: bytes) -> bytes:
    """Write JSON over many lines, since it is shown and cited by lines."""
    try:
        return json.dumps(json.loads(body), indent=1, ensure_ascii=False).encode("utf-8", "replace")
    except (ValueError, RecursionError):
        return body


def kind_of(response: Response) -> tuple[str, str]:
    """Tell how a response is read: -> "html", "pdf", "json" or "text"; charset."""
    stated = response.headers.get("content-type", "")
    media, _, parameters = stated.partition(";")
    media = media.strip().lower()
    charset = parameters.partition("charset=")[2].strip().strip("\"'").partition(";")[0]
    if not media:
        media = "application/pdf" if response.body.startswith(b"%PDF-") else "text/plain"
    if media.endswith(("+json", "+xml")) and media not in KINDS:
        return "json" if media.endswith("json") else "text", charset
    if media not in KINDS and not media.startswith("text/"):
        raise ToolError(f"{response.url} is {shown(media)}; text, HTML, JSON, XML and PDF are read")
    return KINDS.get(media, "text"), charset
