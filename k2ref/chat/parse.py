"""Model output to reasoning, content and tool calls, however the stream is cut.

    reasoning  `</think>` or a section of calls ends it
    content    `<think>` before any text goes back to reasoning; a section of calls ends it
    opening    a section seems to begin: waits until that is certain
    section    between calls; other text is dropped and counted
    header     the id of a call, up to its arguments
    arguments  up to the end of the call or of the section

Output comes as ids or as text. In ids a control token is certain, and the same letters spelled by
other tokens are text. In text the letters are all there is, so a marker counts only where the
grammar can use it: `<|tool_calls_section_begin|>` in prose, without a call behind it, is prose.

A call outside a section is a leak. Leaks are always counted; they become calls only on request.

Events are deltas. How many there are depends on the cuts, what they say does not: `merge` of the
events is the same for every cut. Text is held back only while it may be part of a marker.
"""

from collections.abc import Callable, Iterable, Iterator

from k2ref.chat.lexer import (
    ARGUMENTS,
    CALL,
    END_CALL,
    END_SECTION,
    END_THINK,
    SECTION,
    SINGULAR_SECTION,
    THINK,
    IdLexer,
    TextLexer,
    Token,
)
from k2ref.chat.reply import (
    Arguments,
    CallEnd,
    CallStart,
    Content,
    Counts,
    Event,
    Reasoning,
    Reply,
    collect,
    is_json,
)
from k2ref.chat.wire import call_name
from k2ref.tokenizer import STOP_NAMES, Tokenizer

_LONGEST_HEADER = 256
_OPENERS = (SECTION, SINGULAR_SECTION, CALL)


class Parser:
    """One reply, fed piece by piece: text, or ids where a tokenizer is given."""

    def __init__(
        self,
        *,
        thinking: bool = True,
        recover_leaks: bool = False,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        """Begin a reply. `thinking`: the prompt asked for it, opened `<think>` or not."""
        self.counts = Counts()
        self.thought = thinking
        self._recover = recover_leaks
        self._text = TextLexer()
        self._ids = IdLexer(tokenizer) if tokenizer else None
        self._state: Callable[[Token], Iterator[Event]]
        self._state = self._reasoning if thinking else self._content
        self._said: set[str] = set()  # which fields hold more than spaces
        self.ended = False
        self._stops: list[Token] = []
        self._held: list[Token] = []
        self._back: Callable[[Token], Iterator[Event]] = self._state
        self._header: str | None = None
        self._given: list[str] = []  # the arguments of the running call
        self._blank = True  # nothing but spaces among them
        self._calls = 0
        self._leak = False

    def feed(self, text: str) -> list[Event]:
        """Take a piece of text: text -> events."""
        return [event for token in self._text.feed(text) for event in self._take(token)]

    def feed_ids(self, ids: Iterable[int]) -> list[Event]:
        """Take ids: ids -> events."""
        if self._ids is None:
            raise TypeError("a parser of ids needs a tokenizer: Parser(tokenizer=…)")
        return [event for token in self._ids.feed(ids) for event in self._take(token)]

    def finish(self) -> list[Event]:
        """End the output: -> the last events."""
        rest = [*self._text.flush(), *(self._ids.flush() if self._ids else ())]
        events = [event for token in rest for event in self._take(token)]
        self._stops = []
        if self._state == self._opening:
            events += self._close_opening()
        if self._state == self._header_of_call:
            self.counts.truncated += 1
        if self._state == self._arguments:
            events += self._end_call(complete=self._is_whole())
        self.ended = True
        return events

    def _take(self, token: Token) -> Iterator[Event]:
        if self.ended:
            return
        if token.marker and token.text in STOP_NAMES:
            if token.certain:
                self.ended = True
            else:  # the last thing in the output, or prose
                self._stops.append(token)
            return
        stops, self._stops = self._stops, []
        for stop in stops:
            yield from self._state(Token(stop.text))
        yield from self._state(token)

    def _reasoning(self, token: Token) -> Iterator[Event]:
        if not token.marker:
            yield from self._say(Reasoning(token.text))
        elif token.text == END_THINK:
            self._state = self._content
        elif token.text in _OPENERS:
            self._open(token)
        elif token.text != THINK or "Reasoning" in self._said:
            yield from self._stray(token)

    def _content(self, token: Token) -> Iterator[Event]:
        fresh = "Content" not in self._said
        if not token.marker:
            yield from self._say(Content(token.text))
        elif token.text == THINK and fresh:
            self.thought = True
            self._state = self._reasoning
        elif token.text == END_THINK and fresh:
            self.counts.stray += 1
        elif token.text in _OPENERS:
            self._open(token)
        else:
            yield from self._stray(token)

    def _say(self, event: Reasoning | Content) -> Iterator[Event]:
        if not event.text.isspace():
            self._said.add(type(event).__name__)
        yield event

    def _stray(self, token: Token) -> Iterator[Event]:
        """Count a marker without meaning; letters stay text, a control token is none."""
        self.counts.stray += 1
        if not token.certain:
            yield from self._state(Token(token.text))

    def _open(self, token: Token) -> None:
        if not token.certain:
            self._held, self._back, self._state = [token], self._state, self._opening
            self._header = "" if token.text == CALL else None
        elif token.text == SECTION:
            self._leak, self._state = False, self._section
        else:
            self.counts.leaked += 1
            self._leak = True
            self._begin_header()

    def _begin_header(self) -> None:
        self._header, self._state = "", self._header_of_call

    def _opening(self, token: Token) -> Iterator[Event]:
        self._held.append(token)
        if token.marker:
            if token.text == CALL and (self._header is None or self._held[0].text == SECTION):
                self._header = ""
            elif self._header is not None and token.text == ARGUMENTS:
                yield from self._commit(self._header)
            else:
                yield from self._release()
        elif self._header is not None:
            self._header += token.text
            if len(self._header) > _LONGEST_HEADER:
                yield from self._release()
        elif not token.text.isspace():
            yield from self._release()

    def _commit(self, header: str) -> Iterator[Event]:
        """Decide what stands where a section could open: the header of its first call -> events."""
        self._leak = self._held[0].text != SECTION
        if self._leak and call_name(header) is None:
            yield from self._release()
            return
        self.counts.leaked += self._leak
        if self._leak and not self._recover:
            held, self._held, self._state = self._held, [], self._back
            for token in held:
                yield from self._state(Token(token.text))
            return
        self.counts.malformed += sum(held.text == CALL for held in self._held) - 1
        self._header = header
        yield from self._begin_call()

    def _release(self) -> Iterator[Event]:
        """Take the first held marker for prose, and read on behind it."""
        (first, *rest), self._held, self._state = self._held, [], self._back
        yield from self._stray(first)
        for token in rest:
            yield from self._take(token)

    def _close_opening(self) -> Iterator[Event]:
        if self._held[0].text == SECTION:
            self.counts.truncated += 1
            return
        while self._state == self._opening:
            yield from self._release()

    def _section(self, token: Token) -> Iterator[Event]:
        if not token.marker:
            self.counts.dropped += len("".join(token.text.split()))
        elif token.text == CALL:
            self._begin_header()
        elif token.text not in (SECTION, END_SECTION):
            self.counts.stray += 1
        yield from ()

    def _header_of_call(self, token: Token) -> Iterator[Event]:
        if token.marker and token.text == ARGUMENTS:
            yield from self._begin_call()
            return
        if not token.certain:
            self._header = (self._header or "") + token.text
        ends = token.marker and token.text in (CALL, END_CALL, END_SECTION)
        if ends or len(self._header or "") > _LONGEST_HEADER:
            self.counts.malformed += 1
            self._state = self._section
            if token.text == CALL:
                self._begin_header()

    def _begin_call(self) -> Iterator[Event]:
        call_id = (self._header or "").strip()
        name = call_name(call_id)
        self.counts.malformed += name is None
        self._given, self._blank = [], True
        self._state = self._arguments
        if not self._muted:
            yield CallStart(self._calls, call_id, name, recovered=self._leak)

    @property
    def _muted(self) -> bool:
        return self._leak and not self._recover

    def _arguments(self, token: Token) -> Iterator[Event]:
        if token.marker and token.text in (END_CALL, END_SECTION, CALL):
            yield from self._end_call(complete=token.text != CALL or self._is_whole())
            if token.text == CALL:
                self._begin_header()
        elif token.certain:
            self.counts.stray += 1
        else:
            self._given.append(token.text)
            if self._blank and token.text.isspace():
                return
            text = "".join(self._given) if self._blank else token.text
            self._blank = False
            if not self._muted:
                yield Arguments(self._calls, text)

    def _is_whole(self) -> bool:
        return is_json("".join(self._given))

    def _end_call(self, *, complete: bool) -> Iterator[Event]:
        self.counts.truncated += not complete
        self._state = self._section
        if self._muted:
            return
        if complete and self._blank:
            yield Arguments(self._calls, "{}")  # a call without arguments is still JSON
        yield CallEnd(self._calls, complete)
        self._calls += 1


def parse(
    output: str | Iterable[int],
    *,
    thinking: bool = True,
    recover_leaks: bool = False,
    tokenizer: Tokenizer | None = None,
) -> Reply:
    """Parse a whole reply: text, or ids with their tokenizer -> Reply."""
    parser = Parser(thinking=thinking, recover_leaks=recover_leaks, tokenizer=tokenizer)
    events = parser.feed(output) if isinstance(output, str) else parser.feed_ids(output)
    events += parser.finish()
    reasoning, content, calls = collect(events)
    return Reply(reasoning if parser.thought else None, content, calls, parser.counts)
