"""The process that runs regular expressions, so that a hostile one can be killed.

Started by `patterns`, with the standard library alone. One JSON request per line on stdin, one
JSON answer per line on stdout. An alarm ends the process even inside an expression, so nothing
outlives a server that was killed.
"""

import json
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from k2tools.results import ToolError
from k2tools.texts import decoded, lines_of
from k2tools.workspace import Workspace, printable

MEMORY_BYTES = 2 * 2**30
LINE_CHARS = 400  # of a line that is shown
# Constructs that can match in a line alone and not in the whole text.
LINE_BOUND = re.compile(r"\(\?|\\[AZzGK]|[+*?}]\+")


def main() -> None:
    """Answer requests until stdin closes."""
    _limit_memory()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if hasattr(signal, "alarm"):
            signal.alarm(int(request["limit_s"]) + 2)
        try:
            answer: dict[str, Any] = {"ok": OPERATIONS[request["op"]](request)}
        except ToolError as error:
            answer = {"error": str(error)}
        except (re.error, RecursionError, OverflowError) as error:
            answer = {"error": f"pattern is no Python regular expression: {error}"}
        except OSError as error:
            answer = {"error": f"the workspace could not be searched: {error.strerror}"}
        except MemoryError:
            answer = {"error": "pattern needs too much memory; write a simpler one"}
        if hasattr(signal, "alarm"):
            signal.alarm(0)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _limit_memory() -> None:
    with suppress(ImportError, ValueError, OSError):  # Windows has no limits
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def find(request: dict[str, Any]) -> dict[str, Any]:
    """Find matching lines of a text: -> hits [(line number, line)], total."""
    pattern = re.compile(request["pattern"], re.IGNORECASE)
    found = ((n, line, pattern.search(line)) for n, line in enumerate(request["lines"], 1))
    hits = [(n, line, match.start()) for n, line, match in found if match]
    shown = [(n, around(line, at)) for n, line, at in hits[: request["max_hits"]]]
    return {"hits": shown, "total": len(hits)}


def around(line: str, at: int) -> str:
    """Cut a long line down to the surroundings of a match."""
    if len(line) <= LINE_CHARS:
        return line
    start = max(0, at - LINE_CHARS // 4)
    end = start + LINE_CHARS
    return ("…" if start else "") + line[start:end] + ("…" if end < len(line) else "")


def grep(request: dict[str, Any]) -> dict[str, Any]:
    """Search the files of a workspace: -> output lines, hits, files seen and skipped, its end."""
    secret_globs = tuple(request["secret_globs"])
    with closing(Workspace(Path(request["root"]), secret_globs=secret_globs)) as workspace:
        return _grep(workspace, request)


def _grep(workspace: Workspace, request: dict[str, Any]) -> dict[str, Any]:
    pattern = re.compile(request["pattern"])
    whole = None if LINE_BOUND.search(request["pattern"]) else re.compile(pattern.pattern, re.M)
    end_s = time.monotonic() + request["limit_s"]
    output: list[str] = []
    found: dict[str, Any] = {"lines": output, "hits": 0, "files": 0, "skipped": 0, "ended": ""}
    for entry in workspace.files(request["glob"], max_files=request["max_files"]):
        if time.monotonic() > end_s:
            return found | {"ended": "time"}
        found["files"] += 1
        lines = _lines(workspace, entry.path, request)
        if lines is None:
            found["skipped"] += 1
            continue
        if whole is not None and not whole.search("\n".join(lines)):
            continue
        numbers = [n for n, line in enumerate(lines) if pattern.search(line)]
        kept = numbers[: request["max_hits"] - found["hits"]]
        output += _shown(printable(entry.path), lines, kept, request["context"], bool(output))
        found["hits"] += len(kept)
        if len(kept) < len(numbers):
            return found | {"ended": "hits"}
    return found


def _lines(workspace: Workspace, path: str, request: dict[str, Any]) -> list[str] | None:
    """Read a file's lines; None for binary, too large or closed."""
    with suppress(ToolError):
        data = workspace.read(path, request["max_bytes"]).data
        return lines_of(decoded(data, fallback=request["fallback"], name=path).text)
    return None


def _shown(
    path: str, lines: list[str], numbers: list[int], context: int, separate: bool
) -> Iterator[str]:
    """Write hits as `path:line: text`, lines around them as `path-line- text`."""
    wanted = dict.fromkeys(numbers, ":")
    for n in numbers:
        for near in range(max(n - context, 0), min(n + context + 1, len(lines))):
            wanted.setdefault(near, "-")
    last = None if separate else -1
    for n in sorted(wanted):
        if context and last != n - 1 and last != -1:
            yield "--"
        line = lines[n]
        cut = "" if len(line) <= LINE_CHARS else f"… [+{len(line) - LINE_CHARS} characters]"
        yield f"{path}{wanted[n]}{n + 1}{wanted[n]} {line[:LINE_CHARS]}{cut}"
        last = n


OPERATIONS = {"find": find, "grep": grep}
