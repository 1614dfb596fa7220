"""Cut a document into passages: consecutive lines that together are the whole document."""

import re
from collections.abc import Iterator
from typing import NamedTuple

SMALL_CHARS = 300  # a heading opens a new passage from here on
GOOD_CHARS = 700  # and so does a blank line from here on
FULL_CHARS = 1_400  # and any line from here on
_HEADING = re.compile(r"#{1,6}\s+(.+?)\s*#*$")


class Piece(NamedTuple):
    """A passage before it is stored: where it starts, under which heading, and its lines."""

    line: int
    heading: str
    lines: list[str]


def cut(lines: list[str]) -> Iterator[Piece]:
    """Cut lines into pieces at headings and blank lines: lines -> pieces, in order, gapless."""
    first, size, heading = 0, 0, ""
    opened_under = ""
    for number, line in enumerate(lines):
        match = _HEADING.match(line) if line.startswith("#") else None
        full = size >= FULL_CHARS or (match and size >= SMALL_CHARS)
        if full or (size >= GOOD_CHARS and number and not lines[number - 1].strip()):
            yield Piece(first + 1, opened_under, lines[first:number])
            first, size, opened_under = number, 0, heading
        if match:
            heading = match[1]
            opened_under = heading if not size else opened_under or heading
        size += len(line) + 1
    if first < len(lines):
        yield Piece(first + 1, opened_under, lines[first:])
