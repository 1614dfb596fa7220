"""Bugs that public software had, planted in our renderer and parser: a named case catches each."""

import dataclasses
import importlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from k2ref.chat.dialect import DIALECTS
from k2ref.chat.lexer import SECTION, TextLexer, Token
from k2ref.chat.render import Piece
from k2ref.chat.reply import Event
from k2ref.errors import InputError
from tests.k2ref.test_chat_parse import CASES, MODES, as_table, output_of
from tests.k2ref.vocabulary import cases

# by name, because the package re-exports functions of the same names
render_module = importlib.import_module("k2ref.chat.render")
parse_module = importlib.import_module("k2ref.chat.parse")
Parser = parse_module.Parser
Patch = pytest.MonkeyPatch


def failing_prompts() -> set[str]:
    """Render every valid prompt of the spec: -> ids of the cases that come out wrong."""
    return {c["id"] for c in cases("prompts") if c["result"] == "valid" and not comes_out(c)}


def comes_out(case: dict[str, Any]) -> bool:
    dialect = DIALECTS[case["dialect"]]
    try:
        prompt = render_module.render(
            case["messages"], case.get("tools"), dialect=dialect, **case.get("options", {})
        )
    except InputError:
        return False
    return bool(prompt.text == case["prompt"])


def failing_outputs() -> set[str]:
    """Parse every output of the spec, whole and letter by letter: -> ids of wrong cases."""
    failing = set()
    for case, mode in CASES:
        output = output_of(case, mode)
        for pieces in ([output], list(output) if mode == "text" else [output]):
            parser = Parser(tokenizer=MODES[mode], **case.get("options", {}))
            feed = parser.feed if mode == "text" else parser.feed_ids
            events = [e for piece in pieces for e in feed(piece)] + parser.finish()
            reasoning, content, calls = parse_module.collect(events)
            said = parse_module.Reply(reasoning if parser.thought else None, content, calls)
            found = as_table(said, {})
            if found != {k: v for k, v in case["expected"].items() if k != "counts"}:
                failing.add(case["id"])
    return failing


def change_dialects(patch: Patch, **fields: Any) -> None:
    for name, dialect in list(DIALECTS.items()):
        patch.setitem(DIALECTS, name, dataclasses.replace(dialect, **fields))


def swap_ids(patch: Patch) -> None:
    """Give answers the ids of the calls in their order (llama.cpp's template)."""
    before = render_module.render

    def render(messages: Any, *arguments: Any, **options: Any) -> Any:
        queue: list[str] = []
        changed = []
        for message in messages:
            queue += [call["id"] for call in message.get("tool_calls", [])]
            if message["role"] == "tool":
                message = {**message, "tool_call_id": queue.pop(0)}
            changed.append(message)
        return before(changed, *arguments, **options)

    patch.setattr(render_module, "render", render)


def show_none(patch: Patch) -> None:
    patch.setattr(
        render_module,
        "reasoning_of",
        lambda m: str(m["reasoning_content"]) if "reasoning_content" in m else None,
    )


def keep_second_answer(patch: Patch) -> None:
    """Cut reasoning at the first plain answer instead of the last (a loop without break)."""

    def first_plain(messages: Any) -> int:
        plain = [
            n
            for n, m in enumerate(messages)
            if m["role"] == "assistant" and not m.get("tool_calls")
        ]
        return plain[0] if plain else -1

    patch.setattr(render_module, "_last_plain", first_plain)


def content_as_parts(patch: Patch) -> None:
    before = render_module._content

    def content(value: Any, dialect: Any) -> Iterator[Piece]:
        if value == "":
            yield Piece(str([{"type": "text", "text": ""}]))
        yield from before(value, dialect)

    patch.setattr(render_module, "_content", content)


def rewrite_arguments(patch: Patch) -> None:
    before = render_module._calls

    def calls(given: Any) -> Iterator[Piece]:
        rewritten = []
        for call in given:
            arguments = call["function"]["arguments"]
            value = json.loads(arguments) if isinstance(arguments, str) else arguments
            function = {**call["function"], "arguments": json.dumps(value)}
            rewritten.append({**call, "function": function})
        return before(rewritten)

    patch.setattr(render_module, "_calls", calls)


RENDERING: dict[str, tuple[Callable[[Patch], None], str]] = {
    "generation prompt lost": (
        lambda p: p.setattr(render_module, "_opening", lambda *a: []),
        "thinking-hi",
    ),
    "think prefilled": (lambda p: change_dialects(p, opens_think=True), "thinking-hi"),
    "prefill forgotten": (lambda p: change_dialects(p, opens_think=False), "k25-hi"),
    "no default system message": (lambda p: change_dialects(p, default_system=None), "thinking-hi"),
    "newline behind it lost": (
        lambda p: change_dialects(p, after_default_system=""),
        "instruct-hi",
    ),
    "tools with spaces": (
        lambda p: p.setattr(render_module, "compact", lambda v: json.dumps(v, ensure_ascii=False)),
        "thinking-tool-loop",
    ),
    "letters escaped": (
        lambda p: p.setattr(
            render_module, "compact", lambda v: json.dumps(v, separators=(",", ":"))
        ),
        "thinking-tool-loop",
    ),
    "keys not sorted": (lambda p: change_dialects(p, sort_tool_keys=False), "instruct-tools"),
    "tools as JSON": (lambda p: change_dialects(p, tools="json"), "k25-tools"),
    "reasoning of all turns": (
        lambda p: change_dialects(p, preserve_thinking=True),
        "thinking-history",
    ),
    "no break in the search": (keep_second_answer, "thinking-history"),
    "reasoning of the loop dropped": (
        lambda p: p.setattr(render_module, "reasoning_of", lambda m: None),
        "thinking-tool-loop",
    ),
    "None as text": (show_none, "thinking-reasoning-null"),
    "ids from a queue": (swap_ids, "thinking-parallel-order"),
    "empty content as a list": (content_as_parts, "thinking-content-empty"),
    "arguments written anew": (rewrite_arguments, "thinking-string-arguments"),
}


@pytest.mark.parametrize("bug", RENDERING)
def test_a_bug_of_a_renderer_is_caught(bug: str, monkeypatch: Patch) -> None:
    plant, case = RENDERING[bug]
    plant(monkeypatch)
    assert case in failing_prompts()


def no_holding(patch: Patch) -> None:
    patch.setattr(TextLexer, "_end", lambda self, text, start: len(text))


def strip_text(patch: Patch) -> None:
    before = Parser._say

    def say(self: Any, event: Any) -> Iterator[Event]:
        yield from before(self, type(event)(event.text.strip())) if event.text.strip() else ()

    patch.setattr(Parser, "_say", say)


def swallow_in_reasoning(patch: Patch) -> None:
    before = Parser._reasoning

    def reasoning(self: Any, token: Token) -> Iterator[Event]:
        return before(self, Token(token.text) if token.text == SECTION else token)

    patch.setattr(Parser, "_reasoning", reasoning)


def first_section_only(patch: Patch) -> None:
    before = Parser._section

    def section(self: Any, token: Token) -> Iterator[Event]:
        if token.text == "<|tool_calls_section_end|>":
            self.ended = True
        return before(self, token)

    patch.setattr(Parser, "_section", section)


def every_marker_counts(patch: Patch) -> None:
    before = Parser._open

    def opened(self: Any, token: Token) -> None:
        before(self, token._replace(certain=True))

    patch.setattr(Parser, "_open", opened)


PARSING: dict[str, tuple[Callable[[Patch], None], str]] = {
    "nothing held back": (no_holding, "call"),
    "spaces stripped": (strip_text, "whitespace-kept"),
    "call in reasoning swallowed": (swallow_in_reasoning, "section-inside-reasoning"),
    "first section only": (first_section_only, "two-sections"),
    "any marker is a call": (every_marker_counts, "prose-section"),
    "name up to the first dot": (
        lambda p: p.setattr(parse_module, "call_name", lambda i: i.split(".")[-1].split("-")[0]),
        "hyphen",
    ),
    "stop tokens shown": (lambda p: p.setattr(parse_module, "STOP_NAMES", ()), "guard-after-end"),
    "leaks always calls": (
        lambda p: p.setattr(Parser, "_muted", property(lambda self: False)),
        "leaked-no-section",
    ),
    "cut calls passed on": (
        lambda p: p.setattr(parse_module, "is_json", lambda text: True),
        "cut-in-arguments",
    ),
}


@pytest.mark.parametrize("bug", PARSING)
def test_a_bug_of_a_parser_is_caught(bug: str, monkeypatch: Patch) -> None:
    plant, case = PARSING[bug]
    plant(monkeypatch)
    assert case in failing_outputs()


def test_without_a_bug_nothing_is_caught() -> None:
    assert failing_prompts() == set()
    assert failing_outputs() == set()
