"""What a model reads: one compact text block. The only place that shortens text.

A body longer than its cap keeps its head (or head and tail), says what was left out, and ends
with the next call to make; the whole body stays readable behind the ref of the call.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

# What the tokenizers of the family turn into control tokens, wherever it stands in a text.
CONTROL = re.compile(r"<\|(?=\w+\|>)|</?(?=think>)|\[(?=(?:BOS|EOS|EOT|UNK|PAD)\])")

MARK_CHARS = 48  # of a line number before a line and of the note behind its cut


class ToolError(Exception):
    """A refusal or failure that the model should read: what is wrong, the limit, the way out."""


@dataclass(frozen=True)
class Result:
    """What a tool returns when a bare string is not enough."""

    text: str
    data: Any = None  # the same answer as JSON values, for `import k2` inside python
    keep: Literal["head", "ends"] = "head"  # what survives a cut; programs print the end last


def shown(value: object, max_chars: int = 60) -> str:
    """Show a received value in a message, cut so that it cannot flood it."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a number too long to print"
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def cut_line(line: str, max_chars: int) -> str:
    """Cut one line and say how much went; a line cut before, and numbered since, is left."""
    if len(line) <= max_chars + MARK_CHARS:
        return line
    return f"{line[:max_chars]}… [+{len(line) - max_chars} characters]"


def disarmed(text: str) -> str:
    """Break control tokens in data, so that none ends a turn: <|im_end|> -> <| im_end|>."""
    return CONTROL.sub(r"\g<0> ", text)


def numbered(lines: list[str], first: int) -> list[str]:
    """Put the line number before each line: lines, number of the first -> numbered lines."""
    return [f"{number}\t{line}" for number, line in enumerate(lines, first)]


def fitting(lines: list[str], max_chars: int) -> int:
    """Count the leading lines that fit a cap, newlines included; at least one."""
    used = 0
    for count, line in enumerate(lines):
        used += len(line) + 1
        if used > max_chars:
            return max(count, 1)
    return len(lines)


def page(
    lines: list[str], line: int, max_lines: int, *, max_chars: int, line_chars: int = 2_000
) -> tuple[list[str], int]:
    """Take a numbered window that fits: lines, first, count, cap -> lines shown, next line or 0."""
    window = [cut_line(text, line_chars) for text in lines[line - 1 : line - 1 + max_lines]]
    window = numbered(window, line)
    window = window[: fitting(window, max_chars)]
    following = line + len(window)
    return window, following if following <= len(lines) else 0


def shorten(body: str, *, ref: str, max_chars: int, line_chars: int, keep: str = "head") -> str:
    """Cut a body to its cap at line ends; what is left out is named with the call that shows it."""
    lines = [cut_line(line, line_chars) for line in body.split("\n")]
    if sum(map(len, lines)) + len(lines) - 1 <= max_chars:
        return "\n".join(lines)
    room = max_chars - 80  # for the note itself
    if keep == "head":
        head = fitting(lines, room)
        return "\n".join([*lines[:head], f'[more: open(id="{ref}", line={head + 1})]'])
    head = fitting(lines, room // 2)
    tail = fitting(lines[:head:-1], room - room // 2)
    left_out = len(lines) - head - tail
    note = f'[… {left_out} lines left out: open(id="{ref}", line={head + 1})]'
    return "\n".join([*lines[:head], note, *lines[-tail:]])


def sealed(text: str, ref: str, step: str = "") -> str:
    """Put the ref line below a result, with the step when a budget is set."""
    return f"{text}\n[{ref}{step}]" if text else f"[{ref}{step}]"
