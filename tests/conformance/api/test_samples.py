"""conformance/api/samples.py: rates over requests, with their intervals."""

import json
from pathlib import Path
from typing import Any

import pytest

from conformance.api.exchange import Answer, Budget
from conformance.api.samples import (
    TOOLS,
    Tally,
    argument_problem,
    f1_of,
    judge_samples,
    make_samples,
    read_samples,
    tally,
)
from conformance.api.target import HELLO
from conformance.rates import clopper_pearson
from conformance.results import Result, Verdict
from k2ref.chat import K2_INSTRUCT, K2_THINKING, Dialect
from k2ref.errors import InputError
from tests.conformance.api.scripted import edit_whole, target


def judged(counts: Tally, dialect: Dialect = K2_THINKING) -> dict[str, Result]:
    return {result.case: result for result in judge_samples(counts, dialect)}


def test_a_correct_endpoint_is_shown_right_with_enough_samples() -> None:
    counts = tally(target(), make_samples(80, seed=1))
    assert (counts.asked, counts.triggered, counts.valid, counts.both, counts.either) == (80,) * 5
    results = judged(counts)
    assert results["schema-accuracy"].verdict is Verdict.PASS
    assert results["trigger-similarity"].verdict is Verdict.PASS
    assert results["answered"].verdict is Verdict.INCONCLUSIVE
    assert "more needed" in results["answered"].message


def test_few_samples_decide_nothing() -> None:
    results = judged(tally(target(), make_samples(10)))
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
    assert judged(counts)["schema-accuracy"].verdict is Verdict.FAIL


def test_a_model_that_never_calls_is_no_schema_failure() -> None:
    samples = [{**s, "messages": [{"role": "user", "content": "hi"}]} for s in make_samples(40)]
    results = judged(tally(target(), samples))
    assert results["schema-accuracy"].verdict is Verdict.INCONCLUSIVE
    assert results["trigger-similarity"].verdict is Verdict.FAIL
    assert results["trigger-similarity"].message.startswith(
        "F1 0.0000, 95 % interval 0.0000 to 0.1619, from J: 0 of 40"
    )


@pytest.mark.parametrize(("tp", "wrong"), [(0, 7), (3, 1), (40, 22), (500, 100), (9, 0)])
def test_f1_is_that_of_the_vendor_verifier_and_so_are_the_ends_of_its_interval(
    tp: int, wrong: int
) -> None:
    f1 = 2 * tp / (2 * tp + wrong)  # harmonic mean of precision and recall
    assert f1_of(tp / (tp + wrong)) == pytest.approx(f1)
    (result,) = (
        r
        for r in judge_samples(Tally(both=tp, either=tp + wrong), K2_THINKING)
        if r.case == "trigger-similarity"
    )
    low, high = map(f1_of, clopper_pearson(tp, tp + wrong))
    assert f"F1 {f1:.4f}, 95 % interval {low:.4f} to {high:.4f}" in result.message
    wanted = Verdict.PASS if low >= 0.73 else Verdict.FAIL if high < 0.73 else None
    assert result.verdict is (wanted or Verdict.INCONCLUSIVE)


def test_requests_that_nobody_would_answer_with_a_call_prove_nothing() -> None:
    hello = [{"messages": HELLO, "tools": TOOLS, "finish_reason": "stop"}] * 50
    results = judged(tally(target(), hello))
    assert results["trigger-similarity"].verdict is Verdict.INCONCLUSIVE


def test_k2_instruct_has_a_stricter_reference() -> None:
    counts = Tally(both=680, either=1000)  # F1 0.81
    verdicts = [judged(counts, d)["trigger-similarity"].verdict for d in (K2_THINKING, K2_INSTRUCT)]
    assert verdicts == [Verdict.PASS, Verdict.INCONCLUSIVE]


def test_an_answer_counts_once_and_by_its_finish_reason() -> None:
    def twice(body: dict[str, Any]) -> None:
        calls = body["choices"][0]["message"]["tool_calls"]
        calls += [calls[0] | {"function": {"name": "get_time", "arguments": "{}"}}]

    counts = tally(target(after=edit_whole(twice)), make_samples(3))
    assert (counts.triggered, counts.valid) == (3, 0)

    def stop(body: dict[str, Any]) -> None:
        body["choices"][0]["finish_reason"] = "stop"

    counts = tally(target(after=edit_whole(stop)), make_samples(3))
    assert (counts.triggered, counts.both, counts.either) == (0, 0, 3)

    def empty(body: dict[str, Any]) -> None:
        del body["choices"][0]["message"]["tool_calls"]

    counts = tally(target(after=edit_whole(empty)), make_samples(3))
    assert (counts.triggered, counts.valid) == (3, 0)
    assert counts.first_problem == "finish_reason is tool_calls, but there is no call"


def test_refusals_count_and_a_budget_ends_the_run() -> None:
    broken = target()
    broken.exchange.transport = lambda *a: Answer(500, "", "out of memory")
    counts = tally(broken, make_samples(5))
    assert (counts.asked, counts.failures) == (5, 5)
    assert "HTTP 500: out of memory" in counts.first_failure
    results = judged(counts)
    assert "out of memory" in results["answered"].message
    assert results["schema-accuracy"].message == "nothing was counted"
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
    for text in ('{"messages": []}', "[]", '{"messages": [], "tools": [1]}', '{"request": 1}'):
        path.write_text(text + "\n")
        with pytest.raises(InputError, match="line 1: wanted a JSON object with messages and tool"):
            read_samples(path)


def test_results_of_the_vendor_verifier_are_samples_too(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    messages = [{"role": "_input", "content": "x"}, {"role": "user", "content": "y"}]
    line = {"request": {"messages": messages, "tools": TOOLS}, "finish_reason": "stop"}
    path.write_text(json.dumps(line) + "\n")
    (sample,) = read_samples(path)
    assert [m["role"] for m in sample["messages"]] == ["system", "user"]
    assert (sample["tools"], sample["finish_reason"]) == (TOOLS, "stop")
