"""The tool search: ranked passages of the library, or hits of the web.

A hit begins with its citation `[id:Lx-Ly]`; open and find (`reading.py`) take the same ids.
"""

import pkgutil
import re
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import date
from typing import Annotated, Literal, NamedTuple

import anyio
from mcp_types import ToolAnnotations
from pydantic import Field

from k2tools import index
from k2tools.beneath import walk
from k2tools.corpus import Corpus, Passage
from k2tools.documents import Extractor
from k2tools.library import Folder, Library, first_reading, named
from k2tools.providers import Ask
from k2tools.query import Query, parse, split_words
from k2tools.ranking import stem
from k2tools.reading import find, open_, reader
from k2tools.results import Result, ToolError, cut_line, fitting, numbered, shown
from k2tools.schemas import call_text
from k2tools.settings import Settings
from k2tools.toolbox import App, Context, Pack, tool
from k2tools.web import Web, opened
from k2tools.workspace import Workspace

READ = ToolAnnotations(read_only_hint=True, open_world_hint=True)  # the web, where allowed
K = 5  # hits, when the caller does not say
SNIPPET_CHARS = 420  # of a hit; five of them fit the default cap
SNIPPET_LINE_CHARS = 300
_CURSOR = re.compile(r"(\d{1,4})-([0-9a-f]{8})")
_SITE = re.compile(r"[A-Za-z0-9.-]+")


class Asked(NamedTuple):
    """A search of the library, its arguments checked."""

    text: str
    query: Query
    k: int
    cursor: str
    site: str
    since: str


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
) -> str | Result:
    """Search the local corpus or the web. Returns ranked hits: doc id, title, date and a snippet
    with line numbers; read on with open(id). Refine the query instead of paging when hits are off
    topic."""
    query = query.encode("utf-8", "replace").decode()
    asked = Asked(query, parse(query), k, cursor, site, since)
    check_filters(site, since)
    if source == "web" or (source == "auto" and await prefers_web(cx)):
        return await cx.services[Web].search(reader(cx), Ask(query, k, 1, site, since), cursor)
    library = cx.services[Library]
    note = await current(library)
    return await anyio.to_thread.run_sync(answer, library, asked, note)


async def prefers_web(cx: Context) -> bool:
    """Say whether `auto` means the web: no document here, and a provider configured."""
    if not cx.services[Web].providers:
        return False
    library = cx.services[Library]
    await current(library)
    documents, _ = await anyio.to_thread.run_sync(library.index.size)
    return not documents


async def current(library: Library) -> str:
    """Bring the index up to date: -> a note when the first reading is not finished."""
    if not await first_reading(library):
        done, total = library.progress.done, library.progress.total
        return f" (still being read: {done} of {total} files; ask again later for all)"
    if library.progress.failure:
        raise ToolError(library.progress.failure)
    await anyio.to_thread.run_sync(library.refresh_workspace)
    return ""


def answer(library: Library, asked: Asked, note: str) -> Result:
    """Search the library: what is asked, a note for the first line -> text and data."""
    version = library.index.version()
    offset = offset_of(asked.cursor, version)
    filters = {"site": asked.site, "since": asked.since}
    hits = library.search(asked.text, asked.query, offset, asked.k + 1, **filters)
    if not hits:
        return Result(nothing(library, asked, offset) + note, [])
    written = [hit(number, h, asked.query) for number, h in enumerate(hits[: asked.k], offset + 1)]
    if len(hits) > asked.k:
        given: dict[str, object] = {"query": asked.text}
        given |= {"k": asked.k} if asked.k != K else {}
        given |= {name: value for name, value in filters.items() if value}
        given["cursor"] = f"{offset + asked.k}-{version[:8]}"
        written.append(f"[more: {call_text('search', given)}]")
    how = ", re-ranked by meaning" if library.reorder else ""
    return Result(
        "\n".join([f"corpus{how}{note}", *written]), [h._asdict() for h in hits[: asked.k]]
    )


def check_filters(site: str, since: str) -> None:
    if site and not _SITE.fullmatch(site):
        raise ToolError(f"site must be a host name like arxiv.org, got {shown(site)}")
    if since and not is_day(since):
        raise ToolError(f"since must be a day like 2025-01-31, got {shown(since)}")


def is_day(text: str) -> bool:
    with suppress(ValueError):
        return date.fromisoformat(text).isoformat() == text  # 20250131 is one to Python too
    return False


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


def nothing(library: Library, asked: Asked, offset: int) -> str:
    """Say what was searched in vain, and what to change."""
    if offset:
        return f"no hits after the first {offset} for {shown(asked.text)}"
    documents, passages = library.index.size()
    unread = f"; not read here: {found}, open says why" if (found := library.unread()) else ""
    if not documents:
        return f"no hits: the workspace and the corpora hold no documents{unread}"
    text = f"no hits for {shown(asked.text, 200)} in {documents} documents ({passages} passages)"
    if asked.site or asked.since:
        filters = " and ".join(name for name in ("site", "since") if getattr(asked, name))
        return f"{text} with this {filters}; search again without{unread}"
    if unknown := library.index.unknown(asked.query):
        text += f"; nowhere to be found: {', '.join(cut_line(word, 60) for word in unknown)}"
    return text + "; use fewer or other words" + unread


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
    with ExitStack() as closing:
        for name, path, only in named(settings.corpora):
            files = Workspace(
                path,
                writable=False,
                secret_globs=settings.secret_globs,
                only=only,
                opener=walk if only else None,  # a link in a file's place would lead elsewhere
            )
            closing.callback(files.close)
            if secrets := sorted(filter(files.secret, only)):
                raise ValueError(f"--corpus {secrets[0]}: the name is on the list of secrets")
            folders.append(Folder(f"{name}:", files))
        extractor = Extractor(settings.extract_timeout_s, settings.fallback_encoding)
        library = Library(engine(settings), folders, extractor)
        closing.callback(library.close)
        if settings.semantic:
            from k2tools.semantic import Encoder, model_folder  # NumPy is not needed otherwise

            library.reorder = Encoder(model_folder(settings.semantic)).reordered
        app.services.add(library)
        reading = threading.Thread(target=library.read_all, name="k2tools-indexing")
        reading.start()
        closing.callback(reading.join)
        closing.callback(library.stop)
        async with opened(settings) as web:
            app.services.add(web)
            yield


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
