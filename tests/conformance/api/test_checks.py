"""conformance/api: the checks pass on a correct endpoint, and each fails on one that is wrong."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from conformance.api import run
from conformance.api.exchange import Answer, Budget, BudgetError, TransportError, tokens_of
from conformance.api.target import CHECKS, run_checks
from conformance.results import Result, Verdict
from conformance.spec import requirements
from k2ref.chat import K2_INSTRUCT, K2_THINKING, K25, K27_CODE, Dialect
from tests.conformance.api.scripted import (
    After,
    Before,
    ScriptBrain,
    edit_stream,
    edit_whole,
    endpoint,
    obedient,
    target,
)

assert run  # the checks register with it


def failing(results: list[Result]) -> set[str]:
    return {r.requirement for r in results if r.verdict.failed}


@pytest.mark.parametrize(
    ("dialect", "field"),
    [(K2_INSTRUCT, "reasoning"), (K2_THINKING, "reasoning_content"), (K25, "reasoning")],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_correct_endpoint_passes_every_check(dialect: Dialect, field: str) -> None:
    results = list(run_checks(target(endpoint(dialect=dialect, reasoning_field=field))))
    allowed = (Verdict.PASS, Verdict.SKIPPED, Verdict.QUESTION)
    assert not [(r.case, r.message) for r in results if r.verdict not in allowed]
    assert {r.requirement for r in results} == set(CHECKS)


def test_a_run_asks_no_more_than_its_estimate_says() -> None:
    sizes: list[float] = []
    asked = target(before=lambda body: sizes.append(tokens_of(body)) or body)  # type: ignore[func-returns-value]
    assert list(run_checks(asked))
    assert len(sizes) <= asked.exchange.budget.requests <= run.REQUESTS
    assert sum(sizes) <= run.REQUESTS * run.TOKENS_IN


def test_an_endpoint_that_preserves_thinking_passes() -> None:
    oracle = endpoint(dialect=K27_CODE)
    results = list(run_checks(target(oracle), ["api:reasoning-in-history", "api:prompt-tokens"]))
    assert {r.verdict for r in results} == {Verdict.PASS}


def test_every_requirement_of_the_level_has_a_check() -> None:
    level = {r.id for r in requirements().values() if r.level == "L6"}
    rates = {"api:schema-accuracy", "api:trigger-similarity", "api:answered"}
    assert level == set(CHECKS) | rates


def message_of(body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = body["choices"][0]["message"]
    return found


def leak_call(body: dict[str, Any]) -> None:
    """Leave the call in the content, as a server without the right parser does."""
    message = message_of(body)
    for call in message.pop("tool_calls", []):
        message["content"] += f"<|tool_call_begin|>{call['id']}<|tool_call_argument_begin|>"
        body["choices"][0]["finish_reason"] = "stop"


def think_in_content(body: dict[str, Any]) -> None:
    message = message_of(body)
    message["content"] = (
        f"<think>{message.pop('reasoning_content', '')}</think>{message['content']}"
    )


def drop_reasoning(body: dict[str, Any]) -> None:
    message_of(body).pop("reasoning_content", None)


def finish_stop(body: dict[str, Any]) -> None:
    body["choices"][0]["finish_reason"] = "stop"


def same_ids(body: dict[str, Any]) -> None:
    for call in message_of(body).get("tool_calls", []):
        call["id"] = "functions.get_weather:0"


def broken_arguments(body: dict[str, Any]) -> None:
    for call in message_of(body).get("tool_calls", []):
        call["function"]["arguments"] = call["function"]["arguments"][:-1]


def null_arguments(body: dict[str, Any]) -> None:
    for call in message_of(body).get("tool_calls", []):
        if call["function"]["arguments"] == "{}":
            call["function"]["arguments"] = ""


def other_name(body: dict[str, Any]) -> None:
    for call in message_of(body).get("tool_calls", []):
        call["function"]["name"] = "get_wether"


def twice_the_call(body: dict[str, Any]) -> None:
    message = message_of(body)
    message["tool_calls"] = message.get("tool_calls", []) * 2


def shown_stop(body: dict[str, Any]) -> None:
    message_of(body)["content"] += " friend my good Hello"


def merge_calls(body: dict[str, Any]) -> None:
    calls = message_of(body).get("tool_calls", [])
    if len(calls) == 2:
        calls[0]["function"]["arguments"] += calls[1]["function"]["arguments"]
        calls[1]["function"]["arguments"] = "{"


def no_usage(body: dict[str, Any]) -> None:
    body.pop("usage", None)


def wrong_total(body: dict[str, Any]) -> None:
    body["usage"]["total_tokens"] += 1


def unsorted_logprobs(body: dict[str, Any]) -> None:
    for entry in (body["choices"][0].get("logprobs") or {}).get("content", []):
        entry["logprob"] = -22.1


def positive_logprobs(body: dict[str, Any]) -> None:
    for entry in (body["choices"][0].get("logprobs") or {}).get("content", []):
        entry["logprob"] = 0.5


def add_tokens(number: int) -> Callable[[dict[str, Any]], None]:
    def change(body: dict[str, Any]) -> None:
        body["usage"]["prompt_tokens"] += number
        body["usage"]["total_tokens"] += number

    return change


WRONG_ANSWERS: dict[str, tuple[After, str]] = {
    "calls leak as text": (edit_whole(leak_call), "api:no-control-tokens"),
    "calls leak, tool_calls missing": (edit_whole(leak_call), "api:tool-call"),
    "thoughts in content": (edit_whole(think_in_content), "api:reasoning-field"),
    "reasoning dropped": (edit_whole(drop_reasoning), "api:reasoning-field"),
    "reasoning only streamed": (edit_whole(drop_reasoning), "api:stream-equals-plain"),
    "finish_reason stop": (edit_whole(finish_stop), "api:tool-call"),
    "never length": (edit_whole(finish_stop), "api:length"),
    "ids repeat": (edit_whole(same_ids), "api:parallel-calls"),
    "ids repeat over turns": (edit_whole(same_ids), "api:round-trip"),
    "another name": (edit_whole(other_name), "api:tool-call"),
    "a call twice": (edit_whole(twice_the_call), "api:tool-call"),
    "a stop text shown": (edit_whole(shown_stop), "api:stop"),
    "arguments cut": (edit_whole(broken_arguments), "api:tool-call"),
    "arguments cut when large": (edit_whole(broken_arguments), "api:tool-arguments"),
    "no arguments as empty text": (edit_whole(null_arguments), "api:tool-arguments"),
    "parallel calls merged": (edit_whole(merge_calls), "api:parallel-calls"),
    "no usage": (edit_whole(no_usage), "api:usage"),
    "no usage to count prompts with": (edit_whole(no_usage), "api:prompt-tokens"),
    "wrong total": (edit_whole(wrong_total), "api:usage"),
    "logprob of another token": (edit_whole(unsorted_logprobs), "api:logprobs"),
    "probability above 1": (edit_whole(positive_logprobs), "api:logprobs"),
    "prompt too long": (edit_whole(add_tokens(9)), "api:prompt-tokens"),
    "prompt too short": (edit_whole(add_tokens(-1)), "api:prompt-tokens"),
    "not a completion": (edit_whole(lambda body: body.pop("choices")), "api:reasoning-field"),
}


def without_done(answer: Answer) -> Answer:
    return replace(answer, body=answer.body.replace("data: [DONE]\n\n", ""))


def swap(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*reversed(chunks[1:-2]), *chunks[-2:]]


def no_index(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for chunk in chunks:
        for choice in chunk["choices"]:
            for call in choice["delta"].get("tool_calls", []):
                call.pop("index")
    return chunks


def late_name(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    calls = [c for c in chunks if c["choices"] and c["choices"][0]["delta"].get("tool_calls")]
    if len(calls) > 1:
        first, second = (c["choices"][0]["delta"]["tool_calls"][0] for c in calls[:2])
        second["function"]["name"] = first["function"].pop("name")
    return chunks


def changing(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [chunk | {"id": str(n)} for n, chunk in enumerate(chunks)]


def twice(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*chunks[:-1], chunks[-2], chunks[-1]]


def lost_delta(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return chunks[:2] + chunks[3:]


def error_inside(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"error": {"message": "out of memory"}, "id": chunks[0]["id"]}, *chunks]


WRONG_STREAMS: dict[str, tuple[After, str]] = {
    "no DONE": (without_done, "api:stream-form"),
    "order": (edit_stream(swap), "api:stream-form"),
    "no index": (edit_stream(no_index), "api:stream-form"),
    "name after arguments": (edit_stream(late_name), "api:stream-form"),
    "several ids": (edit_stream(changing), "api:stream-form"),
    "two ends": (edit_stream(twice), "api:stream-form"),
    "no end": (edit_stream(lambda chunks: chunks[:-2]), "api:stream-form"),
    "no usage": (edit_stream(lambda chunks: chunks[:-1]), "api:stream-form"),
    "a delta lost": (edit_stream(lost_delta), "api:stream-equals-plain"),
    "an error inside": (edit_stream(error_inside), "api:stream-form"),
    "not chunks": (edit_stream(lambda chunks: [*chunks, {"choices": [3]}]), "api:stream-form"),
}


@pytest.mark.parametrize("name", [*WRONG_ANSWERS, *WRONG_STREAMS])
def test_a_wrong_answer_is_caught(name: str) -> None:
    after, requirement = (WRONG_ANSWERS | WRONG_STREAMS)[name]
    results = list(run_checks(target(after=after), [requirement]))
    assert failing(results) == {requirement}


def each(body: dict[str, Any], change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    for message in body.get("messages") or []:
        if isinstance(message, dict):
            change(message)
    return body


def drop_field(name: str) -> Before:
    return lambda body: each(body, lambda message: message.pop(name, None) and None)


def blank_reasoning(message: dict[str, Any]) -> None:
    if message.get("tool_calls"):
        message["reasoning_content"] = ""
        message.pop("reasoning", None)


def rewrite_arguments(message: dict[str, Any]) -> None:
    for call in message.get("tool_calls", []):
        function = call["function"]
        function["arguments"] = json.dumps(json.loads(function["arguments"]))


def reasoning_into_content(message: dict[str, Any]) -> None:
    if message.get("reasoning_content") and not message.get("tool_calls"):
        message["content"] += message["reasoning_content"]


def ids_into_content(message: dict[str, Any]) -> None:
    if message.get("role") == "tool":
        message["content"] += message["tool_call_id"]


def no_default(body: dict[str, Any]) -> dict[str, Any]:
    if isinstance(body.get("messages"), list):
        body["messages"] = [{"role": "system", "content": ""}, *body["messages"]]
    return body


def ignore(*fields: str) -> Before:
    return lambda body: {k: v for k, v in body.items() if k not in fields}


def defaults(body: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in body.items() if k in ("model", "max_tokens")}
    return kept | {"max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}


def no_null(body: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(body)
    return {**body, "messages": "refused"} if '"anyOf"' in text else body


WRONG_REQUESTS: dict[str, tuple[Before, str]] = {
    "reasoning of a loop dropped": (lambda b: each(b, blank_reasoning), "api:reasoning-in-history"),
    "old reasoning kept": (lambda b: each(b, reasoning_into_content), "api:reasoning-in-history"),
    "arguments written anew": (lambda b: each(b, rewrite_arguments), "api:arguments-verbatim"),
    "foreign ids kept": (lambda b: each(b, ids_into_content), "api:ids-renamed"),
    "default system message lost": (no_default, "api:prompt-tokens"),
    "stop ignored": (ignore("stop"), "api:stop"),
    "limit ignored": (ignore("max_tokens"), "api:length"),
    "errors swallowed": (defaults, "api:errors"),
    "anyOf refused": (no_null, "api:schemas"),
    "thinking cannot be turned off": (ignore("chat_template_kwargs"), "api:thinking-off"),
}


@pytest.mark.parametrize("name", WRONG_REQUESTS)
def test_a_wrong_reading_of_a_request_is_caught(name: str) -> None:
    before, requirement = WRONG_REQUESTS[name]
    dialect = K25 if requirement == "api:thinking-off" else K2_THINKING
    results = list(run_checks(target(endpoint(dialect=dialect), before=before), [requirement]))
    assert failing(results) == {requirement}


def test_a_name_that_is_not_listed_is_caught() -> None:
    wrong = replace(target(), model="other")
    assert failing(list(run_checks(wrong, ["api:models"]))) == {"api:models"}


def test_settings_that_are_taken_are_named() -> None:
    (result,) = run_checks(target(), ["api:immutable-parameters"])
    assert (result.verdict, result.message) == (Verdict.QUESTION, "takes top_p 0.8")


def test_other_ids_are_loose_and_small_overcounts_too() -> None:
    def foreign(body: dict[str, Any]) -> None:
        for call in message_of(body).get("tool_calls", []):
            call["id"] = "call_1"

    results = list(run_checks(target(after=edit_whole(foreign)), ["api:tool-call"]))
    assert [r.verdict for r in results if r.case == "call-plain-id"] == [Verdict.LOOSE]
    results = list(run_checks(target(after=edit_whole(add_tokens(3))), ["api:prompt-tokens"]))
    assert {r.verdict for r in results} == {Verdict.LOOSE}


def silent(prompt: str) -> dict[str, Any]:
    return {"role": "assistant", "content": "No.", "reasoning_content": "R"}


def test_an_unwilling_model_leaves_calls_open() -> None:
    oracle = endpoint(brain=ScriptBrain(silent))
    wanted = ["api:tool-call", "api:tool-arguments", "api:parallel-calls", "api:round-trip"]
    results = list(run_checks(target(oracle), [*wanted, "api:stop"]))
    assert {r.verdict for r in results} == {Verdict.INCONCLUSIVE}


def test_a_model_that_changes_its_mind_leaves_streams_open() -> None:
    answers = iter(f"Answer {n} of many." for n in range(100))

    def says(prompt: str) -> dict[str, Any]:
        return obedient(prompt) | {"content": next(answers)}

    results = list(
        run_checks(target(endpoint(brain=ScriptBrain(says))), ["api:stream-equals-plain"])
    )
    assert {r.verdict for r in results} == {Verdict.INCONCLUSIVE}


def test_a_model_that_writes_other_arguments_leaves_them_open() -> None:
    def says(prompt: str) -> dict[str, Any]:
        message = obedient(prompt)
        for call in message.get("tool_calls", []):
            call["function"]["arguments"] = '{"payload": 1}'
        return message

    results = list(run_checks(target(endpoint(brain=ScriptBrain(says))), ["api:tool-arguments"]))
    assert Verdict.INCONCLUSIVE in {r.verdict for r in results}


def test_what_is_not_offered_is_skipped() -> None:
    def refuse(method: str, path: str, body: Any) -> Answer:
        return Answer(404, "application/json", '{"error": {"message": "no"}}')

    missing = target()
    missing.exchange.transport = refuse
    results = list(run_checks(missing, ["api:models", "api:logprobs", "api:usage"]))
    assert [r.verdict for r in results] == [Verdict.SKIPPED, Verdict.FAIL, Verdict.SKIPPED]

    def null(body: dict[str, Any]) -> None:
        body["choices"][0]["logprobs"] = None

    results = list(run_checks(target(after=edit_whole(null)), ["api:logprobs"]))
    assert results[0].message == "logprobs are null"


def test_a_budget_that_ends_skips_the_rest_and_a_dead_endpoint_is_an_error() -> None:
    short = target()
    short.exchange.budget = Budget(max_requests=1)
    results = list(run_checks(short, ["api:stream-form"]))
    assert [r.verdict for r in results] == [Verdict.PASS, Verdict.SKIPPED]

    def dead(method: str, path: str, body: Any) -> Answer:
        raise TransportError("connection refused")

    short = target()
    short.exchange.transport = dead
    assert next(run_checks(short, ["api:usage"])).verdict is Verdict.ERRORED
    with pytest.raises(BudgetError, match="--max-requests"):
        Budget(max_requests=0).spend({})
