"""State across calls: unguessable handles given back as arguments, never the connection.

A handle belongs to one principal, dies after an idle time or an absolute one, and the least
recently used makes room for a new one.
"""

import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from k2tools.results import ToolError, shown

T = TypeVar("T")


@dataclass
class _Held(Generic[T]):
    value: T
    made_s: float
    used_s: float


class Handles(Generic[T]):
    """A store of values by (principal, handle), closing what it drops."""

    def __init__(
        self,
        prefix: str,
        close: Callable[[T], Awaitable[None]],
        *,
        idle_s: float,
        life_s: float,
        max_per_principal: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prefix, self._close, self._clock = prefix, close, clock
        self._idle_s, self._life_s, self._most = idle_s, life_s, max_per_principal
        self._held: dict[tuple[str, str], _Held[T]] = {}  # the least recently used first

    def __len__(self) -> int:
        return len(self._held)

    async def mint(self, principal: str, value: T) -> str:
        """Keep a value: principal, value -> new handle of 128 random bits."""
        await self.sweep()
        own = [key for key in self._held if key[0] == principal]
        for key in own[: max(len(own) - self._most + 1, 0)]:
            await self._drop(key)
        handle = self._prefix + secrets.token_urlsafe(16)
        now = self._clock()
        self._held[principal, handle] = _Held(value, now, now)
        return handle

    async def get(self, principal: str, handle: str, *, renew: str) -> T:
        """Look a handle up and mark it used; `renew` says how to get a new one.

        Raises ToolError when it is unknown, expired or somebody else's: one message for all.
        """
        await self.sweep()
        held = self._held.pop((principal, handle), None)
        if held is None:
            raise ToolError(
                f"{shown(handle)} is unknown or expired (idle for {self._idle_s / 60:.0f} minutes "
                f"or dropped for newer ones); {renew}"
            )
        held.used_s = self._clock()
        self._held[principal, handle] = held  # to the end: most recently used
        return held.value

    async def drop(self, principal: str, handle: str) -> None:
        """Close and forget a handle, if it is there."""
        await self._drop((principal, handle))

    async def sweep(self) -> None:
        """Close what has expired."""
        now = self._clock()
        for key, held in list(self._held.items()):
            if now - held.used_s > self._idle_s or now - held.made_s > self._life_s:
                await self._drop(key)

    async def close(self) -> None:
        """Close everything, at the end of the server."""
        for key in list(self._held):
            await self._drop(key)

    async def _drop(self, key: tuple[str, str]) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            await self._close(held.value)
