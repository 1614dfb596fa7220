"""The Python sessions of a server: the tier they run in, the warm pool, the open handles."""

import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from k2tools.handles import Handles
from k2tools.results import ToolError
from k2tools.sandbox import ladder, owner
from k2tools.sandbox.gateway import GatewayKernel
from k2tools.sandbox.jail import Jail
from k2tools.sandbox.kernel import Call, Kernel, Outcome
from k2tools.sandbox.limits import Limits
from k2tools.sandbox.pool import Pool
from k2tools.sandbox.process import SandboxError
from k2tools.settings import Settings

WARM_AFTER_S = 1.0  # the handshake comes first
SWEEP_S = 30.0
NEW = 'session="new" starts another'


class Source(Protocol):
    """Where fresh kernels come from."""

    async def take(self) -> Kernel: ...

    async def close(self) -> None: ...


class Gateway:
    """Kernels of the gateway that the operator named."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._taken: list[GatewayKernel] = []

    async def take(self) -> Kernel:
        settings = self._settings
        self._taken = [kernel for kernel in self._taken if kernel.alive]
        kernel = await GatewayKernel.start(
            settings.gateway_url,
            os.environ.get("K2TOOLS_GATEWAY_TOKEN", ""),
            folder=settings.gateway_folder,
            max_output_bytes=_max_output_bytes(settings),
        )
        self._taken.append(kernel)
        return kernel

    async def close(self) -> None:
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as ending:
                for kernel in self._taken:
                    ending.start_soon(kernel.close)


class Session:
    """A session that a model holds by its handle: one cell at a time, one more may wait."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._turn, self._claims = anyio.Lock(), 0

    async def execute(self, code: str, *, timeout_s: float, call: Call) -> Outcome:
        if self._claims > 1:
            raise ToolError(f"this session is busy and one call waits already; repeat it, or {NEW}")
        self._claims += 1
        try:
            async with self._turn:
                return await self.kernel.execute(code, timeout_s=timeout_s, call=call)
        finally:
            self._claims -= 1

    async def close(self) -> None:
        await self.kernel.close()


class Interpreters:
    """Where the tool `python` gets its sandboxes from."""

    def __init__(self, settings: Settings, group: TaskGroup) -> None:
        self._settings, self._group = settings, group
        self._preparing = anyio.Lock()
        self._source: Source | None = None
        self._refusal = ""
        self.sessions: Handles[Session] = Handles(
            "py_",
            Session.close,
            idle_s=settings.handle_idle_s,
            life_s=settings.handle_life_s,
            max_per_principal=settings.max_sessions,
        )

    async def take(self) -> Kernel:
        """Hand out a fresh sandbox. Raises ToolError where there can be none."""
        try:
            return await (await self._ready()).take()
        except (SandboxError, OSError) as error:
            raise ToolError(f"python is not available: {error}") from None

    async def begin(self) -> None:
        """Choose the tier and warm up, in the background; a first call does not wait for it."""
        await anyio.sleep(WARM_AFTER_S)
        with suppress(SandboxError, OSError):
            await self._ready()

    async def sweep(self) -> None:
        """Close idle sessions in time, also when nobody calls."""
        while True:
            await anyio.sleep(SWEEP_S)
            await self.sessions.sweep()

    async def close(self) -> None:
        """End every sandbox; all are told before any is waited for."""
        if self._source is not None:
            await self._source.close()

    async def _ready(self) -> Source:
        async with self._preparing:
            if self._refusal:
                raise SandboxError(self._refusal)
            if self._source is None:
                try:
                    self._source = await self._open()
                except (SandboxError, OSError) as error:
                    self._refusal = str(error)
                    print(f"k2tools: python is refused: {error}", file=sys.stderr)
                    raise SandboxError(self._refusal) from None
            return self._source

    async def _open(self) -> Source:
        settings = self._settings
        if settings.gateway_url:
            print(f"k2tools: python runs on {settings.gateway_url}", file=sys.stderr)
            return Gateway(settings)
        owner.hand_over(settings.workspace)
        jail = jail_of(settings)
        if sys.platform != "linux" or not settings.unsafe_no_sandbox:
            jail = await ladder.choose(jail)
        print(f"k2tools: python runs in tier {jail.tier}", file=sys.stderr)
        pool = Pool(
            jail,
            self._group,
            warm=settings.warm_sandboxes,
            preload=settings.preload,
            max_output_bytes=_max_output_bytes(settings),
        )
        await pool.open()
        return pool


def _max_output_bytes(settings: Settings) -> int:
    return settings.body_chars * 7 // 10  # room for value, error and notes in one body


def jail_of(settings: Settings) -> Jail:
    """Describe the jail of a server: settings -> Jail, of no tier yet."""
    limits = Limits(
        address_bytes=settings.python_memory_bytes,
        memory_bytes=settings.python_memory_bytes,
        processes=settings.python_processes,
        file_bytes=settings.python_file_bytes,
        temporary_bytes=settings.python_temporary_bytes,
        workspace_bytes=settings.workspace_growth_bytes,
        workspace_files=settings.workspace_growth_files,
    )
    python = settings.python or sys.executable
    return Jail("none", settings.workspace.resolve(), python, settings.writable, limits)


async def survey(settings: Settings) -> list[ladder.Rung]:
    """Say which tier works here, why others do not, how to get them: settings -> rungs."""
    jail = jail_of(settings)
    with tempfile.TemporaryDirectory(prefix="k2tools-") as stand_in:
        if owner.would_hand_over(settings.workspace):  # which looking must not do
            os.chown(stand_in, *owner.sandbox_owner(settings.workspace))
            jail = replace(jail, workspace=Path(stand_in))
        return await ladder.survey(jail, settings.gateway_url)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Interpreters]:
    """Hold the interpreters of a server open, and leave no process behind."""
    async with anyio.create_task_group() as group:
        interpreters = Interpreters(settings, group)
        group.start_soon(interpreters.begin)
        group.start_soon(interpreters.sweep)
        try:
            yield interpreters
        finally:
            await interpreters.close()
            group.cancel_scope.cancel()
