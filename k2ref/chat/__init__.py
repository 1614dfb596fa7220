"""The chat format: messages to prompts, output to messages, for K2-Instruct to K2.7-Code."""

from k2ref.chat.dialect import DIALECTS, K2_INSTRUCT, K2_THINKING, K25, K27_CODE, Dialect
from k2ref.chat.parse import Parser, parse
from k2ref.chat.render import Piece, Prompt, render, render_reply
from k2ref.chat.reply import Call, Counts, Event, Reply, merge
from k2ref.chat.wire import native_ids

__all__ = [
    "DIALECTS",
    "K2_INSTRUCT",
    "K2_THINKING",
    "K25",
    "K27_CODE",
    "Call",
    "Counts",
    "Dialect",
    "Event",
    "Parser",
    "Piece",
    "Prompt",
    "Reply",
    "merge",
    "native_ids",
    "parse",
    "render",
    "render_reply",
]
