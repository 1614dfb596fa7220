"""The file tools. Bytes stay what they were unless the model asked for a change."""

import json
from typing import Annotated

import anyio
from mcp_types import ToolAnnotations
from pydantic import Field

from k2tools.edits import Edit, diff, edited
from k2tools.patterns import Patterns, serving
from k2tools.results import ToolError, fitting, page, shown
from k2tools.schemas import call_text
from k2tools.texts import decoded, lines_of
from k2tools.toolbox import Context, Pack, tool
from k2tools.workspace import RULE, printable, sha_of

READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
WRITES = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)
EDITS = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False)

AnyPath = Annotated[str, Field(description="Relative to the workspace.")]
IfSha = Annotated[
    str, Field(description="Refuse unless the file still has this sha (from read_file).")
]
Line = Annotated[int, Field(ge=1)]


async def read_file(
    cx: Context,
    path: AnyPath,
    line: Line = 1,
    max_lines: Annotated[int, Field(ge=1, le=1000)] = 200,
) -> str:
    """Read a text file of the workspace with line numbers."""
    return await anyio.to_thread.run_sync(_read, cx, path, line, max_lines)


def _read(cx: Context, path: str, line: int, max_lines: int) -> str:
    file = cx.workspace.read(path, cx.settings.max_read_bytes)
    text = decoded(file.data, fallback=cx.settings.fallback_encoding, name=path)
    lines = lines_of(text.text)
    if line > max(len(lines), 1):
        raise ToolError(f"{path} has {len(lines)} lines, so line={line} is past its end")
    header = f"{printable(path)} · {len(lines)} lines · sha {file.sha}{text.described()}"
    room = cx.max_chars - len(header) - 120  # for the call that goes on
    shown_lines, following = page(
        lines, line, max_lines, max_chars=room, line_chars=cx.settings.line_chars
    )
    more = []
    if following:
        arguments = {"path": path, "line": following}
        if max_lines != 200:
            arguments["max_lines"] = max_lines
        more = [f"[more: {call_text('read_file', arguments)}]"]
    return "\n".join([header, *shown_lines, *more])


async def write_file(cx: Context, path: str, text: str, if_sha: IfSha = "") -> str:
    """Create or replace a text file."""
    return await anyio.to_thread.run_sync(_write, cx, path, text, if_sha)


def _write(cx: Context, path: str, text: str, if_sha: str) -> str:
    data = text.encode()
    created = cx.workspace.write(path, data, if_sha=if_sha, max_bytes=cx.settings.max_write_bytes)
    verb = "created" if created else "replaced"
    return f"{printable(path)}: {verb}, {len(data)} bytes, sha {sha_of(data)}"


async def edit_file(
    cx: Context,
    path: AnyPath,
    edits: Annotated[
        list[Edit],
        Field(min_length=1, description="Applied in order, each to the result of the one before."),
    ],
    dry_run: Annotated[bool, Field(description="Return the diff, write nothing.")] = False,
    if_sha: IfSha = "",
) -> str:
    """Replace exact text in a file. Each `old` must occur exactly `count` times; all edits apply
    or none. Encoding, line endings and mode are kept. Returns a diff.
    """
    return await anyio.to_thread.run_sync(_edit, cx, path, edits, dry_run, if_sha)


def _edit(cx: Context, path: str, edits: list[Edit], dry_run: bool, if_sha: str) -> str:
    with cx.workspace.lock:
        file = cx.workspace.read(path, cx.settings.max_write_bytes)
        if if_sha:
            cx.workspace.require_sha(path, file.data, if_sha)
        before = decoded(file.data, fallback=cx.settings.fallback_encoding, name=path)
        if before.encoded(before.text) != file.data:  # an operator's fallback may not round-trip
            raise ToolError(f"{printable(path)} does not survive {before.encoding}; use python")
        after = edited(before.text, edits, printable(path))
        data = before.encoded(after)
        if not dry_run:
            cx.workspace.write(path, data, if_sha=file.sha, max_bytes=cx.settings.max_write_bytes)
    replaced = sum(edit.count for edit in edits)
    done = "would replace" if dry_run else "replaced"
    places = "1 place" if replaced == 1 else f"{replaced} places"
    summary = f"{printable(path)}: {done} {places}, sha {sha_of(data)}"
    return f"{summary}\n{diff(before.text, after, printable(path))}"


async def list_files(cx: Context, glob: str = "**/*", cursor: str = "") -> str:
    """List workspace files with sizes."""
    return await anyio.to_thread.run_sync(_list, cx, glob, cursor)


def _list(cx: Context, glob: str, cursor: str) -> str:
    walk = cx.workspace.files(glob, max_files=cx.settings.max_walked_files)
    entries = [entry for entry in walk if printable(entry.path) > cursor]
    if not entries:
        return "no more files" if cursor else _nothing(cx, glob)
    lines = [f"{printable(entry.path)}\t{entry.size}" for entry in entries]
    room = cx.max_chars - 150 - len(glob)
    kept = fitting(lines[: cx.settings.max_listed], room)
    if kept == len(lines):
        return "\n".join(lines)
    arguments = {"glob": glob, "cursor": printable(entries[kept - 1].path)}
    more = f"[{len(lines) - kept} more: {call_text('list_files', arguments)}]"
    return "\n".join([*lines[:kept], more])


def _nothing(cx: Context, glob: str) -> str:
    """Say that a glob matches no file, and which one does where a folder was meant."""

    def some(glob: str) -> bool:
        return any(True for _ in cx.workspace.files(glob, max_files=cx.settings.max_walked_files))

    if not some("**/*"):
        return f"no file matches {shown(glob)}: the workspace has none"
    folder = "/".join(part for part in glob.split("/") if part not in ("", "."))
    for wider in (f"{folder}/**".removeprefix("/"), f"**/{folder}"):
        if some(wider):
            return f"no file matches {shown(glob)}; {shown(wider)} does"
    return f"no file matches {shown(glob)}. {RULE}"


async def grep(
    cx: Context,
    pattern: Annotated[str, Field(description="Python regex.")],
    glob: str = "**/*",
    context: Annotated[int, Field(ge=0, le=5)] = 0,
    max_hits: Annotated[int, Field(ge=1, le=200)] = 40,
) -> str:
    """Search file contents by regex; returns path:line: text."""
    settings = cx.settings
    found = await cx.services[Patterns].search(
        "grep",
        limit_s=settings.grep_timeout_s,
        root=str(cx.workspace.path),
        secret_globs=settings.secret_globs,
        pattern=pattern,
        glob=glob,
        context=context,
        max_hits=max_hits,
        max_bytes=settings.max_read_bytes,
        max_files=settings.max_walked_files,
        fallback=settings.fallback_encoding,
    )
    lines: list[str] = found["lines"]
    if not found["files"] and not found["ended"]:
        return await anyio.to_thread.run_sync(_nothing, cx, glob)
    if not lines and not found["ended"]:
        lines.append(f"no line matches {json.dumps(pattern, ensure_ascii=False)} in {shown(glob)}")
    if found["skipped"]:
        lines.append(f"[not searched: {found['skipped']} files, binary, too large or closed]")
    if found["ended"] == "hits":
        wider = " or raise max_hits" if max_hits < 200 else ""
        lines.append(f"[stopped at {found['hits']} hits; narrow the pattern or the glob{wider}]")
    if found["ended"] == "time":
        lines.append(f"[partial: stopped after {settings.grep_timeout_s:.0f} s; narrow the glob]")
    return "\n".join(lines)


PACK = Pack(
    tools=(
        tool(
            read_file,
            example={"path": "notes/plan.md", "line": 1, "max_lines": 100},
            annotations=READS,
            size_arguments=("max_lines",),
        ),
        tool(write_file, example={"path": "notes/plan.md", "text": "# Plan\n"}, annotations=WRITES),
        tool(
            edit_file,
            example={"path": "notes/plan.md", "edits": [{"old": "draft", "new": "final"}]},
            annotations=EDITS,
        ),
        tool(list_files, example={"glob": "**/*.py"}, annotations=READS),
        tool(
            grep,
            example={"pattern": "def \\w+_test", "glob": "**/*.py"},
            annotations=READS,
            size_arguments=("max_hits",),
        ),
    ),
    start=serving,
)
