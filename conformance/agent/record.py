"""The record of a run: one JSON line per event, and what a resume reads back from it.

A turn is written, and synced, before its tools run; its results are written after. So after a
crash at any point the record says which calls were sent, and under which keys a server remembers
them. A torn last line is dropped.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from conformance.agent.messages import REASONING_FIELDS

Event = dict[str, Any]


@dataclass
class Record:
    """An append-only file of events; without a path events are kept nowhere."""

    path: Path | None = None
    redact_reasoning: bool = False
    sync: bool = True
    _file: TextIO | None = field(default=None, repr=False)

    def write(self, kind: str, **event: Any) -> None:
        """Append one event and wait until it is on the disk."""
        if self.path is None:
            return
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
        if self.redact_reasoning:
            event = redacted(event)
        self._file.write(json.dumps({"kind": kind, **event}, ensure_ascii=False) + "\n")
        self._file.flush()
        if self.sync:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def redacted(value: Any) -> Any:
    """Blank every reasoning field, keeping the fields themselves."""
    if isinstance(value, dict):
        return {
            k: "[withheld]" if k in REASONING_FIELDS and v else redacted(v)
            for k, v in value.items()
        }
    return [redacted(v) for v in value] if isinstance(value, list) else value


def events(path: Path) -> Iterator[Event]:
    """Read the whole lines of a record; a torn last line is left out."""
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            raise ValueError(
                f"{path}: a line that is not the last is damaged: {line[:60]!r}"
            ) from None


def begun(path: Path) -> bool:
    """Tell whether a record has its first line; before it no call was sent."""
    return path.exists() and b"\n" in path.read_bytes()


def trim(path: Path) -> None:
    """Cut a torn last line off, so that appending goes on behind the last whole one."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole != len(data):
        os.truncate(path, whole)
