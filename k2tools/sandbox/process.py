"""A sandbox as the host sees it: a process, its output, and its certain end."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio

from k2tools.sandbox.launcher import descendants

END_S = 5.0
CHUNK_BYTES = 1 << 16


class SandboxError(Exception):
    """A tier cannot be used here; the message says why."""


class Inmate:
    """A running sandbox."""

    def __init__(
        self, process: subprocess.Popen[bytes], output: int, lifeline: int = -1, home: str = ""
    ) -> None:
        self.process, self.output, self.home = process, output, home
        self._lifeline = lifeline
        self._silent = anyio.Event()  # set when the last process inside has let go of the output
        self._drained = False

    def processes(self) -> list[int]:
        """List the process ids of the sandbox."""
        return descendants(self.process.pid)

    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """End everything inside; returns at once."""
        if self._lifeline >= 0:
            os.close(self._lifeline)  # the supervisor kills its whole subtree
            self._lifeline = -1
        elif not self.home:
            self.process.kill()  # the kernel ends the process namespace with it

    async def drain(self, sink: Callable[[bytes], None]) -> None:
        """Read the output to its end: sink of each piece."""
        self._drained = True
        try:
            while self.read(sink):
                await anyio.wait_readable(self.output)
            self._silent.set()
        finally:
            self._drained = self._silent.is_set()

    def read(self, sink: Callable[[bytes], None]) -> bool:
        """Read what has been printed so far: -> whether more may come."""
        try:
            while piece := os.read(self.output, CHUNK_BYTES):
                sink(piece)
        except BlockingIOError:
            return True
        return False

    async def end(self, *, grace_s: float = 0.0) -> int:
        """Kill, if it does not end by itself in time: -> exit status, 128 + signal as in sh."""
        with anyio.CancelScope(shield=True):
            await self._exited(grace_s)
            self.kill()
            await self._exited(END_S)
            if self.alive():
                self.process.kill()
            status = self.process.wait()
            with anyio.move_on_after(END_S):
                if not self._drained:
                    await self.drain(lambda piece: None)
                await self._silent.wait()
            anyio.notify_closing(self.output)
            os.close(self.output)
        return status if status >= 0 else 128 - status

    async def _exited(self, wait_s: float) -> None:
        if not self.alive():
            return
        watched = os.pidfd_open(self.process.pid)
        try:
            with anyio.move_on_after(wait_s):
                await anyio.wait_readable(watched)
        finally:
            os.close(watched)


def popen(command: list[str], fds: tuple[int, ...]) -> tuple[subprocess.Popen[bytes], int]:
    """Start a process with an empty environment and one output pipe: -> process, its output."""
    output, inward = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(output, False)
    try:
        process = subprocess.Popen(
            command,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            stdout=inward,
            stderr=inward,
            pass_fds=fds,
            cwd="/",
            start_new_session=True,
        )
    except BaseException:
        os.close(output)
        raise
    finally:
        os.close(inward)
    return process, output


@contextmanager
def in_memory(data: bytes) -> Iterator[int]:
    """Hold bytes in a descriptor that a child can inherit: orders do not belong in argv."""
    fd = os.memfd_create("order")
    try:
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)
