"""What no kernel limit counts: the workspace, the temporary directory, memory of all processes.

A round measures and ends the sandboxes that passed a limit. Rounds come often while cells run and
measuring is cheap, seldom between cells, and never take more than a small share of the time.
"""

import os
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import NamedTuple

import anyio

from k2tools.sandbox.limits import Limits
from k2tools.sandbox.process import Inmate

ROUND_S, IDLE_ROUND_S = 0.1, 1.0
SHARE = 20  # a round waits this many times as long as the last one took
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
BLOCK_BYTES = 512


class Usage(NamedTuple):
    """Space that a folder takes."""

    bytes: int
    files: int


def measure(folder: str, max_files: int) -> Usage:
    """Add up a folder, links not followed, up to a number of files: path -> Usage."""
    size = files = 0
    pending = [folder]
    while pending and files <= max_files:
        with suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                files += 1
                with suppress(OSError):
                    size += entry.stat(follow_symlinks=False).st_blocks * BLOCK_BYTES
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
    return Usage(size, files)


def private_memory(pids: list[int]) -> int:
    """Add up the memory that processes do not share: ids -> bytes."""
    pages = 0
    for pid in pids:
        with suppress(OSError), open(f"/proc/{pid}/statm") as file:
            _, resident, shared, *_ = map(int, file.read().split())
            pages += resident - shared
    return pages * PAGE_BYTES


class Watchdog:
    """Ends sandboxes that pass a limit; the workspace's limit is growth since the start."""

    def __init__(self, workspace: str, limits: Limits) -> None:
        self._workspace, self._limits = workspace, limits
        self._base: Usage | None = None
        self._full, self._ceiling = False, Usage(0, 0)
        self.reasons: dict[Inmate, str] = {}

    @property
    def most_files(self) -> int:
        """Count no further than this: enough to see that the limit is passed."""
        return (self._base.files if self._base else 10**6) + self._limits.workspace_files

    async def note_base(self) -> None:
        """Measure the workspace before the first code runs."""
        if self._base is None:
            base = await anyio.to_thread.run_sync(measure, self._workspace, self.most_files)
            self._base = self._base or base

    async def watch(
        self, running: Callable[[], Collection[Inmate]], busy: Callable[[], bool] = lambda: True
    ) -> None:
        """Measure in rounds for as long as something runs."""
        inspected_s = took_s = 0.0
        while True:
            began_s = time.monotonic()
            if busy() or began_s - inspected_s > IDLE_ROUND_S:
                await self.inspect(running())
                inspected_s, took_s = began_s, time.monotonic() - began_s
            await anyio.sleep(max(ROUND_S, SHARE * took_s))

    async def inspect(self, running: Collection[Inmate]) -> None:
        """Measure once and end what is over a limit."""
        if not running or self._base is None:
            return
        for inmate in running:
            if reason := await anyio.to_thread.run_sync(self._over, inmate):
                self.end(inmate, reason)
        if reason := await anyio.to_thread.run_sync(self._workspace_over):
            for inmate in running:
                self.end(inmate, reason)

    def end(self, inmate: Inmate, reason: str) -> None:
        """Kill a sandbox and remember why."""
        self.reasons.setdefault(inmate, reason)
        inmate.kill()

    async def full(self) -> bool:
        """Say whether the workspace is over its limit since a sandbox was ended for it.

        Code may then run that can write nothing: somebody has to remove files.
        """
        if self._full:
            now = await anyio.to_thread.run_sync(measure, self._workspace, self.most_files)
            self._full = bool(self._excess(now))
            self._ceiling = now
        return self._full

    def _workspace_over(self) -> str:
        """Measure the workspace: -> how it passed its limit, or ""."""
        now = measure(self._workspace, self.most_files)
        excess = self._excess(now)
        allowed = (
            self._full and now.bytes <= self._ceiling.bytes and now.files <= self._ceiling.files
        )
        if not excess or allowed:
            return ""
        self._full, self._ceiling = True, Usage(0, 0)
        return excess

    def _excess(self, now: Usage) -> str:
        base, limits = self._base or Usage(0, 0), self._limits
        if now.bytes - base.bytes > limits.workspace_bytes:
            grown, limit = now.bytes - base.bytes >> 20, limits.workspace_bytes >> 20
            return f"the workspace grew by {grown} MiB, the limit is {limit} MiB; remove files"
        if now.files - base.files > limits.workspace_files:
            return f"the workspace grew by more than {limits.workspace_files} files; remove some"
        return ""

    def _over(self, inmate: Inmate) -> str:
        limits = self._limits
        memory = private_memory(inmate.processes())
        if memory > limits.memory_bytes:
            return (
                f"its processes took {memory >> 20} MiB of memory, the limit is "
                f"{limits.memory_bytes >> 20} MiB"
            )
        if inmate.home:
            temporary = measure(inmate.home, limits.workspace_files)
            if temporary.bytes > limits.temporary_bytes:
                return f"temporary files passed {limits.temporary_bytes >> 20} MiB"
            if temporary.files > limits.workspace_files:
                return f"there are more than {limits.workspace_files} temporary files"
        return ""
