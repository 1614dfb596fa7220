"""From generated tokens to a chat completion, whole or in chunks."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from conformance.api.brain import Brain, Step
from conformance.api.request import Ask, Refused
from k2ref.chat import Dialect, Parser, render
from k2ref.chat.reply import Arguments, CallEnd, CallStart, Content, Event, Reasoning
from k2ref.errors import InputError
from k2ref.tokenizer import Tokenizer

Delta = dict[str, Any]


class StopFilter:
    """Cut content before the first of some texts, holding back what may become one."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """Take content: text -> what may be shown."""
        text = self._held + text
        found = [(text.find(stop) + len(stop), text.find(stop)) for stop in self._stops]
        if whole := [(end, start) for end, start in found if start >= 0]:
            self.stopped, self._held = True, ""
            return text[: min(whole)[1]]  # that which ends first, as if fed letter by letter
        tails = range(min(len(text), max(map(len, self._stops), default=1) - 1), 0, -1)
        keep = next((n for n in tails if any(s.startswith(text[-n:]) for s in self._stops)), 0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Give up waiting: -> what was held back."""
        held, self._held = self._held, ""
        return held


@dataclass
class Answering:
    """One completion while it is made: iterate for (delta, logprobs), then read the rest."""

    ask: Ask
    brain: Brain
    tokenizer: Tokenizer
    dialect: Dialect
    reasoning_field: str = "reasoning_content"
    finish: str = "stop"
    prompt_tokens: int = field(init=False)
    completion_tokens: int = 0
    reasoning_tokens: int = 0

    def __post_init__(self) -> None:
        ask = self.ask
        try:
            prompt = render(
                ask.messages,
                ask.tools,
                dialect=self.dialect,
                thinking=ask.thinking,
                preserve_thinking=ask.preserve_thinking,
            )
        except InputError as error:
            raise Refused("messages", str(error)) from None
        self._ids = prompt.ids(self.tokenizer)
        self.prompt_tokens = len(self._ids)
        room = self.brain.context - self.prompt_tokens
        if room < (ask.max_tokens or 1):
            raise Refused(
                "max_tokens",
                f"the prompt has {self.prompt_tokens} tokens and the context {self.brain.context}; "
                f"{ask.max_tokens or 1} more do not fit",
            )
        self._limit = ask.max_tokens or room
        self._parser = Parser(thinking=ask.thinking, tokenizer=self.tokenizer)
        self._filter = StopFilter(ask.stop)
        self._calls = 0
        self._before = sum(len(message.get("tool_calls") or ()) for message in ask.messages)

    def __iter__(self) -> Iterator[tuple[Delta, Any]]:
        steps = self.brain(self._ids, self.ask.sampling, self.ask.top_logprobs or 0)
        for step in steps:
            self.completion_tokens += 1
            yield from self._deltas(self._parser.feed_ids([step.id]), step)
            if self._parser.ended or self._filter.stopped:
                break
            if self.completion_tokens == self._limit:
                self.finish = "length"
                break
        yield from self._deltas(self._parser.finish(), None)
        if held := self._filter.flush():
            yield {"content": held}, None
        if self._calls and self.finish == "stop":
            self.finish = "tool_calls"

    def _deltas(self, events: list[Event], step: Step | None) -> Iterator[tuple[Delta, Any]]:
        logprobs = self._logprobs(step)
        if any(isinstance(event, Reasoning) for event in events):
            self.reasoning_tokens += 1
        for event in events:
            if delta := self._delta(event):
                yield delta, logprobs
                logprobs = None
        if logprobs:
            yield {}, logprobs

    def _delta(self, event: Event) -> Delta:
        match event:
            case Reasoning(text):
                return {self.reasoning_field: text}
            case Content(text):
                shown = "" if self._filter.stopped else self._filter.feed(text)
                return {"content": shown} if shown else {}
            case CallStart(index, call_id, name, _):
                self._calls += 1
                if name:  # ids are unique in the conversation, whatever the model counts
                    call_id = f"functions.{name}:{self._before + index}"
                function = {"name": name or "", "arguments": ""}
                return _call(index, {"id": call_id, "type": "function", "function": function})
            case Arguments(index, text):
                return _call(index, {"function": {"arguments": text}})
            case CallEnd():
                return {}

    def _logprobs(self, step: Step | None) -> Any:
        if step is None or self.ask.top_logprobs is None:
            return None
        top = [self._logprob(*pair) for pair in step.top]
        return {"content": [self._logprob(step.id, step.logprob) | {"top_logprobs": top}]}

    def _logprob(self, number: int, logprob: float) -> dict[str, Any]:
        raw = self.tokenizer.token_bytes(number)
        text = raw.decode("utf-8", "replace")
        return {"token": text, "logprob": logprob, "bytes": list(raw)}

    def usage(self) -> dict[str, Any]:
        """Count the tokens: -> usage."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


def _call(index: int, part: dict[str, Any]) -> Delta:
    return {"tool_calls": [{"index": index, **part}]}


def whole(answering: Answering) -> dict[str, Any]:
    """Join a completion: answering -> the choice of a chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    logprobs: list[Any] = []
    for delta, given in answering:
        logprobs += given["content"] if given else []
        for key, value in delta.items():
            if key == "tool_calls":
                _join_call(message.setdefault(key, []), value[0])
            else:
                message[key] = message.get(key, "") + value
    if answering.ask.thinking:
        message.setdefault(answering.reasoning_field, "")
    choice = {"index": 0, "message": message, "finish_reason": answering.finish}
    return choice | ({"logprobs": {"content": logprobs}} if logprobs else {})


def _join_call(calls: list[dict[str, Any]], part: dict[str, Any]) -> None:
    if part["index"] == len(calls):
        calls.append({k: v for k, v in part.items() if k != "index"})
    else:
        calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
