"""Globs over relative paths: `**` spans directories, `*` `?` `[…]` stay inside one, `{a,b}` picks.

Matched segment by segment, so that no pattern takes more than (segments x components) steps.
"""

import fnmatch
import re
from collections.abc import Callable

from k2tools.results import ToolError, shown

MAX_ALTERNATIVES = 64


def matcher(glob: str) -> Callable[[str], bool]:
    """Compile a glob: pattern -> does a relative path match."""
    patterns = [_segments(one) for one in _alternatives(glob)]
    return lambda path: any(_matches(p, path.split("/")) for p in patterns)


def _alternatives(glob: str) -> list[str]:
    """Expand braces: 'a.{py,md}' -> ['a.py', 'a.md']."""
    done: list[str] = []
    todo = [glob]
    while todo:
        if len(done) + len(todo) > MAX_ALTERNATIVES:
            raise ToolError(f"glob has more than {MAX_ALTERNATIVES} alternatives: {shown(glob)}")
        current = todo.pop()
        brace = re.search(r"\{([^{}]*,[^{}]*)\}", current)
        if brace is None:
            done.append(current)
        else:
            before, after = current[: brace.start()], current[brace.end() :]
            todo += [before + choice + after for choice in brace[1].split(",")]
    return done


def _segments(glob: str) -> list[re.Pattern[str] | None]:
    """Compile each segment; None stands for `**`."""
    names = [name for name in glob.removeprefix("./").split("/") if name]
    return [None if name == "**" else re.compile(fnmatch.translate(name)) for name in names]


def _matches(segments: list[re.Pattern[str] | None], names: list[str]) -> bool:
    """Advance the set of reachable segments name by name, as a finite automaton does."""
    at = _with_skips({0}, segments)
    for name in names:
        moved = set()
        for index in at:
            if index == len(segments):
                continue
            segment = segments[index]
            if segment is None:
                moved.add(index)
            elif segment.match(name):
                moved.add(index + 1)
        at = _with_skips(moved, segments)
    return len(segments) in at


def _with_skips(at: set[int], segments: list[re.Pattern[str] | None]) -> set[int]:
    """Add what is reachable because `**` may match nothing."""
    reached = set(at)
    for index in range(len(segments)):
        if index in reached and segments[index] is None:
            reached.add(index + 1)
    return reached
