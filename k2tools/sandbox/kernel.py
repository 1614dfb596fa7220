"""One Python session seen from the server: cells in, outcomes out, whatever happens inside.

Everything that comes out of the sandbox is untrusted: user code shares the process that writes it.
Frames have a bounded size that is checked before the body is read; an unknown kind, a foreign id or
bad JSON ends the session.
"""

import json
import os
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Protocol

import anyio

from k2tools.sandbox.inside.frames import MAX_FRAME_BYTES, encoded
from k2tools.sandbox.jail import Jail
from k2tools.sandbox.process import Inmate, SandboxError

READY_S = 30.0
GRACE_S = 2.0  # from the interrupt to the kill
SIGNALS = {132: "illegal instruction", 134: "abort", 135: "bus error", 136: "arithmetic error"}
SIGNALS |= {137: "killed", 139: "segmentation fault", 152: "processor time used up"}

ENDED = "the process ended"

Call = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]


class Outcome(NamedTuple):
    """How a cell ended."""

    output: str  # what was printed
    dropped_bytes: int  # printed beyond what is kept, from the middle
    value: str = ""
    error: str = ""
    ended: str = ""  # why the session is lost; "" when it lives on
    interrupted: bool = False


class Kernel(Protocol):
    """A Python session, here or on another machine."""

    @property
    def alive(self) -> bool: ...

    async def execute(self, code: str, *, timeout_s: float, call: Call) -> Outcome: ...

    async def close(self) -> None: ...


class Printed:
    """Output as head and tail: bounded, whatever is printed."""

    def __init__(self, max_bytes: int) -> None:
        self._half = max_bytes // 2
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = self.dropped_bytes = 0

    def add(self, piece: bytes) -> None:
        room = self._half - len(self._head)
        self._head += piece[:room]
        if rest := piece[room:]:
            self._tail.append(rest)
            self._tail_bytes += len(rest)
        while self._tail and self._tail_bytes - len(self._tail[0]) >= self._half:
            gone = len(self._tail.popleft())
            self._tail_bytes -= gone
            self.dropped_bytes += gone

    def text(self) -> str:
        tail = b"".join(self._tail)
        gap = b"\n[...]\n" if self.dropped_bytes else b""
        return (bytes(self._head) + gap + tail[-self._half :]).decode("utf-8", "replace")


class LostError(Exception):
    """The session is gone; the message says why."""


class Channel:
    """The server's ends of the pipes, without blocking."""

    def __init__(self, orders: int, outcomes: int) -> None:
        self._orders, self._outcomes, self._read = orders, outcomes, bytearray()
        os.set_blocking(orders, False)
        os.set_blocking(outcomes, False)

    async def send(self, message: dict[str, Any]) -> None:
        """Write a frame. Raises ValueError when it is too large, LostError at the end."""
        view = memoryview(encoded(message))
        while view:
            try:
                view = view[os.write(self._orders, view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._orders)
            except BrokenPipeError:
                raise LostError(ENDED) from None

    async def receive(self) -> dict[str, Any]:
        """Read a frame; nothing is lost when the wait is cancelled. Raises LostError."""
        await self._fill(4)
        (size,) = struct.unpack(">I", self._read[:4])
        if size > MAX_FRAME_BYTES:
            raise LostError("it broke the protocol: an oversized message")
        await self._fill(4 + size)
        body = bytes(self._read[4 : 4 + size])
        del self._read[: 4 + size]
        try:
            message = json.loads(body)
        except (ValueError, RecursionError):
            raise LostError("it broke the protocol: a message that is no JSON") from None
        if not isinstance(message, dict):
            raise LostError("it broke the protocol: a message that is no object")
        return message

    async def _fill(self, size: int) -> None:
        while len(self._read) < size:
            try:
                piece = os.read(self._outcomes, 1 << 16)
            except BlockingIOError:
                await anyio.wait_readable(self._outcomes)
                continue
            if not piece:
                raise LostError(ENDED)
            self._read += piece

    def close(self) -> None:
        for fd in (self._orders, self._outcomes):
            anyio.notify_closing(fd)
            os.close(fd)


class LocalKernel:
    """A session in a sandbox on this machine."""

    def __init__(self, jail: Jail, *, preload: tuple[str, ...], max_output_bytes: int) -> None:
        theirs_in, orders = os.pipe2(os.O_CLOEXEC)
        outcomes, theirs_out = os.pipe2(os.O_CLOEXEC)
        theirs_interrupt, self._interrupts = os.pipe2(os.O_CLOEXEC)
        theirs = (theirs_in, theirs_out, theirs_interrupt)
        self._channel = Channel(orders, outcomes)
        self._max_output_bytes, self._cell = max_output_bytes, 0
        self._printed = Printed(max_output_bytes)
        arguments = {"orders": theirs_in, "outcomes": theirs_out, "interrupts": theirs_interrupt}
        try:
            self.inmate = jail.start("worker", {**arguments, "preload": preload}, theirs)
        except BaseException:
            self._close_pipes()
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self.why: Callable[[Inmate], str] = lambda inmate: ""  # the watchdog's word on an end
        self.busy = self._closed = False
        self._lost = ""

    @property
    def alive(self) -> bool:
        return not self._closed and self.inmate.alive()

    async def pump(self) -> None:
        """Take what is printed, for as long as the sandbox lives."""
        await self.inmate.drain(lambda piece: self._printed.add(piece))

    async def ready(self) -> None:
        """Wait until the first cell can come. Raises SandboxError with what was printed."""
        try:
            with anyio.fail_after(READY_S):
                greeting = await self._channel.receive()
        except (LostError, TimeoutError) as problem:
            await self.close()
            said = self._printed.text().strip().rpartition("\n")[2]
            raise SandboxError(said or f"it did not start: {problem}") from None
        if greeting != {"kind": "ready"}:
            await self.close()
            raise SandboxError("it did not start: unexpected greeting")

    async def execute(self, code: str, *, timeout_s: float, call: Call) -> Outcome:
        """Run a cell, interrupt it at its time, kill it when that does not help."""
        self._printed = Printed(self._max_output_bytes)
        self._cell += 1
        self.busy = True
        try:
            await self._channel.send({"id": self._cell, "code": code})
            with anyio.move_on_after(timeout_s):
                return self._outcome(await self._converse(call))
            return await self._stop(call)
        except LostError as lost:
            return await self._end(str(lost))
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._stop(call)
            raise
        finally:
            self.busy = False

    async def _stop(self, call: Call) -> Outcome:
        """Interrupt; the variables are kept if that ends the cell within the grace."""
        try:
            os.write(self._interrupts, b"x")
            with anyio.move_on_after(GRACE_S):
                done = await self._converse(call)
                return self._outcome(done)._replace(interrupted=True)
        except (LostError, BrokenPipeError) as lost:
            return await self._end(str(lost))
        return await self._end("it did not stop when interrupted")

    async def _converse(self, call: Call) -> dict[str, Any]:
        """Answer the cell's calls of other tools until it is done: -> its last frame."""
        while True:
            frame = await self._channel.receive()
            match frame:
                case {"kind": "done", "id": self._cell, "value": str(), "error": str()}:
                    return frame
                case {"kind": "call", "id": int(), "tool": str(tool), "args": dict(args)}:
                    await self._answer(tool, args, call)
                case _:
                    raise LostError("it broke the protocol: an unknown message")

    async def _answer(self, tool: str, args: Mapping[str, Any], call: Call) -> None:
        """Send a reply whatever happens: the caller inside waits for exactly one."""
        reply: dict[str, Any] = {"error": f"{tool} was interrupted"}
        try:
            reply = await call(tool, args)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(GRACE_S):
                try:
                    await self._channel.send(reply)
                except (ValueError, TypeError) as problem:  # too large, or no JSON
                    await self._channel.send({"error": f"{tool}: {problem}; ask for less"})

    def _outcome(self, done: dict[str, Any]) -> Outcome:
        self.inmate.read(self._printed.add)  # printed before it was done, perhaps not yet pumped
        value, error = clean(done["value"]), clean(done["error"])
        return Outcome(clean(self._printed.text()), self._printed.dropped_bytes, value, error)

    async def _end(self, why: str) -> Outcome:
        await self._close(grace_s=GRACE_S if why == ENDED else 0.0)
        text, dropped = clean(self._printed.text()), self._printed.dropped_bytes
        return Outcome(text, dropped, ended=self._lost or why)

    async def close(self) -> None:
        """End the sandbox with everything in it."""
        await self._close()

    async def _close(self, grace_s: float = 0.0) -> None:
        if self._closed:
            return
        self._closed = True
        status = await self.inmate.end(grace_s=grace_s)
        self._close_pipes()
        died = f"its process died: {SIGNALS.get(status, f'exit status {status}')}"
        self._lost = self.why(self.inmate) or (died if grace_s else "")

    def _close_pipes(self) -> None:
        self._channel.close()
        os.close(self._interrupts)


def clean(text: str) -> str:
    """Make text that came out of the sandbox encodable and free of NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "�")
