"""Keyed calls: a call that is sent again under its key gets its answer, never a second effect.

A client that was killed cannot know what became of its last call, so it sends it again with the
same key in `_meta`. The key is noted beside the run log, on disk, before the call begins; the log
says how the call ended. A key whose call is logged is answered from the log, one whose call runs
is waited for, and one that was noted but neither runs nor is logged met the end of a server:
nobody can know whether it took effect, and the answer says so. A keyed call runs to its end or
its time limit, whoever goes away.

Keys belong to one run of one principal, as refs do. A server lists its tools together with the
name of its memory, so that no client trusts a server whose state is another.
"""

import contextlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from k2tools.results import ToolError, shown
from k2tools.runlog import BINARY, hash_of, write_all

KEY = re.compile(r"[A-Za-z0-9_-]{16,64}")
UNKNOWN = (
    "whether this call was executed is not known: the server stopped while it ran. Look at the "
    "present state first; repeat the call only if it did not happen"
)


class Noted(NamedTuple):
    """A call that was begun under a key: its ref and the hash of what was asked."""

    ref: str
    asked: str


class Keys:
    """The keys of one run: noted before a call begins, read back after a restart."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "keys.jsonl"
        data = self._path.read_bytes() if self._path.exists() else b""
        whole = data.rfind(b"\n") + 1
        if whole != len(data):  # torn: its call was never begun
            os.truncate(self._path, whole)
        try:
            lines = [json.loads(line) for line in data[:whole].splitlines()]
            self._noted = {key: Noted(ref, asked) for key, ref, asked in lines}
        except ValueError:
            raise ValueError(f"the keys of {folder.name} are damaged: {self._path}") from None

    def find(self, key: str, tool: str, arguments: Mapping[str, Any] | None) -> str:
        """Find the ref of the call that a key names, "" when it names none yet."""
        if not KEY.fullmatch(key):
            raise ToolError(f"a call's key has 16 to 64 of A-Z a-z 0-9 _ -, got {shown(key)}")
        noted = self._noted.get(key)
        if noted and noted.asked != _hash(tool, arguments):
            raise ToolError(f"the key {key} names another call, {noted.ref}; give each its own")
        return noted.ref if noted else ""

    def note(self, key: str, tool: str, arguments: Mapping[str, Any] | None, ref: str) -> None:
        """Write a key down before its call begins; `flush` follows where the call may write."""
        noted = Noted(ref, _hash(tool, arguments))
        with self._opened() as fd:
            write_all(fd, json.dumps([key, *noted]).encode() + b"\n")
        self._noted[key] = noted

    def flush(self) -> None:
        """Wait until the keys are on disk."""
        with self._opened() as fd:
            os.fsync(fd)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | BINARY, 0o600)
        try:
            yield fd
        finally:
            os.close(fd)


def _hash(tool: str, arguments: Mapping[str, Any] | None) -> str:
    return hash_of({"tool": tool, "arguments": dict(arguments or {})})


def memory_name(state: Path) -> str:
    """Name a state folder, once and for all: -> 128 random bits in hexadecimal."""
    path = state / "memory"
    if path.exists() and (name := path.read_text("ascii")):
        return name
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = state / f"memory.{os.getpid()}"
    made.write_text(secrets.token_hex(16), "ascii")
    os.replace(made, path)  # of two servers that start at once, the first is not believed
    return path.read_text("ascii")
