"""A child process that answers one JSON line with one JSON line, and may die, hang or babble.

Every wait is bounded, and after a failure the process is killed with all its children; the next
question starts a fresh one.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from typing import Any

from conformance.engine import EngineError

PATIENCE, SHORT_S = 3, 5.0  # after so many hangs in a row the wait is short, until an answer comes
MAX_LINE_BYTES = 1 << 20
TAIL_CHARACTERS = 400


class LineProcess:
    """One child at a time, started when it is first asked."""

    def __init__(self, command: list[str], *, timeout_s: float) -> None:
        self.command = command
        self.timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the object
        self.starts = 0
        self._hangs = 0

    @property
    def running(self) -> bool:
        """Tell whether the child that was started last is still there."""
        return self._process is not None

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send one line and wait for one: message -> answer.

        Raises:
            EngineError: no start, no answer in time, an end in the middle, or no JSON object.
        """
        process = self._started()
        what = " ".join(str(message[key]) for key in ("cmd", "op") if key in message)
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
            line = self._read_line(process, what)
            return _parse(line, what)
        except BrokenPipeError:
            raise EngineError(self._died(process, what)) from None
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the child and everything it started."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def close(self) -> None:
        """End the child and forget what it said."""
        self.stop()
        self._stderr.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            try:
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._stderr,
                    start_new_session=True,
                )
            except OSError as error:
                raise EngineError(f"cannot start {self.command[0]}: {error.strerror}") from None
            self.starts += 1
        return self._process

    def _read_line(self, process: subprocess.Popen[bytes], what: str) -> bytes:
        assert process.stdout is not None
        wait_s = self.timeout_s if self._hangs < PATIENCE else min(SHORT_S, self.timeout_s)
        deadline, line = time.monotonic() + wait_s, b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self._hangs += 1
                    raise EngineError(f"no answer to {what} within {wait_s:g} s; killed")
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:
                    half = f" in the middle of an answer ({len(line)} bytes)" if line else ""
                    raise EngineError(self._died(process, what + half))
                line += chunk
                if len(line) > MAX_LINE_BYTES:
                    raise EngineError(f"the answer to {what} exceeds {MAX_LINE_BYTES} bytes")
        self._hangs = 0
        return line

    def _died(self, process: subprocess.Popen[bytes], what: str) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        self.stop()
        code = process.returncode
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"the engine died at {what}, {how}{self._tail()}"

    def _tail(self) -> str:
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - TAIL_CHARACTERS))
        text = self._stderr.read().decode(errors="replace").strip()
        return f"; it said: {text}" if text else ""


def _parse(line: bytes, what: str) -> dict[str, Any]:
    if line.count(b"\n") > 1:
        raise EngineError(
            f"{what} was answered with {line.count(bytes([10]))} lines instead of one"
        )
    try:
        answer = json.loads(line)
    except ValueError:
        raise EngineError(f"the answer to {what} is not JSON: {line[:80]!r}") from None
    if not isinstance(answer, dict):
        raise EngineError(f"the answer to {what} must be an object, got {type(answer).__name__}")
    return answer
