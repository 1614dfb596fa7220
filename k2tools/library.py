"""The local library: the files of the workspace and of every `--corpus PATH`, kept indexed.

An id is the path in the workspace, or `NAME:path` in the corpus folder NAME; a file given alone
belongs to its folder, of which nothing else is seen. Corpora are read when the server starts; the
workspace is walked again before each search, and only what changed is read.
"""

import os
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import anyio

from k2tools.corpus import Corpus, Document, Passage, Window
from k2tools.documents import VERSION, Extracted, Extractor, document, kind_of
from k2tools.query import Query
from k2tools.results import ToolError
from k2tools.workspace import Entry, Workspace, printable

if TYPE_CHECKING:
    from rich.progress import TaskID

BATCH_DOCUMENTS, BATCH_CHARS = 200, 4 * 2**20  # of one transaction
MAX_FILE_BYTES = 16 * 2**20  # of text; a larger file is data, and grep reads it
MAX_PDF_BYTES = 64 * 2**20
READERS = {"html": "readability", "pdf": "pypdf"}  # kind of file -> the module that reads it
MAX_FILES = 1_000_000  # of one folder
WALK_SHARE = 10  # walking the workspace takes at most one part in ten of the time

FIRST_READING_S = 25.0  # that a search waits for the first indexing
DEPTH = 20  # hits that are ordered again by meaning

Reorder = Callable[[str, list[Passage]], list[Passage]]
Report = Callable[[str, int, int], None]  # folder, files done, files in all


class Folder(NamedTuple):
    """A folder that is searched: the prefix of its ids and the door to its files."""

    prefix: str  # "" for the workspace, "NAME:" for a corpus
    files: Workspace


class Progress:
    """How far the first reading is; read by the tools, written by the indexing thread."""

    def __init__(self) -> None:
        self.done = self.total = 0
        self.failure = ""
        self.finished = threading.Event()

    def __call__(self, folder: str, done: int, total: int) -> None:
        self.done, self.total = done, total


class Library:
    """The index and the folders it is made from."""

    def __init__(self, index: Corpus, folders: list[Folder], extractor: Extractor) -> None:
        self.index, self.folders, self.progress = index, folders, Progress()
        self.reorder: Reorder | None = None  # by meaning, where the operator wants it
        self._extractor = extractor
        self._refreshing = threading.Lock()
        self._stopped = False
        self._rest_until_s = 0.0

    def search(
        self, query: str, asked: Query, offset: int, count: int, *, site: str, since: str
    ) -> list[Passage]:
        """Rank passages, the first of them also by meaning: query twice, which hits -> hits."""
        with updating():
            if self.reorder is None:
                return self.index.search(asked, count, offset=offset, site=site, since=since)
            hits = self.index.search(asked, max(DEPTH, offset + count), site=site, since=since)
        return (self.reorder(query, hits[:DEPTH]) + hits[DEPTH:])[offset : offset + count]

    def read_all(self) -> None:
        """Bring every folder up to date, and forget documents of folders no longer given."""
        try:
            with self._refreshing, watched(self.progress) as report, updating():
                self._forget_other_folders()
                for folder in self.folders:
                    if not self._stopped:
                        self._refresh(folder, report)
            if unread := self.unread():
                print(f"k2tools: not searched: {unread}; see k2tools doctor", file=sys.stderr)
        except ToolError as error:
            self.progress.failure = str(error)
        finally:
            self.progress.finished.set()

    def refresh_workspace(self) -> None:
        """Bring the workspace up to date, unless that was just done and takes long."""
        with self._refreshing, updating():
            started_s = time.monotonic()
            if started_s < self._rest_until_s:
                return
            self._refresh(self.folders[0], self.progress)
            ended_s = time.monotonic()
            if ended_s - started_s > 0.1:
                self._rest_until_s = ended_s + WALK_SHARE * (ended_s - started_s)

    def refresh_file(self, id: str) -> None:
        """Bring one file up to date: what `open` shows is what the disk holds."""
        folder, path = self.locate(id)
        with updating():  # without waiting for a reading of everything
            try:
                entry = entry_of(folder, path)
            except ToolError:
                return self.index.delete([id])
            if self.index.stamp(id) != stamp_of(entry):
                read = self._read(folder, entry)
                if not self._stopped:
                    self.index.add([read])

    def lines(self, id: str, line: int, max_lines: int) -> Window | None:
        """Read lines of a document as the disk holds it: id, first, how many -> Window or None."""
        self.refresh_file(id)
        return self.index.get(id, line, max_lines)

    def why_empty(self, id: str) -> str:
        """Say why a known document has no lines: id -> reason."""
        folder, path = self.locate(id)
        try:
            self._extracted(folder, entry_of(folder, path))
        except ToolError as error:
            return str(error)
        return "it is empty"

    def locate(self, id: str) -> tuple[Folder, str]:
        """Find the folder an id belongs to: id -> folder, path in it."""
        for folder in self.folders[1:]:
            if id.startswith(folder.prefix):
                return folder, id.removeprefix(folder.prefix)
        return self.folders[0], id

    def unread(self) -> str:
        """Count the files that nothing installed here reads: -> like "3 HTML, 1 PDF", or ""."""
        missing = [kind for kind, module in READERS.items() if not find_spec(module)]
        if not missing:
            return ""
        with updating():
            ids = (id for folder in self.folders for id in self.index.stamps(folder.prefix))
            kinds = Counter(map(kind_of, ids))
        return ", ".join(f"{kinds[kind]} {kind.upper()}" for kind in missing if kinds[kind])

    def stop(self) -> None:
        """Let a running refresh end at the file at hand, which stays unread."""
        self._stopped = True
        self._extractor.close()

    def close(self) -> None:
        self.stop()
        with self._refreshing:
            self.index.close()

    def _forget_other_folders(self) -> None:
        given = {folder.prefix for folder in self.folders}
        for folder in self.index.folders():
            if folder not in given:
                self.index.delete(self.index.stamps(folder))

    def _refresh(self, folder: Folder, report: Report) -> None:
        files = (e for e in folder.files.files(max_files=MAX_FILES) if printable(e.path) == e.path)
        entries = {folder.prefix + entry.path: entry for entry in files}
        known = self.index.stamps(folder.prefix)
        changed = [(id, e) for id, e in entries.items() if known.get(id) != stamp_of(e)]
        self.index.delete([id for id in known if id not in entries])
        batch: list[Document] = []
        for done, (_, entry) in enumerate(changed, 1):
            read = self._read(folder, entry)
            if self._stopped:
                break
            batch.append(read)
            if len(batch) == BATCH_DOCUMENTS or chars_of(batch) > BATCH_CHARS:
                self.index.add(batch)
                batch = []
            report(folder.prefix.removesuffix(":") or "workspace", done, len(changed))
        self.index.add(batch)

    def _read(self, folder: Folder, entry: Entry) -> Document:
        """Read a file; one that cannot be read becomes a document without lines."""
        try:
            found = self._extracted(folder, entry)
        except ToolError:
            found = Extracted([])  # open says why
        return document(folder.prefix + entry.path, found, folder.prefix, stamp_of(entry))

    def _extracted(self, folder: Folder, entry: Entry) -> Extracted:
        kind = kind_of(entry.path)
        cap = MAX_PDF_BYTES if kind == "pdf" else MAX_FILE_BYTES
        if entry.size > cap:
            raise ToolError(f"it has {entry.size} bytes; up to {cap} are searched, use grep")
        with os.fdopen(folder.files.open(entry.path), "rb") as handle:
            return self._extractor(kind, handle.read(cap))


async def first_reading(library: Library) -> bool:
    """Wait a while for the first indexing: -> whether it is finished."""
    with anyio.move_on_after(FIRST_READING_S):
        while not library.progress.finished.is_set():
            await anyio.sleep(0.02)
    return library.progress.finished.is_set()


@contextmanager
def updating() -> Iterator[None]:
    """Turn a full disk or a damaged index into a sentence for the model."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error  # no path of the host
        raise ToolError(
            f"the index of the documents cannot be used ({reason}); list_files, grep and "
            "read_file still work, and the operator can delete index.sqlite in the state folder"
        ) from None


@contextmanager
def watched(progress: Progress) -> Iterator[Report]:
    """Draw a bar on stderr while a person watches, and count for the tools in any case."""
    if not sys.stderr.isatty():
        yield progress
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def report(folder: str, done: int, total: int) -> None:
            progress(folder, done, total)
            if folder not in tasks:
                tasks[folder] = bar.add_task(f"indexing {folder}", total=total)
            bar.update(tasks[folder], completed=done)

        yield report


def entry_of(folder: Folder, path: str) -> Entry:
    """Look at one file: folder, path -> Entry, or ToolError."""
    fd = folder.files.open(path)
    try:
        status = os.fstat(fd)
    finally:
        os.close(fd)
    return Entry(folder.files.checked(path), status.st_size, status.st_mtime_ns)


def stamp_of(entry: Entry) -> str:
    """Describe the state of a file that was read: size, time of change, means of reading."""
    return f"{entry.size}:{entry.mtime_ns}:{means()}"


@cache
def means() -> str:
    """Name what files are read with, so that a new extra has them read again."""
    found = [name for name in READERS.values() if find_spec(name)]
    return "+".join([str(VERSION), *found])


def chars_of(batch: list[Document]) -> int:
    return sum(len(line) for doc in batch for line in doc.lines)


def named(corpora: tuple[str, ...]) -> Iterator[tuple[str, Path, frozenset[str]]]:
    """Give each folder a name of its own: folders and files -> (name, folder, its files or all)."""
    taken: set[str] = {"http", "https", "file"}
    for path, only in grouped(corpora).items():
        base = "".join(c if c.isalnum() or c in "-_." else "-" for c in path.name) or "corpus"
        name, number = base, 2
        while name in taken:
            name, number = f"{base}-{number}", number + 1
        taken.add(name)
        yield name, path, frozenset(only)


def grouped(corpora: tuple[str, ...]) -> dict[Path, set[str]]:
    """Put files with their folder: folders and files -> {folder: names, or none for all}."""
    paths = [Path(path) for path in corpora]
    whole = {path for path in paths if not path.is_file()}
    folders: dict[Path, set[str]] = {}
    for path in paths:
        names = folders.setdefault(path if path in whole else path.parent, set())
        if path not in whole and path.parent not in whole:
            names.add(path.name)
    return folders
