"""The tools search, open and find: ranked passages, numbered lines, and lines that match.

A citation is `[id:Lx-Ly]`, exactly as search prints it; open and find take the same ids.
"""

import pkgutil
import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Literal

import anyio
from mcp_types import ToolAnnotations
from pydantic import Field

from k2tools import index
from k2tools.corpus import Corpus, Passage, Window
from k2tools.documents import Extractor
from k2tools.library import Folder, Library, named
from k2tools.pages import Reader
from k2tools.patterns import Patterns
from k2tools.providers import Ask
from k2tools.query import Query, parse, split_words
from k2tools.ranking import stem
from k2tools.results import ToolError, cut_line, fitting, numbered, shown
from k2tools.schemas import call_text
from k2tools.settings import Settings
from k2tools.texts import lines_of
from k2tools.toolbox import App, Context, Pack, tool
from k2tools.web import Web, opened
from k2tools.web import window as web_window
from k2tools.workspace import Workspace

READ = ToolAnnotations(read_only_hint=True, open_world_hint=True)  # the web, where allowed
SNIPPET_CHARS = 420  # of a hit; five of them fit the default cap
SNIPPET_LINE_CHARS = 300
FIND_S = 10.0  # for one pattern over one document
FIRST_READING_S = 25.0  # that a search waits for the first indexing
_CURSOR = re.compile(r"(\d{1,4})-([0-9a-f]{8})")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_SITE = re.compile(r"[A-Za-z0-9.-]+")
_CITATION = re.compile(r"\[?(.+?):L(\d+)(?:-L(\d+))?\]?")
_LINK = re.compile(r"(.+)#(\d+)")


async def search(
    cx: Context,
    query: Annotated[str, Field(description='Words to look for; "quoted phrase" and -word work.')],
    source: Annotated[
        Literal["auto", "corpus", "web"],
        Field(description="auto: the corpus if one is loaded, else the web."),
    ] = "auto",
    k: Annotated[int, Field(ge=1, le=20, description="Hits to return.")] = 5,
    cursor: Annotated[str, Field(description="next_cursor of the previous call.")] = "",
    site: Annotated[
        str, Field(description="Only this host and its subdomains, e.g. arxiv.org.")
    ] = "",
    since: Annotated[str, Field(description="Only documents dated YYYY-MM-DD or later.")] = "",
) -> str:
    """Search the local corpus or the web. Returns ranked hits: doc id, title, date and a snippet
    with line numbers; read on with open(id). Refine the query instead of paging when hits are off
    topic."""
    query = query.encode("utf-8", "replace").decode()
    asked = parse(query)
    check_filters(site, since)
    library = cx.services[Library]
    if source == "web" or (source == "auto" and await prefers_web(cx)):
        return await cx.services[Web].search(reader(cx), Ask(query, k, 1, site, since), cursor)
    note = await current(library)
    version = library.index.version()
    offset = offset_of(cursor, version)
    hits = await anyio.to_thread.run_sync(
        partial(library.search, query, asked, offset, k + 1, site=site, since=since)
    )
    if not hits:
        return nothing(library, asked, query, offset, site or since) + note
    shown_hits = [hit(number, h, asked) for number, h in enumerate(hits[:k], offset + 1)]
    more = ""
    if len(hits) > k:
        arguments = {"query": query, "k": k, "site": site, "since": since}
        given = {name: value for name, value in arguments.items() if value not in ("", 5)}
        following = call_text("search", given | {"cursor": f"{offset + k}-{version[:8]}"})
        more = f"\n[more: {following}]"
    how = ", re-ranked by meaning" if library.reorder else ""
    return f"corpus{how}{note}\n" + "\n".join(shown_hits) + more


async def prefers_web(cx: Context) -> bool:
    """Say whether `auto` means the web: no document here, and a provider configured."""
    if not cx.services[Web].providers:
        return False
    await current(cx.services[Library])
    return not cx.services[Library].index.size()[0]


def reader(cx: Context) -> Reader:
    return Reader(cx.session.principal, cx.session.log.folder.name)


async def current(library: Library) -> str:
    """Bring the index up to date: -> a note when the first reading is not finished."""
    if not await first_reading(library):
        done, total = library.progress.done, library.progress.total
        return f" (still being read: {done} of {total} files; ask again later for all)"
    if library.progress.failure:
        raise ToolError(library.progress.failure)
    await anyio.to_thread.run_sync(library.refresh_workspace)
    return ""


async def first_reading(library: Library) -> bool:
    """Wait a while for the first indexing: -> whether it is finished."""
    with anyio.move_on_after(FIRST_READING_S):
        while not library.progress.finished.is_set():
            await anyio.sleep(0.02)
    return library.progress.finished.is_set()


def check_filters(site: str, since: str) -> None:
    if site and not _SITE.fullmatch(site):
        raise ToolError(f"site must be a host name like arxiv.org, got {shown(site)}")
    if since and not _DAY.fullmatch(since):
        raise ToolError(f"since must be a day like 2025-01-31, got {shown(since)}")


def offset_of(cursor: str, version: str) -> int:
    """Read a cursor: how many hits were shown, of which contents."""
    if not cursor:
        return 0
    match = _CURSOR.fullmatch(cursor)
    if not match:
        raise ToolError(
            f"cursor must be copied from the [more: …] line of a search, got {shown(cursor)}; "
            'leave it "" to start at the first hit'
        )
    if match[2] != version[:8]:
        raise ToolError(
            'the documents changed since that search; repeat it with cursor="" to page through '
            "what is there now"
        )
    return int(match[1])


def nothing(library: Library, asked: Query, query: str, offset: int, filtered: str) -> str:
    """Say what was searched in vain, and what to change."""
    if offset:
        return f"no hits after the first {offset} for {shown(query)}"
    documents, passages = library.index.size()
    text = f"no hits for {shown(query, 200)} in {documents} documents ({passages} passages)"
    if filtered:
        return text + " with this site and since; search again without them"
    if unknown := library.index.unknown(asked):
        text += f"; nowhere to be found: {', '.join(unknown)}"
    return text + "; use fewer or other words"


def hit(number: int, passage: Passage, query: Query) -> str:
    """Write a hit: citation, title, date, the lines around the query's words."""
    first, lines = snippet(passage, query)
    last = first + len(lines) - 1
    about = " ".join(filter(None, (passage.title, f"({passage.date})" if passage.date else "")))
    head = f"{number}. [{passage.id}:L{first}-L{last}] {about}".rstrip()
    if passage.twins:
        head += f" · nearly the same: {', '.join(passage.twins[:3])}"
    return "\n".join([head, *numbered(lines, first)])


def snippet(passage: Passage, query: Query) -> tuple[int, list[str]]:
    """Choose the lines of a passage that hold most of the query: -> first line number, lines."""
    wanted = {stem(word) for term in query.terms for word in term.split()}
    lines = [cut_line(line, SNIPPET_LINE_CHARS) for line in passage.lines]
    worth = [len(wanted & {stem(word) for word in split_words(line)}) for line in passage.lines]
    best = (0, 0, 0)  # worth, -start, end
    for start in range(len(lines)):
        end = start + fitting(lines[start:], SNIPPET_CHARS)
        best = max(best, (sum(worth[start:end]), -start, end))
    start, end = -best[1], best[2]
    telling = [at for at in range(start, end) if worth[at]] or [start]
    start, end = max(start, telling[0] - 1), min(end, telling[-1] + 2)  # a line around them
    while end - start > 1 and not lines[end - 1].strip():
        end -= 1
    while end - start > 1 and not lines[start].strip():
        start += 1
    return passage.line + start, lines[start:end]


async def open_(
    cx: Context,
    id: Annotated[str, Field(description="Doc id, URL or result ref.")],
    line: Annotated[int, Field(ge=1, description="First line.")] = 1,
    max_lines: Annotated[int, Field(ge=1, le=400)] = 60,
) -> str:
    """Read lines of a document found by search, or of an earlier tool result by its ref (for
    example r17)."""
    id, window = await read(cx, id, line, max_lines)
    if line > max(window.total, 1):
        raise ToolError(f"{shown(id)} has {window.total} lines; line must be 1 to {window.total}")
    lines = [cut_line(text, cx.settings.line_chars) for text in window.lines]
    lines = numbered(lines, line)
    lines = lines[: fitting(lines, cx.max_chars - 400 - len(id))]
    last = line + len(lines) - 1
    title = f" {window.title}" if window.title else ""
    head = f"{id}{title} · lines {line}-{last} of {window.total}"
    more = []
    if last < window.total:
        given = {"id": id, "line": last + 1} | ({} if max_lines == 60 else {"max_lines": max_lines})
        more = [f"[more: {call_text('open', given)}]"]
    return "\n".join([head, *lines, *more])


async def find(
    cx: Context,
    id: Annotated[str, Field(description="Doc id, URL or result ref.")],
    pattern: Annotated[str, Field(description="Python regex, case-insensitive.")],
    max_hits: Annotated[int, Field(ge=1, le=50)] = 10,
) -> str:
    """Find a regex inside one document or earlier result; returns matching lines with line
    numbers."""
    id, window = await read(cx, id, 1, 10**9)
    hits, count = await cx.services[Patterns].find(
        pattern, window.lines, max_hits=max_hits, limit_s=FIND_S
    )
    if not hits:
        return f"no line of {id} ({window.total} lines) matches {shown(pattern)}"
    found = [f"{number}\t{line}" for number, line in hits]
    note = []
    if count > len(hits):
        note = [f"[{count - len(hits)} more after line {hits[-1][0]}; narrow the pattern]"]
    return "\n".join([f"{id} · {count} of {window.total} lines match", *found, *note])


async def read(cx: Context, id: str, line: int, max_lines: int) -> tuple[str, Window]:
    """Read lines behind any id: an earlier result, a document, a numbered link, a web page.

    The id that comes back is the one to cite.
    """
    text = cx.session.result(id)
    if text is not None:
        lines = lines_of(text)
        return id, Window("", lines[line - 1 : line - 1 + max_lines], len(lines))
    library = cx.services[Library]
    if "://" in id:
        await first_reading(library)
        id = library.index.by_url(id) or id
    if found := await anyio.to_thread.run_sync(local, library, id, line, max_lines):
        return id, found
    if page := await cx.services[Web].read(reader(cx), id):
        return page[0], web_window(page[1], line, max_lines)
    if match := _LINK.fullmatch(id):
        target = await linked(cx, match[1], int(match[2][:9]))
        return await read(cx, target, line, max_lines)
    raise ToolError(unknown(library, id))


def local(library: Library, id: str, line: int, max_lines: int) -> Window | None:
    """Read a document of the library as the disk holds it now."""
    if "://" in id or not id.isprintable():
        return None
    library.refresh_file(id)
    window = library.index.get(id, line, max_lines)
    if window is not None and not window.total:
        raise ToolError(f"{id} cannot be shown: {library.why_empty(id)}")
    return window


async def linked(cx: Context, id: str, number: int) -> str:
    """Follow a numbered reference of a page: id, number -> the address or id it stands for."""
    id, window = await read(cx, id, 1, 10**9)
    mark = f"[{number}]: "
    for text in reversed(window.lines):
        if text.startswith(mark):
            return resolved(id, text.removeprefix(mark))
    raise ToolError(f"{id} has no link [{number}]; open its last lines to see the links")


def resolved(id: str, target: str) -> str:
    """Make a relative link of a local page an id: id of the page, target -> id or URL."""
    if "://" in target or "://" in id:
        return target
    prefix, _, path = id.rpartition(":")
    parts = path.split("/")[:-1]
    for part in target.partition("#")[0].split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return f"{prefix}:{'/'.join(parts)}" if prefix else "/".join(parts)


def unknown(library: Library, id: str) -> str:
    """Explain that there is no such document, with the nearest there are."""
    if match := _CITATION.fullmatch(id):
        return f"{shown(id)} is a citation; use {call_text('open', citation(match))}"
    name = id.rpartition("/")[2].rpartition(":")[2]
    near = library.index.like(name, 3) if name and name.isprintable() else []
    hint = f"did you mean {', '.join(near)}?" if near else "ids come from search and list_files."
    return f"no document {shown(id)}; {hint} Earlier results have refs like r17."


def citation(match: re.Match[str]) -> dict[str, object]:
    first = int(match[2][:9])
    length = int((match[3] or match[2])[:9]) - first + 1
    return {"id": match[1], "line": first, "max_lines": max(1, min(400, length))}


def engine(settings: Settings) -> Corpus:
    """Open the engine behind search: the built-in one, or the operator's MODULE:FACTORY."""
    if not settings.corpus_engine:
        return index.opened(settings.state / "index.sqlite")
    try:
        found: Corpus = pkgutil.resolve_name(settings.corpus_engine)(settings)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"--corpus-engine {settings.corpus_engine!r}: {error}") from None
    return found


@asynccontextmanager
async def start(app: App) -> AsyncIterator[None]:
    """Open the library and read what changed while the server already answers."""
    settings = app.settings
    folders = [Folder("", app.workspace)]
    for name, path in named(settings.corpora):
        files = Workspace(path, writable=False, secret_globs=settings.secret_globs)
        folders.append(Folder(f"{name}:", files))
    extractor = Extractor(settings.extract_timeout_s, settings.fallback_encoding)
    library = Library(engine(settings), folders, extractor)
    if settings.semantic:
        from k2tools.semantic import Encoder, model_folder  # NumPy is not needed otherwise

        library.reorder = Encoder(model_folder(settings.semantic)).reordered
    app.services.add(library)
    reading = threading.Thread(target=library.read_all, name="k2tools-indexing")
    reading.start()
    try:
        async with opened(settings) as web:
            app.services.add(web)
            yield
    finally:
        library.stop()
        reading.join()
        library.close()
        for folder in folders[1:]:
            folder.files.close()


open_.__name__ = "open"  # the tool's name; the module keeps the built-in
PACK = Pack(
    tools=(
        tool(
            search,
            example={"query": '"rate limit" retry', "k": 5},
            annotations=READ,
            size_arguments=("k",),
        ),
        tool(
            open_,
            example={"id": "docs/guide.md", "line": 1},
            annotations=READ,
            size_arguments=("max_lines",),
        ),
        tool(
            find,
            example={"id": "docs/guide.md", "pattern": "time(out| limit)"},
            annotations=READ,
            size_arguments=("max_hits",),
        ),
    ),
    start=start,
)
