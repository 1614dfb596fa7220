"""Exact edits of a text: all of them or none, line endings kept, and a diff of what changed.

`old` and `new` are written with LF. Where `old` occurs exactly, those places count; otherwise
places that differ only in line endings do, and the new text takes the endings found there. A CR
in `old` or `new` switches the adaptation off: what is given is what is written.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, NamedTuple

from pydantic import Field

from k2tools.results import ToolError, shown
from k2tools.texts import dominant_ending, lines_of, with_endings

NEARBY_LINES = 5_000  # searched for the nearest text after a miss
WHOLE_DIFF_LINES = 20_000  # a longer changed stretch is shown as one hunk
ENDINGS = {"\r\n": "␍␊", "\n": "␊", "\r": "␍"}
NUMBERED = re.compile(r"^\s*\d+\t", re.MULTILINE)


@dataclass(frozen=True)
class Edit:
    old: Annotated[str, Field(description="Exact text, without the line numbers read_file shows.")]
    new: Annotated[str, Field(description="Replacement; empty deletes.")]
    count: Annotated[int, Field(ge=1, description="Occurrences expected and replaced.")] = 1


class Span(NamedTuple):
    """One place where the old text stands."""

    start: int
    end: int


def edited(text: str, edits: Sequence[Edit], name: str) -> str:
    """Apply edits in order, each to the result of the one before: text, edits -> text.

    Raises ToolError that names the edit that failed; then nothing may be written.
    """
    for number, edit in enumerate(edits, 1):
        which = f"edit {number} of {len(edits)}" if len(edits) > 1 else "the edit"
        text = _applied(text, edit, f"{name}: {which}")
    return text


def _applied(text: str, edit: Edit, where: str) -> str:
    if not edit.old:
        raise ToolError(f"{where} has an empty old; give the text to replace, or use write_file")
    if edit.old == edit.new:
        raise ToolError(f"{where} replaces a text by itself; nothing was written")
    spans = _occurrences(text, edit.old)
    if len(spans) != edit.count:
        raise ToolError(f"{where} {_miss(text, edit, spans)}; nothing was written")
    for before, after in pairwise(spans):
        if after.start < before.end:
            raise ToolError(f"{where} has occurrences that overlap; give a longer old")
    for span in reversed(spans):
        text = text[: span.start] + _adapted(text, edit, span) + text[span.end :]
    return text


def _occurrences(text: str, old: str) -> list[Span]:
    """Find where a text stands, overlaps included: exactly, else up to line endings."""
    exact = r"(?<!\r)" if old.startswith("\n") else ""  # never the second half of a CRLF
    found = _spans(exact + re.escape(old), text)
    if found or "\n" not in old or "\r" in old:
        return found
    ending = r"\r" if dominant_ending(text) == "\r" else r"(?:\r\n|(?<!\r)\n)"
    return _spans(ending.join(map(re.escape, old.split("\n"))), text)


def _spans(pattern: str, text: str) -> list[Span]:
    return [Span(*match.span(1)) for match in re.finditer(f"(?=({pattern}))", text)]


def _adapted(text: str, edit: Edit, span: Span) -> str:
    """Give the new text the line ending of the place it goes to."""
    if "\r" in edit.old or "\r" in edit.new:
        return edit.new
    if dominant_ending(text) == "\r":
        return edit.new.replace("\n", "\r")
    place = text[span.start : span.end]
    if "\n" not in place:  # then the line that holds it
        place = text[span.end : text.find("\n", span.end) + 1] or text[: span.start]
    return edit.new.replace("\n", dominant_ending(place))


def _miss(text: str, edit: Edit, spans: list[Span]) -> str:
    """Say why an edit does not apply, with what helps to write a better one."""
    if spans:
        lines = [str(text.count("\n", 0, span.start) + 1) for span in spans[:10]]
        return (
            f"expects {edit.count} and finds {len(spans)}, at line {', '.join(lines)}; "
            f"give more text around it, or count={len(spans)}"
        )
    plain = NUMBERED.sub("", edit.old)
    if plain not in ("", edit.old) and _occurrences(text, plain):
        return "carries the line numbers of read_file; leave them out"
    nearest = _nearest(text, edit.old)
    return f"finds no {shown(edit.old)}" + (f". Nearest text:\n{nearest}\n" if nearest else "")


def _nearest(text: str, old: str) -> str:
    """Find the lines most like the wanted ones: -> a short diff, or nothing."""
    wanted = lines_of(old) or [old]
    anchor = max(wanted, key=lambda line: len(line.strip()))
    lines = lines_of(text)[:NEARBY_LINES]
    squeezed = " ".join(anchor.split())
    best, place = 0.5, -1
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(squeezed[:300])
    for number, line in enumerate(lines):
        matcher.set_seq1(" ".join(line.split())[:300])
        if matcher.real_quick_ratio() > best and matcher.quick_ratio() > best:
            ratio = matcher.ratio()
            if ratio > best:
                best, place = ratio, number
    if place < 0:
        return ""
    start = max(place - wanted.index(anchor), 0)
    found = lines[start : start + len(wanted)]
    if [line.split() for line in found] == [line.split() for line in wanted]:
        note = " (it differs only in spaces)"
    else:
        note = ""
    shown_lines = [f"{number}\t{line}" for number, line in enumerate(found[:12], start + 1)]
    return "\n".join(shown_lines) + note


def diff(before: str, after: str, name: str) -> str:
    """Write a unified diff of two texts, with the endings that changed made visible."""
    old, new = with_endings(before), with_endings(after)
    same = _common_prefix(old, new)
    context = max(same - 3, 0)
    old, new = old[context:], new[context:]
    tail = max(_common_prefix(old[::-1], new[::-1]) - 3, 0)
    old, new = old[: len(old) - tail], new[: len(new) - tail]
    visible = dominant_ending(before)
    header = [f"--- a/{name}", f"+++ b/{name}"]
    return "\n".join(header + [_line(text, visible) for text in _hunks(old, new, context)])


def _hunks(old: list[str], new: list[str], first: int) -> Iterator[str]:
    if len(old) + len(new) > WHOLE_DIFF_LINES:
        groups = [[("replace", 0, len(old), 0, len(new))]]
    else:
        matcher = difflib.SequenceMatcher(None, old, new, autojunk=len(old) > 2_000)
        groups = list(matcher.get_grouped_opcodes(3))
    for group in groups:
        (_, a, _, b, _), (_, _, a_end, _, b_end) = group[0], group[-1]
        yield f"@@ -{_range(a, a_end, first)} +{_range(b, b_end, first)} @@"
        for tag, i, i_end, j, j_end in group:
            if tag == "equal":
                yield from (" " + line for line in old[i:i_end])
            else:
                yield from ("-" + line for line in old[i:i_end])
                yield from ("+" + line for line in new[j:j_end])


def _range(start: int, end: int, first: int) -> str:
    count = end - start
    begin = start + first + (1 if count else 0)
    return f"{begin}" if count == 1 else f"{begin},{count}"


def _line(text: str, usual: str) -> str:
    """Drop a diff line's ending, or show it when it is not the file's usual one."""
    if text.startswith("@@"):
        return text
    ending = next((end for end in ENDINGS if text.endswith(end)), "")
    if not ending:
        return text + "\n\\ No newline at end of file"
    return text[: -len(ending)] + ("" if ending == usual else ENDINGS[ending])


def _common_prefix(a: list[str], b: list[str]) -> int:
    for count, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return count
    return min(len(a), len(b))
