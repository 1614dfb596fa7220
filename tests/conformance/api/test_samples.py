"""conformance/api/samples.py: rates over requests, with their intervals."""

import json
from pathlib import Path
from typing import Any

import pytest

from conformance.api.exchange import Answer, Budget
from conformance.api.samples import (
    TOOLS,
    argument_problem,
    judge_samples,
    make_samples,
    read_samples,
    tally,
)
from conformance.results import Verdict
from k2ref.errors import InputError
from tests.conformance.api.scripted import edit_whole, target


def test_a_correct_endpoint_is_shown_right_with_enough_samples() -> None:
    counts = tally(target(), make_samples(80, seed=1))
    assert (counts.asked, counts.calls, counts.valid, counts.alike, counts.f1) == (
        80,
        80,
        80,
        80,
        1,
    )
    results = {r.case: r for r in judge_samples(counts)}
    assert results["schema-accuracy"].verdict is Verdict.PASS
    assert results["trigger-similarity"].verdict is Verdict.PASS
    assert results["answered"].verdict is Verdict.INCONCLUSIVE
    assert "more needed" in results["answered"].message


def test_few_samples_decide_nothing() -> None:
    results = {r.case: r for r in judge_samples(tally(target(), make_samples(10)))}
    assert results["schema-accuracy"].verdict is Verdict.INCONCLUSIVE
    assert results["schema-accuracy"].message.startswith(
        "10 of 10, 95 % interval 0.6915 to 1.0000; "
    )


def wrong_unit(body: dict[str, Any]) -> None:
    for call in body["choices"][0]["message"].get("tool_calls", []):
        call["function"]["arguments"] = call["function"]["arguments"].replace(
            '"days": ', '"days": 1'
        )


def test_arguments_beyond_their_schema_fail() -> None:
    counts = tally(target(after=edit_whole(wrong_unit)), make_samples(40))
    assert counts.valid == 0
    assert "is greater than the maximum of 7" in counts.first_problem
    results = {r.case: r for r in judge_samples(counts)}
    assert results["schema-accuracy"].verdict is Verdict.FAIL


def test_a_model_that_never_calls_is_no_schema_failure() -> None:
    samples = [{**s, "messages": [{"role": "user", "content": "hi"}]} for s in make_samples(40)]
    results = {r.case: r for r in judge_samples(tally(target(), samples))}
    assert results["schema-accuracy"].verdict is Verdict.INCONCLUSIVE
    assert results["trigger-similarity"].verdict is Verdict.FAIL
    assert "F1 0.000" in results["trigger-similarity"].message


def test_refusals_count_and_a_budget_ends_the_run() -> None:
    broken = target()
    broken.exchange.transport = lambda *a: Answer(500, "", "out of memory")
    counts = tally(broken, make_samples(5))
    assert (counts.asked, counts.failures) == (5, 5)
    assert "HTTP 500: out of memory" in counts.first_problem
    short = target()
    short.exchange.budget = Budget(max_requests=2)
    counts = tally(short, make_samples(5))
    assert (counts.asked, counts.stopped) == (2, "2 requests are used up (--max-requests)")


@pytest.mark.parametrize(
    ("name", "arguments", "problem"),
    [
        ("get_forecast", '{"city": "Rome", "days": 3, "unit": "C"}', ""),
        ("get_forecast", '{"city": "Rome"}', "get_forecast: 'days' is a required property"),
        ("get_forecast", '{"city', "get_forecast: "),
        ("get_time", "{}", "'get_time' was not declared"),
    ],
)
def test_what_is_wrong_with_a_call_is_said(name: str, arguments: str, problem: str) -> None:
    found = argument_problem(name, arguments, TOOLS)
    assert found.startswith(problem)
    assert bool(found) == bool(problem)


def test_a_schema_that_is_none_is_the_samples_fault() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": 3}}}]
    with pytest.raises(InputError, match="the schema of f is none"):
        argument_problem("f", "{}", tools)


def test_samples_are_read_from_lines(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text("".join(json.dumps(s) + "\n" for s in make_samples(2)))
    assert read_samples(path) == make_samples(2)
    path.write_text('{"messages": []}\n')
    with pytest.raises(InputError, match="line 1: wanted a JSON object with messages and tools"):
        read_samples(path)
