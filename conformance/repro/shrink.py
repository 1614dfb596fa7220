"""Make a failing input small: halve one dimension after another while it still fails.

An array's name ends in its dimensions, so that a dimension can be halved in all arrays at once.
Packed words and group scales follow the columns they belong to.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

UNNAMED = {"silu": ("TD",), "softmax": ("TD",), "rotate": ("TR", "THR")}
FOLLOWS = {"P": ("L", 8), "G": ("L", 32), "Z": ("R", 2)}
Table = dict[str, Any]


def shrink(op: str, table: Table, fails: Callable[[Table], bool]) -> Table:
    """Halve an input as far as it goes: operation, table, test -> table that still fails."""
    smaller = True
    while smaller:
        smaller = False
        for candidate in candidates(op, table):
            if _fails(fails, candidate):
                table, smaller = candidate, True
                break
    return table


def _fails(fails: Callable[[Table], bool], candidate: Table) -> bool:
    try:
        return fails(candidate)
    except Exception:  # the reference cannot take it: not a smaller case of the same failure
        return False


def candidates(op: str, table: Table) -> Iterator[Table]:
    """List smaller inputs: operation, table -> each with one dimension halved, and simpler ones."""
    for letter, size in sorted(sizes(op, table).items(), key=lambda item: -item[1]):
        if size > 1 and letter not in FOLLOWS:
            for rows in (slice(size // 2), slice(size // 2, size)):
                if not (letter in "LR" and rows.start):
                    yield _cut(op, table, letter, rows)


def sizes(op: str, table: Table) -> dict[str, int]:
    """Read the dimensions of a table: operation, table -> letter to size."""
    found: dict[str, int] = {}
    for name, value in table.items():
        if isinstance(value, np.ndarray):
            found.update(zip(letters(op, name, value.ndim), value.shape, strict=False))
    if "columns" in table:
        found["L"] = int(table["columns"])
    return found


def letters(op: str, name: str, ndim: int) -> str:
    """Read the dimensions in a name: operation, name, how many -> letters, empty if unnamed."""
    head, _, last = name.rpartition("_")
    if head and last.isupper() and len(last) == ndim:
        return last
    return next((known for known in UNNAMED.get(op, ()) if len(known) == ndim), "")


def _cut(op: str, table: Table, letter: str, rows: slice) -> Table:
    cut: Table = {}
    kept = len(range(*rows.indices(sizes(op, table)[letter])))
    for name, value in table.items():
        if isinstance(value, np.ndarray):
            for axis, own in enumerate(letters(op, name, value.ndim)):
                base, per = FOLLOWS.get(own, (own, 1))
                if own == letter:
                    value = value[(slice(None),) * axis + (rows,)]
                elif base == letter and own in FOLLOWS:
                    value = value[(slice(None),) * axis + (slice(-(-kept // per)),)]
        elif letter == "L" and name == "columns":
            value = kept
        cut[name] = value
    return cut
