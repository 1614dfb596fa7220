"""Cells as in a notebook: run the statements, show the value of a last expression."""

import ast
import builtins
import linecache
import os
import sys
import traceback
import types
from typing import Any

from . import figures, values

MAX_ERROR_CHARS = 20_000
MAX_FRAMES = 6
ASYNC = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
CO_COROUTINE = 0x80


class Cells:
    """The cells of one session and the module they share."""

    def __init__(self) -> None:
        main = types.ModuleType("__main__")
        main.__dict__.update(__builtins__=builtins, display=values.display)
        self._names, self._count = main.__dict__, 0
        self._loop: Any = None
        sys.modules["__main__"] = main
        sys.set_int_max_str_digits(0)  # the time limit is the guard here

    def run(self, code: str) -> dict[str, Any]:
        """Run one cell: source -> value shown and error, either may be empty."""
        self._count += 1
        name = f"<cell {self._count}>"
        lines = [line + "\n" for line in code.split("\n")]
        linecache.cache[name] = (len(code), None, lines, name)
        value = error = ""
        try:
            body, last = parsed(code, name)
            self._run(compile(body, name, "exec", ASYNC))
            if last is not None:
                value = self._shown(self._run(compile(last, name, "eval", ASYNC)))
        except SystemExit as end:
            error = "" if end.code in (None, 0) else f"SystemExit: {end.code}"
        except BaseException as failure:
            error = explained(failure)
        figures.save_open()
        return {"value": value, "error": error[-MAX_ERROR_CHARS:]}

    def _run(self, code: types.CodeType) -> Any:
        result = eval(code, self._names)
        return self._awaited(result) if code.co_flags & CO_COROUTINE else result

    def _awaited(self, coroutine: Any) -> Any:
        import asyncio  # 30 ms that most sessions never need

        self._loop = self._loop or asyncio.new_event_loop()
        return self._loop.run_until_complete(coroutine)

    def _shown(self, value: Any) -> str:
        if value is None:
            return ""
        self._names["_"] = value
        return values.shown(value)


def parsed(code: str, name: str) -> tuple[ast.Module, ast.Expression | None]:
    """Split a cell: source -> statements, and the last expression unless `;` ends it."""
    try:
        tree = ast.parse(code, name)
    except SyntaxError as error:
        if (error.text or "").lstrip().startswith(("!", "%")):
            error.msg += " (no ! or % commands here: use subprocess.run, or plain Python)"
        raise
    if not tree.body or not isinstance(last := tree.body[-1], ast.Expr):
        return tree, None
    if ends_in_semicolon(code, last):
        return tree, None
    return ast.Module(tree.body[:-1], []), ast.Expression(last.value)


def ends_in_semicolon(code: str, last: ast.Expr) -> bool:
    """Say whether a semicolon follows the last expression, as it does to keep it quiet."""
    lines = code.split("\n")[(last.end_lineno or 1) - 1 :]
    rest = lines[0].encode()[last.end_col_offset :].decode()
    return rest.lstrip().startswith(";")


def explained(error: BaseException) -> str:
    """Write a traceback of the session's own frames: error -> text."""
    report = traceback.TracebackException.from_exception(error, compact=True)
    own_frames_only(report)
    return "".join(report.format()).rstrip()


def own_frames_only(report: traceback.TracebackException | None) -> None:
    """Cut a report to frames of cells and of files in the workspace, with relative paths."""
    if report is None:
        return
    home = figures.WORKSPACE + os.sep
    frames = list(report.stack)
    own = [f for f in frames if f.filename.startswith(("<cell ", home)) and not library(f.filename)]
    for frame in own:
        frame.filename = frame.filename.removeprefix(home)
    if frames and own and frames[-1] is not own[-1]:
        own.append(
            traceback.FrameSummary(
                short(frames[-1].filename),
                frames[-1].lineno,
                frames[-1].name,
                lookup_line=False,
                line="",
            )
        )
    report.stack = traceback.StackSummary.from_list(own[-MAX_FRAMES:])
    for other in (report.__cause__, report.__context__, *(report.exceptions or ())):
        own_frames_only(other)


def library(path: str) -> bool:
    return "site-packages" in path or path.startswith(os.path.dirname(__file__))


def short(path: str) -> str:
    """Name a library file without the way to it."""
    parts = path.replace(os.sep, "/").rpartition("site-packages/")[2].split("/")
    return "/".join(parts[-3:])
