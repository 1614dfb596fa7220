"""Endpoints that answer anything: each answer gets a verdict, none ends the run or the budget."""

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.api import run, schemas
from conformance.api.exchange import Answer, Budget, Exchange
from conformance.api.samples import TOOLS, argument_problem
from conformance.api.target import CHECKS, Target, run_checks
from conformance.results import Verdict
from k2ref.chat import parse
from k2ref.errors import InputError
from tests.conformance.api.scripted import After, edit_whole, target

assert run
DEEP = "[" * 100_000
ODD = [None, True, 0, -1, 1.5, "", "x", "<think>", [], {}, [None], [1], [[]], [{}], {"a": 1}]


def change(value: Any, source: random.Random) -> Any:
    """Replace one part of a JSON value by something odd: value -> value."""
    if isinstance(value, dict) and value and source.random() < 0.85:
        key = source.choice(list(value))
        if source.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: change(value[key], source)}
    if isinstance(value, list) and value and source.random() < 0.85:
        place = source.randrange(len(value))
        return [*value[:place], change(value[place], source), *value[place + 1 :]]
    return source.choice(ODD)


def changing(source: random.Random) -> After:
    def after(answer: Answer) -> Answer:
        if answer.content_type != "text/event-stream":
            return replace(answer, body=json.dumps(change(answer.json(), source)))
        chunks = change(answer.events()[0], source)
        given = chunks if isinstance(chunks, list) else [chunks]
        text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in given)
        return replace(answer, body=text + "data: [DONE]\n\n")

    return after


@given(st.sampled_from([*CHECKS]), st.integers(0, 2**32))
def test_an_answer_of_any_shape_gets_a_verdict(requirement: str, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schemas, "GENERATED", 8)
        asked = target(after=changing(random.Random(seed)))
        assert list(run_checks(asked, [requirement]))


@pytest.mark.parametrize("body", [DEEP, "", "null", "data: " + DEEP, '{"choices": []}', "\ufffd"])
@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_a_body_of_any_kind_passes_no_check(body: str, kind: str) -> None:
    asked = Target(Exchange(lambda *a: Answer(200, kind, body)), "k2")
    wanted = ["api:models", "api:usage", "api:stream-form", "api:tool-call", "api:prompt-tokens"]
    results = list(run_checks(asked, wanted))
    failed = {r.requirement for r in results if r.verdict is Verdict.FAIL}
    assert failed == set(wanted)


def test_arguments_nested_without_end_are_no_json() -> None:
    def nest(body: dict[str, Any]) -> None:
        for call in body["choices"][0]["message"].get("tool_calls", ()):
            call["function"]["arguments"] = DEEP

    for requirement in ("api:tool-call", "api:tool-arguments", "api:parallel-calls"):
        results = list(run_checks(target(after=edit_whole(nest)), [requirement]))
        assert Verdict.FAIL in {r.verdict for r in results}
    assert argument_problem("get_forecast", DEEP, TOOLS) == "get_forecast: nested too deep"


def test_a_reply_that_is_cut_inside_deep_arguments_is_still_read() -> None:
    head = "</think><|tool_calls_section_begin|><|tool_call_begin|>functions.f:0"
    reply = parse(f"{head}<|tool_call_argument_begin|>{DEEP}")
    assert (reply.calls[0].arguments, reply.calls[0].complete) == (DEEP, False)


@pytest.mark.parametrize("value", ["NaN", "null", '"-1"', "0.5", "Infinity"])
def test_a_logprob_that_is_none_is_caught(value: str) -> None:
    def spoil(body: dict[str, Any]) -> None:
        for entry in (body["choices"][0].get("logprobs") or {}).get("content", ()):
            entry["top_logprobs"][0]["logprob"] = json.loads(value)

    (result,) = run_checks(target(after=edit_whole(spoil)), ["api:logprobs"])
    assert result.verdict is Verdict.FAIL
    assert "a logprob is" in result.message


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -1_000_000, "completion_tokens": -1_000_000},
        {"prompt_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": 0},
        {"prompt_tokens": 1, "completion_tokens": "none"},
    ],
)
def test_a_usage_that_counts_nothing_costs_the_worst_case(usage: dict[str, Any]) -> None:
    budget = Budget(price_out=1e6)
    exchange = Exchange(lambda *a: Answer(200, "", json.dumps({"usage": usage})), budget)
    exchange("POST", "/x", {"max_completion_tokens": 7, "max_tokens": 5, "n": 2})
    assert budget.cost == 14


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"$ref": "http://127.0.0.1:9/schema"}, "Unresolvable"),
        ({"$ref": "#/$defs/none"}, "PointerToNowhere"),
        ({"$ref": "#"}, "recursion"),
        ({"pattern": "("}, "is not a 'regex'"),
    ],
)
def test_a_schema_of_a_sample_that_cannot_be_used_is_named(
    schema: dict[str, Any], problem: str
) -> None:
    tools = [{"function": {"name": "f", "parameters": schema}}]
    with pytest.raises(InputError, match=rf"the schema of f is none: .*{problem}"):
        argument_problem("f", '"x"', tools)
