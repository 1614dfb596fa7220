"""Sandboxes started ahead of need, each used by one session or one call only."""

from collections import deque

import anyio
from anyio.abc import TaskGroup

from k2tools.sandbox.jail import Jail
from k2tools.sandbox.kernel import LocalKernel
from k2tools.sandbox.process import Inmate, SandboxError
from k2tools.sandbox.watchdog import Watchdog


class Pool:
    """The sandboxes of one workspace: warm ones in waiting, and those in use under the watchdog."""

    def __init__(
        self,
        jail: Jail,
        group: TaskGroup,
        *,
        warm: int,
        preload: tuple[str, ...] = (),
        max_output_bytes: int = 1_000_000,
    ) -> None:
        self._jail, self._group = jail, group
        self._size, self._preload = warm, preload
        self._max_output_bytes = max_output_bytes
        self._warm: deque[LocalKernel] = deque()
        self._used: set[LocalKernel] = set()
        self._room, self._closing = anyio.Event(), False
        self._watchdog = Watchdog(str(jail.workspace), jail.limits)

    async def open(self) -> None:
        """Begin to fill up and to watch."""
        await self._watchdog.note_base()
        self._group.start_soon(self._watchdog.watch, self._running, self._busy)
        self._group.start_soon(self._refill)

    async def take(self) -> LocalKernel:
        """Hand out a sandbox that nobody has used: a warm one, or one started now."""
        self._used = {kernel for kernel in self._used if kernel.alive}
        self._room.set()
        kernel = await self._next()
        self._used.add(kernel)
        return kernel

    async def _next(self) -> LocalKernel:
        if await self._watchdog.full():
            return await self._start(self._jail.with_limits(file_bytes=0))
        while self._warm:
            if (kernel := self._warm.popleft()).alive:
                return kernel
            await kernel.close()
        return await self._start(self._jail)

    async def close(self) -> None:
        """End every sandbox; one that is still starting ends when it is ready."""
        self._closing = True
        kernels = (*self._warm, *self._used)
        for kernel in kernels:
            kernel.inmate.kill()  # all are told before any is waited for
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as ending:
                for kernel in kernels:
                    ending.start_soon(kernel.close)

    def _running(self) -> set[Inmate]:
        return {kernel.inmate for kernel in self._used if kernel.alive}

    def _busy(self) -> bool:
        return any(kernel.busy for kernel in self._used)

    async def _refill(self) -> None:
        while True:
            self._room = anyio.Event()
            while len(self._warm) < self._size and not self._closing:
                try:
                    self._warm.append(await self._start(self._jail, self._preload))
                except (SandboxError, OSError):
                    break  # the next call tries again and reports
            await self._room.wait()

    async def _start(self, jail: Jail, preload: tuple[str, ...] = ()) -> LocalKernel:
        kernel = LocalKernel(jail, preload=preload, max_output_bytes=self._max_output_bytes)
        kernel.why = lambda inmate: self._watchdog.reasons.get(inmate, "")
        self._group.start_soon(kernel.pump)
        try:
            await kernel.ready()
            if self._closing:
                raise SandboxError("the server is stopping")
        except BaseException:
            await kernel.close()
            raise
        return kernel
