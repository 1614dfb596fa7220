"""What the model sees of a long history.

K2-Thinking's published rule: when tool outputs push the prompt beyond the window, hide all earlier
outputs. Reasoning is never touched. The last few outputs stay, an output shorter than its
placeholder stays, and the placeholder names the ref under which the output can be read again.
Only the view is edited; the history keeps everything. What was hidden once stays hidden, so that
the prompt keeps its prefix.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from conformance.agent.messages import Message
from conformance.agent.toolbox import ref_of

CHARS_PER_TOKEN = 4


def placeholder(text: str) -> str:
    """Word what stands in for a hidden output."""
    ref = ref_of(text)
    if ref:
        return f'[output hidden to save context; read it again with open(id="{ref}")]'
    return "[output hidden to save context; send the call again if you need it]"


def estimate(message: Message) -> int:
    """Estimate the tokens of a message."""
    return len(json.dumps(message, ensure_ascii=False)) // CHARS_PER_TOKEN + 4


@dataclass
class View:
    """The edited view of one history, with a running token count."""

    window: int
    keep_last: int = 3
    exclude: Sequence[str] = ("notes",)
    hidden: set[int] = field(default_factory=set)
    _seen: list[Message] = field(default_factory=list)
    _names: dict[str, str] = field(default_factory=dict)
    _tokens: int = 0
    _scale: float = 1.0

    def of(self, history: Sequence[Message], reserve: int = 0) -> tuple[Message, ...]:
        """Return what to send, after hiding old outputs if the window asks for it."""
        for message in history[len(self._seen) :]:
            self._add(message)
        if self.tokens + reserve > self.window:
            self._hide_old()
        return tuple(self._seen)

    @property
    def tokens(self) -> int:
        """Tokens of the view, corrected by what the endpoint last counted."""
        return int(self._tokens * self._scale)

    def correct(self, counted: int) -> None:
        """Take over the endpoint's own count of the view just sent."""
        if counted and self._tokens:
            self._scale = counted / self._tokens

    def hide(self, indices: Sequence[int]) -> None:
        """Hide these messages."""
        for index in indices:
            full = self._seen[index]
            short = {**full, "content": self.placeholder(full["content"])}
            self._tokens += estimate(short) - estimate(full)
            self._seen[index] = short
            self.hidden.add(index)

    def placeholder(self, text: str) -> str:
        return placeholder(text)

    def _add(self, message: Message) -> None:
        self._seen.append(message)
        self._tokens += estimate(message)
        for call in message.get("tool_calls") or []:
            self._names[call["id"]] = call["function"]["name"]

    def _hide_old(self) -> None:
        outputs = [i for i, m in enumerate(self._seen) if m["role"] == "tool"]
        unread = sum(i > self._last_assistant() for i in outputs)
        old = outputs[: max(0, len(outputs) - max(self.keep_last, unread))]
        self.hide([i for i in old if self._gains(i)])

    def _last_assistant(self) -> int:
        return max((i for i, m in enumerate(self._seen) if m["role"] == "assistant"), default=-1)

    def _gains(self, index: int) -> bool:
        message = self._seen[index]
        if index in self.hidden or self._names.get(message["tool_call_id"]) in self.exclude:
            return False
        return len(message["content"]) > len(self.placeholder(message["content"]))
