"""From bytes to a document: plain text here, HTML and PDF in a process that can be killed."""

import json
import math
import re
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from k2tools import extract
from k2tools.corpus import Document
from k2tools.results import ToolError
from k2tools.texts import decoded, lines_of

VERSION = 2  # of what is made of the same bytes; a new one has everything read again
KINDS = {".html": "html", ".htm": "html", ".xhtml": "html", ".pdf": "pdf"}
EXTRAS = {"html": "web", "pdf": "pdf"}
_FIELD = re.compile(r"(title|date|url):\s*[\"']?(.*?)[\"']?\s*$", re.IGNORECASE)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


class Extracted(NamedTuple):
    """What a document says: its lines and what it tells about itself."""

    lines: list[str]
    title: str = ""
    date: str = ""
    url: str = ""


def kind_of(name: str) -> str:
    """Tell by the name how a file is read: name -> "html", "pdf" or "text"."""
    return KINDS.get(Path(name).suffix.lower(), "text")


def plain(data: bytes, fallback: str) -> Extracted:
    """Read a text or Markdown file: bytes -> lines; title, date and URL from its front matter."""
    lines = lines_of(decoded(data, fallback=fallback, name="it").text)
    about = {"title": "", "date": "", "url": ""}
    if lines and lines[0].strip() == "---":
        for line in lines[1:30]:
            if line.strip() in ("---", "..."):
                break
            if match := _FIELD.match(line):
                about[match[1].lower()] = match[2]
    if not about["title"]:
        about["title"] = next((t[2:].strip() for t in lines[:40] if t.startswith("# ")), "")
    day = _DAY.match(about["date"])
    return Extracted(lines, about["title"][:200], day[0] if day else "", about["url"])


def known(charset: str) -> bool:
    """Say whether a stated charset is one that Python decodes text with."""
    with suppress(LookupError, ValueError):
        b"a".decode(charset or "?")
        return True
    return False


class Extractor:
    """The extracting process: started when first needed, killed when too slow, then restarted."""

    def __init__(self, timeout_s: float, fallback_encoding: str = "cp1252") -> None:
        self._timeout_s, self._fallback = timeout_s, fallback_encoding
        self._process: subprocess.Popen[bytes] | None = None
        self._lock, self._closed = threading.Lock(), False

    def __call__(self, kind: str, data: bytes, *, url: str = "", charset: str = "") -> Extracted:
        """Read a document: "text", "html" or "pdf", its bytes -> Extracted, or ToolError."""
        if kind == "text":
            return plain(data, charset if known(charset) else self._fallback)
        request = {"kind": kind, "size": len(data), "url": url, "charset": charset}
        request["limit_s"] = math.ceil(self._timeout_s) + 1
        with self._lock:
            if self._closed:
                raise ToolError("the server is stopping")
            answer = self._ask(request, data)
        if "missing" in answer:
            raise ToolError(
                f"reading {kind.upper()} needs {answer['missing']}, which is not installed here; "
                f"the operator gets it with: pip install 'k2ref[{EXTRAS[kind]}]'"
            )
        if "error" in answer:
            raise ToolError(f"this {kind.upper()} cannot be read: {answer['error']}")
        return Extracted(*(answer[name] for name in Extracted._fields))

    def _ask(self, request: dict[str, Any], data: bytes) -> dict[str, Any]:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        clock = threading.Timer(self._timeout_s, process.kill)
        clock.start()
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n" + data)
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            clock.cancel()
        if not line.endswith(b"\n"):
            self._stop()
            return {"error": f"the parser broke off or took more than {self._timeout_s:.0f} s"}
        found: dict[str, Any] = json.loads(line)
        return found

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._stop()
            self._process = subprocess.Popen(
                [sys.executable, "-I", extract.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            )
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def close(self) -> None:
        """Break off what is being read; nothing is started any more."""
        self._closed = True
        if (process := self._process) is not None:
            process.kill()
        with self._lock:
            self._stop()


def document(id: str, found: Extracted, folder: str, stamp: str) -> Document:
    """Put an id, a folder and a stamp on what was read."""
    return Document(id, found.lines, found.title, found.date, found.url, folder, stamp)
