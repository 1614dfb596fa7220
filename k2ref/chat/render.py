"""Messages and tools to the exact prompt of a K2 model.

Every message is  marker, role name, <|im_middle|>, body, <|im_end|>  without any separator. Tools
come first, then a system message, of which some dialects bring a default one.

Reasoning is history-dependent. Let A be the last assistant message without tool calls. Messages up
to A render `<think></think>`: their reasoning is gone. Messages behind A, which are the running
tool loop, keep theirs. So inside a loop the prompt only grows, and a new user turn after a plain
answer shortens it.

A prompt is a list of pieces, each either one control token or text. As text they join to what the
model's template prints. As ids, pieces of text are encoded without control tokens, so a tool
result that spells `<|im_end|>` stays data.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from k2ref.chat.dialect import K2_THINKING, Dialect
from k2ref.chat.typescript import declare_tools
from k2ref.chat.wire import Message, check_messages, reasoning_of
from k2ref.errors import InputError
from k2ref.tokenizer import Tokenizer

_MARKERS = {"user": "<|im_user|>", "assistant": "<|im_assistant|>"}


class Piece(NamedTuple):
    """A control token, or text of any origin."""

    text: str
    control: bool = False


@dataclass(frozen=True)
class Prompt:
    """A rendered conversation."""

    pieces: tuple[Piece, ...]

    @property
    def text(self) -> str:
        """The prompt as the model's template prints it."""
        return "".join(piece.text for piece in self.pieces)

    def ids(self, tokenizer: Tokenizer, *, control_in_data: bool = False) -> list[int]:
        """Encode the prompt: tokenizer -> ids.

        With `control_in_data`, markers spelled in messages become control tokens, as they do in
        the official tokenizer; it is unsafe with data of others.
        """
        if control_in_data:
            return tokenizer.encode(self.text, control=True)
        return encode_pieces(self.pieces, tokenizer)


def encode_pieces(pieces: Iterable[Piece], tokenizer: Tokenizer) -> list[int]:
    """Encode control tokens by id and all else as text: pieces -> ids."""
    ids: list[int] = []
    text = ""
    for piece in pieces:
        if piece.control and piece.text in tokenizer.special:
            ids += [*tokenizer.encode(text), tokenizer.special[piece.text]]
            text = ""
        else:  # joined first: `><` of `<think></think>` is one token where they are not registered
            text += piece.text
    return ids + tokenizer.encode(text)


def render(
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    dialect: Dialect = K2_THINKING,
    thinking: bool = True,
    preserve_thinking: bool | None = None,
    generation_prompt: bool = True,
) -> Prompt:
    """Render a conversation: messages, tools -> Prompt.

    `preserve_thinking` (None: the dialect's own rule) keeps the reasoning of all turns.

    Raises:
        InputError: a message that cannot be rendered without guessing.
    """
    check_messages(messages)
    keep = dialect.preserve_thinking if preserve_thinking is None else preserve_thinking
    pieces = [*_declaration(tools or [], dialect)]
    if dialect.default_system and (not messages or messages[0]["role"] != "system"):
        system = {"role": "system", "content": dialect.default_system}
        pieces += [*_message(system, dialect, ""), Piece(dialect.after_default_system)]
    last_plain = -1 if keep else _last_plain(messages)
    silent = dialect.opens_think and not thinking and not keep
    for place, message in enumerate(messages):
        reasoning = "" if place <= last_plain or silent else reasoning_of(message) or ""
        pieces += _message(message, dialect, reasoning)
    if generation_prompt:
        pieces += _opening(dialect, thinking)
    return Prompt(tuple(piece for piece in pieces if piece.text))


def render_reply(
    message: Message, *, dialect: Dialect = K2_THINKING, thinking: bool = True
) -> Prompt:
    """Write what a model says after its generation prompt: an assistant message -> Prompt.

    It is the inverse of the parser, and ends in `<|im_end|>`.
    """
    check_messages([message])
    reasoning = reasoning_of(message) or ""
    if reasoning and not (thinking and dialect.thinks):
        raise InputError("a model that does not think has no reasoning to say")
    body = [piece for piece in _body(message, dialect, reasoning) if piece.text]
    prompted = len(_prefill(dialect, thinking))
    return Prompt((*body[prompted:], Piece("<|im_end|>", True)))


def _last_plain(messages: Sequence[Message]) -> int:
    """Find the last assistant message without tool calls: messages -> place, or -1."""
    for place in range(len(messages) - 1, -1, -1):
        if messages[place]["role"] == "assistant" and not messages[place].get("tool_calls"):
            return place
    return -1


def _declaration(tools: Sequence[Mapping[str, Any]], dialect: Dialect) -> Iterator[Piece]:
    if not tools:
        return
    yield from _heading("<|im_system|>", "tool_declare")
    ordered = sort_keys(list(tools)) if dialect.sort_tool_keys else list(tools)
    declared = typescript(ordered) if dialect.tools == "typescript" else ""
    yield Piece(declared or compact(ordered))
    yield Piece("<|im_end|>", True)


def typescript(tools: Sequence[Mapping[str, Any]]) -> str:
    """Declare tools in TypeScript: tools -> text, empty where the prompt carries them as JSON.

    So the official tokenizer does with schemas that have no such form.
    """
    try:
        return declare_tools(tools)
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def compact(value: Any) -> str:
    """Write JSON without spaces and with all letters as they are: value -> text."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def sort_keys(value: Any) -> Any:
    """Sort the keys of every object, keep the order of every list: value -> value."""
    if isinstance(value, Mapping):
        return {key: sort_keys(value[key]) for key in sorted(value)}
    return [sort_keys(item) for item in value] if isinstance(value, list) else value


def _heading(marker: str, role: str) -> list[Piece]:
    return [Piece(marker, True), Piece(role), Piece("<|im_middle|>", True)]


def _message(message: Message, dialect: Dialect, reasoning: str) -> Iterator[Piece]:
    role = message["role"]
    yield from _heading(_MARKERS.get(role, "<|im_system|>"), message.get("name") or role)
    if role == "tool":
        yield Piece(f"## Return of {message['tool_call_id']}\n")
    yield from _body(message, dialect, reasoning)
    yield Piece("<|im_end|>", True)


def _body(message: Message, dialect: Dialect, reasoning: str) -> Iterator[Piece]:
    if message["role"] == "assistant" and dialect.thinks:
        yield from (Piece("<think>", True), Piece(reasoning), Piece("</think>", True))
    yield from _content(message.get("content"), dialect)
    if message["role"] == "assistant" and message.get("tool_calls"):
        yield from _calls(message["tool_calls"])


def _content(content: Any, dialect: Dialect) -> Iterator[Piece]:
    if content is None or isinstance(content, str):
        yield Piece(content or "")
        return
    for part in content:
        if not isinstance(part, Mapping):
            raise InputError(f"content must be text or a list of parts, got {part!r} in the list")
        if "image_url" in part or part.get("type") == "image":
            yield from (Piece(dialect.media_begin, True), Piece("image"))
            yield from (Piece(f"<|media_{name}|>", True) for name in ("content", "pad", "end"))
            yield Piece("\n")
        elif isinstance(part.get("text"), str):
            yield Piece(part["text"])
        else:
            raise InputError(f"a content part must be text or an image, got {part.get('type')!r}")


def _calls(calls: Sequence[Message]) -> Iterator[Piece]:
    yield Piece("<|tool_calls_section_begin|>", True)
    for call in calls:
        arguments = call["function"]["arguments"]
        if not isinstance(arguments, str):  # with spaces, unlike the tools
            arguments = json.dumps(arguments, ensure_ascii=False)
        yield from (Piece("<|tool_call_begin|>", True), Piece(call["id"]))
        yield from (Piece("<|tool_call_argument_begin|>", True), Piece(arguments))
        yield Piece("<|tool_call_end|>", True)
    yield Piece("<|tool_calls_section_end|>", True)


def _opening(dialect: Dialect, thinking: bool) -> list[Piece]:
    return _heading("<|im_assistant|>", "assistant") + _prefill(dialect, thinking)


def _prefill(dialect: Dialect, thinking: bool) -> list[Piece]:
    """Write what the generation prompt says for the model: -> its first control tokens."""
    if not dialect.opens_think:
        return []
    return [Piece("<think>", True), Piece("</think>", True)][: 1 if thinking else 2]
