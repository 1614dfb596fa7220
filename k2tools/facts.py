"""The tool facts: a curated table the model may read and cannot write.

A row is `key`, `value`, `unit`, `as_of` and `source`: a JSON object on a line, or a row of the
table `facts` in SQLite. Every source `id:Lx-Ly` must exist in the library when the server starts,
or it does not start. A value that does not occur literally in its source lines is marked only:
27.36 T may stand there as 27,360 billion.
"""

import difflib
import json
import math
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from datetime import date
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote

import anyio
from mcp_types import ToolAnnotations
from pydantic import Field

from k2tools.corpus import Window
from k2tools.library import Library
from k2tools.query import split_words
from k2tools.ranking import stem
from k2tools.results import Result, ToolError, shown
from k2tools.toolbox import App, Context, Pack, tool

COLUMNS = ("key", "value", "unit", "as_of", "source")
READ = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_SOURCE = re.compile(r"\[?(?P<id>.+):L(?P<first>[1-9]\d{0,8})(?:-L(?P<last>[1-9]\d{0,8}))?\]?")
_DAY = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")
_FEW = 3  # nearest keys that are suggested


class Fact(NamedTuple):
    """One row, its source checked."""

    key: str
    value: str
    unit: str = ""
    as_of: str = ""
    source: str = ""  # id:Lx-Ly
    literal: bool = True  # the value occurs as it is in the source lines

    def __str__(self) -> str:
        value = f"{self.value} {self.unit}".rstrip()
        day = f" (as of {self.as_of})" if self.as_of else ""
        doubt = "" if self.literal else " · the source words the value differently"
        return f"{self.key} = {value}{day} [{self.source}]{doubt}"


class Facts:
    """The facts of a server, in the order of their keys."""

    def __init__(self, rows: list[Fact]) -> None:
        self.rows = {fact.key: fact for fact in sorted(rows)}
        self._words = {fact.key: words(f"{fact.key} {fact.unit}") for fact in rows}

    def matching(self, query: str) -> list[Fact]:
        """Rank facts by the words of the query in their keys: query -> facts, best first."""
        wanted = words(query)
        scores = {
            key: len(wanted & found) / (len(found) + 1) + len(wanted & found)
            for key, found in self._words.items()
        }
        best = sorted((k for k in scores if scores[k]), key=lambda k: (-scores[k], k))
        return [self.rows[key] for key in best]

    def nearest(self, key: str) -> list[str]:
        """Suggest keys for one that is not there."""
        close = difflib.get_close_matches(key, self.rows, _FEW, 0.5)
        return close or [fact.key for fact in self.matching(key)[:_FEW]]


def words(text: str) -> set[str]:
    return {stem(word) for word in split_words(text)}


async def facts(
    cx: Context,
    key: str = "",
    query: str = "",
    limit: Annotated[int, Field(ge=1, le=20)] = 5,
) -> Result:
    """Look up curated facts. Give an exact key, or a query to list matching keys. Each fact has a
    value, unit, date and source lines."""
    if Facts not in cx.services:
        raise ToolError("no facts are loaded here; use search, or ask the operator for --facts")
    known = cx.services[Facts]
    if bool(key) == bool(query):
        raise ToolError('give either key or query. Example: facts(query="population")')
    if key and key not in known.rows:
        near = ", ".join(known.nearest(key)) or "none is near"
        raise ToolError(f"no fact {shown(key)}; nearest keys: {near}. facts(query=…) lists more")
    found = [known.rows[key]] if key else known.matching(query)
    if not found:
        raise ToolError(
            f"no key among {len(known.rows)} holds a word of {shown(query)}; use search"
        )
    left = f"\n[{len(found) - limit} more; narrow the query]" if len(found) > limit else ""
    found = found[:limit]
    return Result("\n".join(map(str, found)) + left, [fact._asdict() for fact in found])


def load(path: Path, lines_at: Callable[[str, int, int], Window | None]) -> list[Fact]:
    """Read and check a table: path, reader of source lines -> facts, or ValueError for all."""
    facts: dict[str, Fact] = {}
    wrong: list[str] = []
    for place, row in _rows(path):
        try:
            fact = _checked(row, lines_at)
            if fact.key in facts:
                raise ValueError(f"the key {shown(fact.key)} is there twice")
            facts[fact.key] = fact
        except ValueError as error:
            wrong.append(f"{place}: {error}")
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"{path.name} is refused. {'; '.join(wrong[:5])}{more}")
    return list(facts.values())


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Read the rows of either format: path -> (where, row)."""
    with open(path, "rb") as handle:
        is_sqlite = handle.read(16) == b"SQLite format 3\0"
    if is_sqlite:
        yield from _sqlite_rows(path)
        return
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        yield "the file", ValueError(f"must be JSON lines in UTF-8 or SQLite: {error.reason}")
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except ValueError as error:
                yield f"line {number}", error


def _sqlite_rows(path: Path) -> Iterator[tuple[str, Any]]:
    address = f"file:{quote(str(path))}?mode=ro&immutable=1"
    with closing(sqlite3.connect(address, uri=True)) as connection:
        try:
            rows = connection.execute(f"SELECT {', '.join(COLUMNS)} FROM facts ORDER BY key")
            for number, row in enumerate(rows, 1):
                yield f"row {number}", dict(zip(COLUMNS, row, strict=True))
        except sqlite3.Error as error:
            yield "table facts", ValueError(f"needs the columns {', '.join(COLUMNS)}: {error}")


def _checked(row: Any, lines_at: Callable[[str, int, int], Window | None]) -> Fact:
    """Check a row and its source: row -> Fact, or ValueError."""
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, dict) or not row.keys() <= set(COLUMNS):
        raise ValueError(f"a row has {', '.join(COLUMNS)} and nothing else, got {shown(row)}")
    texts = {name: _text(name, row.get(name)) for name in COLUMNS}
    for name in ("key", "value", "source"):
        if not texts[name]:
            raise ValueError(f"{name} is missing")
    if texts["as_of"] and not is_date(texts["as_of"]):
        raise ValueError(f"as_of must be like 2024, 2024-12 or 2024-12-31, got {texts['as_of']}")
    source = _SOURCE.fullmatch(texts["source"])
    if not source:
        raise ValueError(f"source must be like docs:guide.md:L3-L5, got {shown(texts['source'])}")
    first, last = int(source["first"]), int(source["last"] or source["first"])
    window = lines_at(source["id"], first, last - first + 1) if last >= first else None
    if window is None or last > window.total:
        there = "no such document" if window is None else f"it has {window.total} lines"
        raise ValueError(f"the source {texts['source']} does not exist: {there}")
    texts["source"] = f"{source['id']}:L{first}-L{last}"
    return Fact(**texts, literal=_occurs(texts["value"], "\n".join(window.lines)))


def is_date(text: str) -> bool:
    """Say whether a text is a year, a month or a day."""
    with suppress(ValueError):
        return bool(_DAY.fullmatch(text) and date.fromisoformat(f"{text}-01-01"[:10]))
    return False


def _text(name: str, value: Any) -> str:
    """Read one cell: text, or a number as it is written."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{name} must be text or a number, got {shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    text = str(value).strip()
    if not text.isprintable():
        raise ValueError(f"{name} must be one printable line, got {shown(text)}")
    return text


def _occurs(value: str, text: str) -> bool:
    """Say whether a value stands in a text as a whole, thousands separators aside."""
    plain = re.sub(r"(?<=\d)[,  _](?=\d{3})", "", text)
    whole = rf"(?<![\w.]){re.escape(value)}(?!\w|\.\d)"
    return any(re.search(whole, each, re.IGNORECASE) for each in (text, plain))


@asynccontextmanager
async def start(app: App) -> AsyncIterator[None]:
    """Load the facts and read their sources before the first call is served."""
    if app.settings.facts:
        library = app.services[Library]
        path = Path(app.settings.facts)
        app.services.add(Facts(await anyio.to_thread.run_sync(load, path, library.lines)))
    yield


PACK = Pack(
    tools=(
        tool(
            facts, example={"query": "population 2024"}, annotations=READ, size_arguments=("limit",)
        ),
    ),
    start=start,
)
