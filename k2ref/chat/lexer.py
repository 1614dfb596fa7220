"""Model output to tokens: runs of text, and markers with how sure they are."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from k2ref.tokenizer import STOP_NAMES, StreamDecoder, Tokenizer

THINK = "<think>"
END_THINK = "</think>"
SECTION = "<|tool_calls_section_begin|>"
END_SECTION = "<|tool_calls_section_end|>"
CALL = "<|tool_call_begin|>"
ARGUMENTS = "<|tool_call_argument_begin|>"
END_CALL = "<|tool_call_end|>"
# Not tokens of any vocabulary, but models and servers write them.
SINGULAR_SECTION = "<|tool_call_section_begin|>"
END_SINGULAR_SECTION = "<|tool_call_section_end|>"

MARKERS = (
    *(THINK, END_THINK, SECTION, END_SECTION, CALL, ARGUMENTS, END_CALL),
    *(SINGULAR_SECTION, END_SINGULAR_SECTION),
    *STOP_NAMES,
)


class Token(NamedTuple):
    """Text, or the letters of a marker."""

    text: str
    marker: bool = False
    certain: bool = False
    """a control token by its id, not only by its letters"""


class TextLexer:
    """Find markers in text that comes in pieces, holding back what may become one."""

    def __init__(self, markers: Sequence[str] = MARKERS) -> None:
        self._pattern = re.compile("|".join(map(re.escape, markers)) or r"(?!)")
        self._prefixes = {marker[:n] for marker in markers for n in range(1, len(marker))}
        self._longest = max(map(len, markers), default=1)
        self._held = ""

    def feed(self, text: str) -> Iterator[Token]:
        """Cut a piece of text: text -> tokens, as far as they are certain to be whole."""
        text, start = self._held + text, 0
        for match in self._pattern.finditer(text):
            if match.start() > start:
                yield Token(text[start : match.start()])
            yield Token(match.group(), marker=True)
            start = match.end()
        end = self._end(text, start)
        self._held = text[end:]
        if end > start:
            yield Token(text[start:end])

    def flush(self) -> Iterator[Token]:
        """Give up waiting: -> what was held back, as text."""
        if self._held:
            yield Token(self._held)
        self._held = ""

    def _end(self, text: str, start: int) -> int:
        """Find where a tail begins that may grow into a marker: text, start -> place."""
        first = max(start, len(text) - self._longest + 1)
        return next((n for n in range(first, len(text)) if text[n:] in self._prefixes), len(text))


class IdLexer:
    """Tell control tokens by their ids; look for letters only of markers that are no tokens.

    Where `<think>` is not in the vocabulary, its letters are all there is.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._decoder = StreamDecoder(tokenizer)
        self._lexer = TextLexer([m for m in (THINK, END_THINK) if m not in tokenizer.special])

    def feed(self, ids: Iterable[int]) -> Iterator[Token]:
        """Decode ids: ids -> tokens."""
        for number in ids:
            text, name = self._decoder.feed(number)
            yield from self._lexer.feed(text)
            if name:
                yield from self._lexer.flush()
                yield Token(name, marker=True, certain=True)

    def flush(self) -> Iterator[Token]:
        """Give up waiting: -> what was held back, as text."""
        yield from self._lexer.feed(self._decoder.flush())
        yield from self._lexer.flush()
