"""Weights that stream through memory: asked for ahead of use, let go when a limit is reached.

Files are mapped, so reading is the operating system's business: pages come when they are asked for
or touched and may be dropped at any time, since the file still has them. `Residency` decides both.
It keeps the tensors asked for last, as many as fit into a limit, and drops the pages of those asked
for earliest. A tensor that is dropped while in use is read again; nothing becomes wrong.
"""

from collections.abc import Iterable
from itertools import islice

from k2ref.errors import InputError
from k2ref.shards import Entry, Maps

AHEAD = 2  # experts that are asked for before they are used


class Residency:
    """The tensors whose pages are in memory or on their way, the one asked for earliest first."""

    def __init__(self, maps: Maps, limit_bytes: int | None = None) -> None:
        self.maps = maps
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self.asked_bytes = 0
        """bytes of all tensors asked for, again whenever they had been dropped"""
        self._held: dict[Entry, None] = {}

    def ask(self, entry: Entry) -> None:
        """Ask for a tensor's pages without waiting for them, and make room: entry."""
        if entry in self._held:
            self._held[entry] = self._held.pop(entry)  # now the one asked for last
            return
        if self.limit_bytes is not None:
            self._make_room(self.limit_bytes - entry.nbytes)
        self._held[entry] = None
        self.held_bytes += entry.nbytes
        self.asked_bytes += entry.nbytes
        self.maps.fetch(entry)

    def _make_room(self, most_bytes: int) -> None:
        while self._held and self.held_bytes > most_bytes:
            oldest = next(iter(self._held))
            del self._held[oldest]
            self.held_bytes -= oldest.nbytes
            self.maps.drop(oldest)


def check_limit(limit_bytes: int, largest_bytes: int) -> None:
    """Refuse a limit under which a part of the model would be dropped while it is used.

    Raises:
        InputError: less than room for the largest part and the one that is read ahead.
    """
    least = (1 + AHEAD) * largest_bytes
    if limit_bytes < least:
        raise InputError(
            f"the memory limit must be at least {least} bytes, {1 + AHEAD} times the largest part "
            f"of a layer that is used as a whole; got {limit_bytes}"
        )


def following(order: Iterable[int], expert: int) -> list[int]:
    """List the experts to be read ahead: those used after this one, order, expert -> experts."""
    return list(islice((e for e in order if e > expert), AHEAD))
