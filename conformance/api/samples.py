"""Rates over many requests, with intervals: schema accuracy, and when tools are called at all.

As MoonshotAI/K2-Vendor-Verifier counts them. An answer triggers where its finish_reason is
tool_calls. Schema accuracy is the share of those whose calls all fit their schemas. Trigger
similarity is the F1 score of triggering, a reference taken for the truth: with J the share of
requests where both trigger among those where either does, F1 = 2 J / (1 + J), so the exact interval
of J is one of F1.

A sample is a JSON line with `messages` and `tools`, and the reference's `finish_reason` if there is
one; the verifier's lines of results, with these in `request`, are read too. Raw answers are kept,
nothing is asked again.
"""

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped,unused-ignore]
from referencing import Registry
from referencing.exceptions import Unresolvable

from conformance.api.completion import Completion, ToolCall
from conformance.api.exchange import BudgetError, TransportError
from conformance.api.target import Refusal, Target, function
from conformance.rates import clopper_pearson, judge_rate
from conformance.results import Agreement, Result, Verdict
from k2ref.chat import K2_INSTRUCT, Dialect
from k2ref.errors import InputError

SCHEMA_TARGET = 0.95
ANSWERED_TARGET = 0.99


@dataclass
class Tally:
    """What was counted."""

    asked: int = 0
    failures: int = 0
    triggered: int = 0
    valid: int = 0
    both: int = 0
    """requests where endpoint and reference trigger"""
    either: int = 0
    stopped: str = ""
    first_failure: str = ""
    first_problem: str = ""


def f1_of(share: float) -> float:
    """Turn J into F1: share of requests where both trigger among those where either does -> F1."""
    return 2 * share / (1 + share)


def read_samples(path: Path) -> list[dict[str, Any]]:
    """Read samples: path -> samples.

    Raises:
        InputError: a line that is no sample.
    """
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            sample = json.loads(line)
            sample = sample | sample.get("request", {})
            named = all(isinstance(tool["function"]["name"], str) for tool in sample["tools"])
            messages = sample["messages"]
            if not named or not isinstance(messages, list):
                raise TypeError
            roles = {"_input": "system"}  # as the verifier reads its own samples
            sample["messages"] = [m | {"role": roles.get(m["role"], m["role"])} for m in messages]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(
                f"{path}, line {number}: wanted a JSON object with messages and tools"
            ) from None
        samples.append(sample)
    return samples


def make_samples(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Make requests that want one call of a tool: number -> samples."""
    source = random.Random(seed)
    cities = ["Paris", "Rome", "北京", "Zürich", "São Paulo", "Kraków"]
    samples = []
    for _ in range(count):
        city, days, unit = source.choice(cities), source.randint(1, 7), source.choice("CF")
        wanted = f"the weather in {city} for {days} days in degrees {unit}"
        text = f"Use get_forecast to find {wanted}."
        message = {"role": "user", "content": text}
        samples.append({"messages": [message], "tools": TOOLS, "finish_reason": "tool_calls"})
    return samples


TOOLS = [
    function(
        "get_forecast",
        {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
                "unit": {"type": "string", "enum": ["C", "F"]},
            },
            "required": ["city", "days", "unit"],
            "additionalProperties": False,
        },
        "Get a forecast.",
    )
]


def tally(target: Target, samples: Iterable[dict[str, Any]]) -> Tally:
    """Ask every sample once: target, samples -> counts."""
    counts = Tally()
    for sample in samples:
        try:
            completion = target.chat(sample["messages"], tools=sample["tools"], temperature=1.0)
        except BudgetError as error:
            counts.stopped = str(error)
            break
        except (Refusal, TransportError) as error:
            counts.asked += 1
            counts.failures += 1
            counts.first_failure = counts.first_failure or str(error)
            continue
        counts.asked += 1
        _count(counts, sample, completion)
    return counts


def _count(counts: Tally, sample: dict[str, Any], completion: Completion) -> None:
    here = completion.finish == "tool_calls"
    if here:
        problem = _first_problem(completion, sample["tools"])
        counts.triggered += 1
        counts.valid += not problem
        counts.first_problem = counts.first_problem or problem
    if reference := sample.get("finish_reason"):
        there = reference == "tool_calls"
        counts.both += here and there
        counts.either += here or there


def _first_problem(completion: Completion, tools: list[dict[str, Any]]) -> str:
    if not completion.calls:
        return "finish_reason is tool_calls, but there is no call"
    problems = (argument_problem(call.name, call.arguments, tools) for call in completion.calls)
    return next(filter(None, problems), "")


def argument_problem(name: str, arguments: str, tools: Iterable[dict[str, Any]]) -> str:
    """Say what is wrong with a call: name, arguments, tools -> sentence, empty if nothing."""
    declared = {tool["function"]["name"]: tool["function"] for tool in tools}
    if name not in declared:
        return f"{name!r} was not declared"
    try:
        value = ToolCall("", name, arguments).value()
        _validate(value, declared[name].get("parameters") or {})
    except (ValueError, jsonschema.ValidationError) as error:
        return f"{name}: {str(error).splitlines()[0]}"
    except (jsonschema.SchemaError, Unresolvable, RecursionError) as error:
        problem = str(error).splitlines()[0]
        raise InputError(f"the schema of {name} is none: {problem}") from None
    return ""


def _validate(value: Any, schema: dict[str, Any]) -> None:
    """Hold a value against a schema, which may refer to itself but to nothing outside: both."""
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    kind.check_schema(schema)
    kind(schema, registry=Registry()).validate(value)


def judge_samples(counts: Tally, dialect: Dialect) -> Iterator[Result]:
    """Judge the rates: counts, dialect -> results."""
    answered = counts.asked - counts.failures
    parts = [
        ("schema-accuracy", _judge(counts.valid, counts.triggered, SCHEMA_TARGET)),
        ("trigger-similarity", _judge_f1(counts, 0.80 if dialect is K2_INSTRUCT else 0.73)),
        ("answered", _judge(answered, counts.asked, ANSWERED_TARGET)),
    ]
    details = [counts.first_problem, "", counts.first_failure]
    for (name, agreement), detail in zip(parts, details, strict=True):
        message = "; ".join(filter(None, [agreement.message, detail, counts.stopped]))
        yield Result(name, f"api:{name}", "L6", agreement.verdict).agreeing(
            agreement._replace(message=message)
        )


def _judge_f1(counts: Tally, target: float) -> Agreement:
    """Judge the F1 score by the share it is a function of: counts, target of F1 -> Agreement."""
    judged = _judge(counts.both, counts.either, target / (2 - target))
    if not counts.either:
        return judged._replace(limit=target)
    low, high = map(f1_of, clopper_pearson(counts.both, counts.either))
    f1 = f1_of(judged.measure)
    shown = f"F1 {f1:.4f}, 95 % interval {low:.4f} to {high:.4f}, from J: {judged.message}"
    return judged._replace(measure=f1, limit=target, message=shown)


def _judge(successes: int, trials: int, target: float) -> Agreement:
    if trials:
        return judge_rate(successes, trials, target)
    return Agreement(Verdict.INCONCLUSIVE, "rate", 0.0, target, message="nothing was counted")
