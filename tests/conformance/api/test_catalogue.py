"""Public bugs of servers, planted in the reference endpoint: a named check catches each."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from conformance.api import reply, run
from conformance.api.target import CHECKS, run_checks
from conformance.results import Verdict
from k2ref.chat import K2_THINKING, K25, Dialect, Parser, render
from k2ref.chat.render import Piece, Prompt
from tests.conformance.api.scripted import (
    edit_stream,
    edit_whole,
    endpoint,
    target,
)
from tests.conformance.api.test_checks import WRONG_ANSWERS, WRONG_REQUESTS, WRONG_STREAMS, failing

assert run
Plant = Callable[[pytest.MonkeyPatch], dict[str, Any]]


def rendering(change: Callable[..., Prompt]) -> Plant:
    """Plant a renderer: change(messages, tools, options) -> what it makes of them."""

    def plant(patch: pytest.MonkeyPatch) -> dict[str, Any]:
        patch.setattr(reply, "render", lambda m, t, **options: change(m, t, options))
        return {}

    return plant


def without_generation_prompt(messages: Any, tools: Any, options: Any) -> Prompt:
    return render(messages, tools, **options, generation_prompt=False)


def content_as_parts(messages: Any, tools: Any, options: Any) -> Prompt:
    parts = str([{"type": "text", "text": ""}])
    changed = [{**m, "content": parts} if m.get("content") == "" else m for m in messages]
    return render(changed, tools, **options)


def declaring(write: Callable[[Any], str]) -> Callable[..., Prompt]:
    """Write the declaration of the tools otherwise: write(tools) -> text."""

    def change(messages: Any, tools: Any, options: Any) -> Prompt:
        prompt = render(messages, tools, **options)
        if not tools:
            return prompt
        place = prompt.pieces.index(Piece("tool_declare")) + 2
        pieces = list(prompt.pieces)
        pieces[place] = Piece(write(tools))
        return Prompt(tuple(pieces))

    return change


def keep_all(messages: Any, tools: Any, options: Any) -> Prompt:
    return render(messages, tools, **{**options, "preserve_thinking": True})


def before(change: Callable[[dict[str, Any]], None]) -> Plant:
    """Plant a reader of requests: change(message) for each message."""

    def changed(body: dict[str, Any]) -> dict[str, Any]:
        for message in body["messages"] if isinstance(body.get("messages"), list) else ():
            if isinstance(message, dict):
                change(message)
        return body

    return lambda patch: {"before": changed}


def drop_empty_reasoning(message: dict[str, Any]) -> None:
    if not message.get("reasoning_content", "x"):
        del message["reasoning_content"]


def encode_twice(message: dict[str, Any]) -> None:
    for call in message.get("tool_calls", ()):
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"])


def whole(change: Callable[[dict[str, Any]], None]) -> Plant:
    """Plant a writer of answers: change(message, choice) for what is not streamed."""
    return lambda patch: {"after": edit_whole(lambda body: change(body["choices"][0]))}


def double_encoded(choice: dict[str, Any]) -> None:
    encode_twice(choice["message"])


def arguments_as_object(choice: dict[str, Any]) -> None:
    for call in choice["message"].get("tool_calls", ()):
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])


def call_stays_in_reasoning(choice: dict[str, Any]) -> None:
    for call in choice["message"].pop("tool_calls", ()):
        marked = f"<|tool_calls_section_begin|><|tool_call_begin|>{call['id']}"
        choice["message"]["reasoning_content"] += marked
        choice["finish_reason"] = "stop"


def call_swallowed(choice: dict[str, Any]) -> None:
    if choice["message"].pop("tool_calls", None):
        choice["finish_reason"] = "stop"


def show_turn(choice: dict[str, Any]) -> None:
    choice["message"]["content"] += "<|im_end|><|im_user|>"


def parsing(parser: type[Parser]) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> dict[str, Any]:
        patch.setattr(reply, "Parser", parser)
        return {}

    return plant


class BlindToEnd(Parser):
    """`</think>` was stripped before the parser saw it: all is reasoning."""

    def feed_ids(self, ids: Any) -> Any:
        assert self._ids
        end = self._ids._decoder._tokenizer.special["</think>"]
        return super().feed_ids(n for n in ids if n != end)


class WaitsForOpening(Parser):
    """Reasoning begins only with `<think>`, and the prompt has opened it already."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._state = self._content

    def _content(self, token: Any) -> Iterator[Any]:
        if token.text == "</think>":
            token = token._replace(marker=False)
        return super()._content(token)


class OtherTags(WaitsForOpening):
    """Looks for the tags of an older family."""

    def _content(self, token: Any) -> Iterator[Any]:
        return super()._content(token._replace(marker=token.marker and "think" not in token.text))


class AlwaysThinks(Parser):
    """Thinking off is ignored: the answer goes where thoughts go."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "thinking": True})


def streamed(change: Callable[[dict[str, Any]], None]) -> Plant:
    """Plant a writer of streams: change(delta) for each chunk."""

    def changed(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for chunk in chunks:
            for choice in chunk["choices"]:
                change(choice["delta"])
        return chunks

    return lambda patch: {"after": edit_stream(changed)}


def marker_in_stream(delta: dict[str, Any]) -> None:
    if delta.get("tool_calls"):
        delta["content"] = "<|tool_call_end|>"


def one_index(delta: dict[str, Any]) -> None:
    for call in delta.get("tool_calls", ()):
        call["index"] = 0


def flush_at_1024(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lose what comes behind the first 1,024 characters of arguments."""
    length = 0
    for chunk in chunks:
        for choice in chunk["choices"]:
            for call in choice["delta"].get("tool_calls", ()):
                text = call["function"]["arguments"]
                call["function"]["arguments"] = text[: max(0, 1024 - length)]
                length += len(text)
    return chunks


def leaking(patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Let a grammar start at a call, so that the model never opens a section."""

    def leak(choice: dict[str, Any]) -> None:
        for call in choice["message"].pop("tool_calls", ()):
            marked = f"<|tool_call_begin|>{call['id']}<|tool_call_argument_begin|>"
            choice["message"]["content"] += marked + call["function"]["arguments"]

    return {"after": edit_whole(lambda body: leak(body["choices"][0]))}


class NoHolding(Parser):
    """Letters of an unfinished marker are passed on: a detokenizer's text, not ids."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._text._end = lambda text, start: len(text)  # type: ignore[method-assign]

    def feed_ids(self, ids: Any) -> Any:
        assert self._ids
        tokenizer = self._ids._decoder._tokenizer
        return [
            event for n in ids for letter in tokenizer.decode([n]) for event in self.feed(letter)
        ]


BUGS: dict[str, tuple[Plant, str, Dialect]] = {
    "vLLM blog 2025-10-28: add_generation_prompt lost": (
        rendering(without_generation_prompt),
        "api:prompt-tokens",
        K2_THINKING,
    ),
    "vLLM blog 2025-10-28: empty content as a list": (
        rendering(content_as_parts),
        "api:prompt-tokens",
        K2_THINKING,
    ),
    "ochafik/minja#10: spaces in tools": (
        rendering(declaring(lambda tools: json.dumps(tools, ensure_ascii=False))),
        "api:prompt-tokens",
        K2_THINKING,
    ),
    "huggingface/huggingface.js#1929: letters escaped": (
        rendering(declaring(lambda tools: json.dumps(tools, separators=(",", ":")))),
        "api:prompt-tokens",
        K2_THINKING,
    ),
    "smg-project/smg#1448: no TypeScript": (
        rendering(declaring(lambda tools: json.dumps(tools, separators=(",", ":")))),
        "api:prompt-tokens",
        K25,
    ),
    "llama.cpp's template: reasoning of all turns": (
        rendering(keep_all),
        "api:reasoning-in-history",
        K2_THINKING,
    ),
    "MoonshotAI/kimi-cli#2498: empty reasoning dropped": (
        before(drop_empty_reasoning),
        "api:reasoning-in-history",
        K2_THINKING,
    ),
    "vllm-project/router#115: one field name only": (
        before(lambda message: message.pop("reasoning", None) and None),
        "api:reasoning-in-history",
        K2_THINKING,
    ),
    "MoonshotAI/Kimi-K2#26: arguments of the history encoded twice": (
        before(encode_twice),
        "api:prompt-tokens",
        K2_THINKING,
    ),
    "MoonshotAI/Kimi-K2#26: arguments of the answer encoded twice": (
        whole(double_encoded),
        "api:tool-call",
        K2_THINKING,
    ),
    "arguments as an object": (whole(arguments_as_object), "api:tool-call", K2_THINKING),
    "vllm-project/vllm#33646: a call stays in reasoning": (
        whole(call_stays_in_reasoning),
        "api:no-control-tokens",
        K2_THINKING,
    ),
    "sgl-project/sglang#18199: a call is swallowed": (
        whole(call_swallowed),
        "api:stream-equals-plain",
        K2_THINKING,
    ),
    "pegainfer-project/pegainfer#238: the turn's end is shown": (
        whole(show_turn),
        "api:no-control-tokens",
        K2_THINKING,
    ),
    "ai-dynamo/dynamo#9227: </think> stripped": (
        parsing(BlindToEnd),
        "api:reasoning-field",
        K2_THINKING,
    ),
    "baidu/vLLM-Kunlun#388: the prompt opened <think>": (
        parsing(WaitsForOpening),
        "api:reasoning-field",
        K25,
    ),
    "smg-project/smg#1917: tags of another family": (
        parsing(OtherTags),
        "api:reasoning-field",
        K25,
    ),
    "ikawrakow/ik_llama.cpp#1685: thinking off is ignored": (
        parsing(AlwaysThinks),
        "api:thinking-off",
        K25,
    ),
    "vllm-project/vllm#28543: markers in the stream": (
        streamed(marker_in_stream),
        "api:no-control-tokens",
        K2_THINKING,
    ),
    "markers cut by the stream": (parsing(NoHolding), "api:no-control-tokens", K2_THINKING),
    "sgl-project/sglang#34604: parallel calls merged": (
        streamed(one_index),
        "api:parallel-calls",
        K2_THINKING,
    ),
    "vllm-project/vllm#54701: large arguments flushed at 1,024": (
        lambda patch: {"after": edit_stream(flush_at_1024)},
        "api:tool-arguments",
        K2_THINKING,
    ),
    "mlc-ai/xgrammar#622: calls without a section": (
        leaking,
        "api:no-control-tokens",
        K2_THINKING,
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_public_bug_is_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, requirement, dialect = BUGS[bug]
    honest = target(endpoint(dialect=dialect))
    assert failing(list(run_checks(honest, [requirement]))) == set()
    planted = target(endpoint(dialect=dialect), **plant(monkeypatch))
    assert failing(list(run_checks(planted, [requirement]))) == {requirement}


QUESTIONS = {"api:immutable-parameters", "api:data-stays-data", "api:reasoning-required"}


def test_every_check_fails_for_some_planted_bug() -> None:
    planted = {requirement for _, requirement, _ in BUGS.values()}
    for table in (WRONG_ANSWERS, WRONG_STREAMS, WRONG_REQUESTS):
        planted |= {requirement for _, requirement in table.values()}
    planted.add("api:models")  # test_a_name_that_is_not_listed_is_caught
    assert planted == set(CHECKS) - QUESTIONS


def answers_of(requirement: str, **options: Any) -> list[str]:
    results = list(run_checks(target(**options), [requirement]))
    assert {r.verdict for r in results} == {Verdict.QUESTION}
    return [r.message for r in results]


def test_questions_of_the_specification_are_answered_either_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strict = answers_of("api:reasoning-required")
    assert strict == ["a call in the history without reasoning is refused with 400"]
    (lax,) = answers_of("api:reasoning-required", **before(give_reasoning)(monkeypatch))
    assert lax.endswith("is accepted")
    assert answers_of("api:data-stays-data") == ["markers in data are text"]
    plain = Prompt.ids
    monkeypatch.setattr(Prompt, "ids", lambda p, t: plain(p, t, control_in_data=True))
    (unsafe,) = answers_of("api:data-stays-data")
    assert unsafe == "markers in data are control tokens: data can close its own turn"


def give_reasoning(message: dict[str, Any]) -> None:
    if message.get("tool_calls"):
        message.setdefault("reasoning_content", "")
