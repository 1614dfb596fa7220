"""The run log: one hash-chained JSON line per call, flushed to disk before the answer leaves.

A run is a folder: `log.jsonl`, and `out/<sha256>` with the whole body of every result. `prev` is
the SHA-256 of the line before (64 zeros first), so a changed byte breaks the chain. After a crash
the valid prefix counts; a torn last line is cut off and reported. Bodies survive a killed server;
after a power cut the youngest may be missing, and the walk over the log says which. Calls that end
together share a flush. With redaction, arguments and bodies are kept as hashes and sizes only.
"""

import contextlib
import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

if sys.platform != "win32":
    import fcntl

FIRST = "0" * 64
NEEDED = {"ref", "out_sha", "parent", "args", "status"}  # of a record, to be read back
BINARY = getattr(os, "O_BINARY", 0)  # Windows would write line ends of its own
_WRITER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class InUse(ValueError):
    """Another server writes to the run."""


class Record(NamedTuple):
    """One call as the log keeps it."""

    ref: str
    tool: str
    args: Mapping[str, Any]
    status: str  # ok | error | denied | timeout | cancelled
    ms: float
    trace_id: str = ""
    parent: str = ""


class Verdict(NamedTuple):
    """What a walk over a log found."""

    records: list[dict[str, Any]]
    head: str  # hash of the last valid line, which the next one states
    valid_bytes: int
    torn_bytes: int  # of a last line that a crash cut off
    problems: list[str]


class RunLog:
    """An open run: append a call, read a body back by its ref."""

    def __init__(self, folder: Path, *, redact: bool = False) -> None:
        self.folder, self._redact = folder, redact
        self._writing, self._flushing = threading.Lock(), threading.Lock()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "out").mkdir(exist_ok=True, mode=0o700)
        self._out = str(folder / "out") + os.sep
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | BINARY
        self._fd = os.open(folder / "log.jsonl", flags, 0o600)
        try:
            _claim(self._fd, folder)
            verdict = verify(folder, bodies=False)
            if verdict.problems:
                raise ValueError(f"the log of {folder.name} is damaged: {verdict.problems[0]}")
            os.ftruncate(self._fd, verdict.valid_bytes)
        except BaseException:
            os.close(self._fd)
            raise
        self.torn_bytes = verdict.torn_bytes
        self._prev = verdict.head
        self._seq = self._flushed = len(verdict.records)
        self._ended = {r["ref"]: (r["status"], r["out_sha"]) for r in verdict.records}
        named = {r for record in verdict.records for r in (record["ref"], record["parent"])}
        self.last_ref = max((int(ref[1:]) for ref in named if ref[1:].isdigit()), default=0)

    def append(self, record: Record, body: str) -> None:
        """Write a call and its body; the record is on disk when this returns."""
        data = stored(body)
        sha = hashlib.sha256(data).hexdigest()
        args = {"sha256": hash_of(record.args)} if self._redact else dict(record.args)
        line = record._asdict() | {
            "args": args,
            "ms": round(record.ms, 1),
            "out_sha": sha,
            "out_len": len(data),
        }
        with self._writing:
            if not self._redact:
                self._keep(sha, data)
            text = encoded(line | {"seq": self._seq + 1, "prev": self._prev})
            write_all(self._fd, text + b"\n")
            self._prev, self._seq = hashlib.sha256(text).hexdigest(), self._seq + 1
            self._ended[record.ref], own = (record.status, sha), self._seq
        self._flush(own)

    def _flush(self, own: int) -> None:
        """Wait until a line is on disk; one flush serves every line written before it began."""
        with self._flushing:
            if self._flushed < own:
                written = self._seq
                os.fsync(self._fd)
                self._flushed = written

    def body(self, ref: str) -> str | None:
        """Read the whole body of an earlier call: ref -> text, or None."""
        if ref not in self._ended:
            return None
        with contextlib.suppress(FileNotFoundError):
            return kept(self.folder, self._ended[ref][1])
        return None

    def status(self, ref: str) -> str:
        """Say how an earlier call ended: ref -> status, "" when the log lacks it."""
        return self._ended.get(ref, ("", ""))[0]

    def close(self) -> None:
        os.close(self._fd)

    def _keep(self, sha: str, data: bytes) -> None:
        """Write a body under its hash, unless it is there in its full length."""
        path, flags = self._out + sha, os.O_WRONLY | os.O_CREAT | BINARY
        try:
            fd = os.open(path, flags | os.O_EXCL, 0o600)
        except FileExistsError:
            if os.stat(path).st_size == len(data):
                return
            fd = os.open(path, flags | os.O_TRUNC)
        try:
            write_all(fd, data)
        finally:
            os.close(fd)


def kept(folder: Path, sha: str) -> str:
    """Read a body: run folder, its hash -> text."""
    return (folder / "out" / sha).read_bytes().decode("utf-8", "replace")


def stored(body: str) -> bytes:
    """Write a body as the log keeps it, lone surrogates escaped."""
    return body.encode("utf-8", "backslashreplace")


def encoded(record: Mapping[str, Any]) -> bytes:
    """Write a record as its one canonical line: sorted keys, compact."""
    return stored(_WRITER.encode(record))


def hash_of(record: Mapping[str, Any]) -> str:
    """Hash a value by its canonical text."""
    return hashlib.sha256(encoded(record)).hexdigest()


def verify(folder: Path, *, bodies: bool = True) -> Verdict:
    """Walk the chain and check that every body is there and hashes to its name."""
    data = (folder / "log.jsonl").read_bytes()
    *lines, torn = data.split(b"\n")
    records: list[dict[str, Any]] = []
    problems = []
    prev = FIRST
    for number, line in enumerate(lines, 1):
        record = _parsed(line)
        if record is None or record.get("prev") != prev or record.get("seq") != number:
            problems.append(f"line {number} does not continue the chain")
            break
        records.append(record)
        prev = hashlib.sha256(line).hexdigest()
    if bodies:
        problems += _body_problems(folder, records)
    return Verdict(records, prev, len(data) - len(torn), len(torn), problems)


def _body_problems(folder: Path, records: list[dict[str, Any]]) -> Iterator[str]:
    for record in records:
        body = folder / "out" / record["out_sha"]
        if "sha256" in record["args"] and not body.exists():
            continue  # redacted
        if not body.exists():
            yield f"{record['ref']}: its body is missing"
        elif hashlib.sha256(body.read_bytes()).hexdigest() != record["out_sha"]:
            yield f"{record['ref']}: its body was changed"


def _parsed(line: bytes) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError):
        record = json.loads(line)
        if isinstance(record, dict) and record.keys() >= NEEDED:
            return record
    return None


def _claim(fd: int, folder: Path) -> None:
    """Refuse a run that another server writes to."""
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InUse(f"run {folder.name} is in use by another server; name another") from None


def write_all(fd: int, data: bytes) -> None:
    """Write every byte, or cut the line off again."""
    start = os.fstat(fd).st_size
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    except BaseException:
        os.ftruncate(fd, start)
        raise
