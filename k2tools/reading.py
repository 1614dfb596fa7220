"""The tools open and find: the numbered lines behind any id, and those that match.

An id is a document of the library, a web page (URL or w3), an earlier result (r17), or the numbered
link of a page (`docs:guide.html#4`).
"""

import re
from typing import Annotated

import anyio
from pydantic import Field

from k2tools.corpus import Window
from k2tools.library import Library, first_reading
from k2tools.pages import Reader
from k2tools.patterns import Patterns
from k2tools.results import Result, ToolError, cut_line, fitting, numbered, shown
from k2tools.schemas import call_text
from k2tools.texts import lines_of
from k2tools.toolbox import Context
from k2tools.web import Web
from k2tools.web import window as web_window

LINES = 60  # when the caller does not say
FIND_S = 10.0  # for one pattern over one document
_CITATION = re.compile(r"\[?(.+?):L(\d+)(?:-L(\d+))?\]?")
_LINK = re.compile(r"(.+)#(\d+)")


def reader(cx: Context) -> Reader:
    """Say on whose account pages are read."""
    return Reader(cx.session.principal, cx.session.log.folder.name)


async def open_(
    cx: Context,
    id: Annotated[str, Field(description="Doc id, URL or result ref.")],
    line: Annotated[int, Field(ge=1, description="First line.")] = 1,
    max_lines: Annotated[int, Field(ge=1, le=400)] = 60,
) -> Result:
    """Read lines of a document found by search, or of an earlier tool result by its ref (for
    example r17)."""
    id, window = await read(cx, id, line, max_lines)
    if line > max(window.total, 1):
        raise ToolError(f"{shown(id)} has {window.total} lines; line must be 1 to {window.total}")
    lines = numbered([cut_line(text, cx.settings.line_chars) for text in window.lines], line)
    lines = lines[: fitting(lines, cx.max_chars - 400 - len(id))]
    last = line + len(lines) - 1
    head = f"{id} {window.title}".rstrip() + f" · lines {line}-{last} of {window.total}"
    more = []
    if last < window.total:
        given: dict[str, object] = {"id": id, "line": last + 1}
        given |= {"max_lines": max_lines} if max_lines != LINES else {}
        more = [f"[more: {call_text('open', given)}]"]
    data = {"id": id, "line": line, "total": window.total, "lines": window.lines}
    return Result("\n".join([head, *lines, *more]), data)


async def find(
    cx: Context,
    id: Annotated[str, Field(description="Doc id, URL or result ref.")],
    pattern: Annotated[str, Field(description="Python regex, case-insensitive.")],
    max_hits: Annotated[int, Field(ge=1, le=50)] = 10,
) -> Result:
    """Find a regex inside one document or earlier result; returns matching lines with line
    numbers."""
    id, window = await read(cx, id, 1, 10**9)
    hits, count = await cx.services[Patterns].find(
        pattern, window.lines, max_hits=max_hits, limit_s=FIND_S
    )
    if not hits:
        return Result(f"no line of {id} ({window.total} lines) matches {shown(pattern)}", [])
    found = [f"{number}\t{line}" for number, line in hits]
    note = []
    if count > len(hits):
        note = [f"[{count - len(hits)} more after line {hits[-1][0]}; narrow the pattern]"]
    head = f"{id} · {count} of {window.total} lines match"
    return Result("\n".join([head, *found, *note]), [list(hit) for hit in hits])


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
        known = await anyio.to_thread.run_sync(library.index.by_url, id)
        id = known or id
    if found := await anyio.to_thread.run_sync(local, library, id, line, max_lines):
        return id, found
    if page := await cx.services[Web].read(reader(cx), id):
        return page[0], web_window(page[1], line, max_lines)
    if match := _LINK.fullmatch(id):
        target = await linked(cx, match[1], int(match[2][:9]))
        return await read(cx, target, line, max_lines)
    raise ToolError(await anyio.to_thread.run_sync(unknown, library, id))


def local(library: Library, id: str, line: int, max_lines: int) -> Window | None:
    """Read a document of the library as the disk holds it now."""
    if "://" in id or not id.isprintable():
        return None
    window = library.lines(id, line, max_lines)
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
