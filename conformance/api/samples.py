"""Rates over many requests, with intervals: schema accuracy, and when tools are called at all.

As MoonshotAI/K2-Vendor-Verifier counts them: schema accuracy is the share of triggered calls whose
arguments fit their schema; trigger similarity compares, request by request, whether the endpoint
calls a tool where the reference did. A sample is a JSON line with `messages` and `tools`, and
`finish_reason` of the reference if there is one. Raw answers are kept, nothing is asked again.
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
from conformance.rates import judge_rate
from conformance.results import Agreement, Result, Verdict
from k2ref.errors import InputError

SCHEMA_TARGET = 0.95
TRIGGER_TARGET = 0.73  # what the vendor verifier asks of K2-Thinking


@dataclass
class Tally:
    """What was counted."""

    asked: int = 0
    calls: int = 0
    valid: int = 0
    compared: int = 0
    alike: int = 0
    both: int = 0
    only_one: int = 0
    failures: int = 0
    stopped: str = ""
    first_problem: str = ""

    @property
    def f1(self) -> float:
        """The F1 score of triggering, the reference taken for the truth."""
        return 2 * self.both / (2 * self.both + self.only_one) if self.both else 0.0


def read_samples(path: Path) -> list[dict[str, Any]]:
    """Read samples: path -> samples.

    Raises:
        InputError: a line that is no sample.
    """
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            sample = json.loads(line)
            named = all(isinstance(tool["function"]["name"], str) for tool in sample["tools"])
            if not named or not isinstance(sample["messages"], list):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{path}, line {number}: wanted a JSON object with messages and tools"
            ) from None
        samples.append(sample)
    return samples


def make_samples(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Make requests that want one call of one of four tools: number -> samples."""
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
            counts.first_problem = counts.first_problem or str(error)
            continue
        counts.asked += 1
        _count(counts, sample, completion)
    return counts


def _count(counts: Tally, sample: dict[str, Any], completion: Completion) -> None:
    for call in completion.calls:
        counts.calls += 1
        problem = argument_problem(call.name, call.arguments, sample["tools"])
        counts.valid += not problem
        counts.first_problem = counts.first_problem or problem
    if reference := sample.get("finish_reason"):
        here, there = bool(completion.calls), reference == "tool_calls"
        counts.compared += 1
        counts.alike += here == there
        counts.both += here and there
        counts.only_one += here != there


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


def judge_samples(counts: Tally) -> Iterator[Result]:
    """Judge the rates: counts -> results."""
    parts = [
        ("schema-accuracy", counts.valid, counts.calls, SCHEMA_TARGET, counts.first_problem),
        (
            "trigger-similarity",
            counts.alike,
            counts.compared,
            TRIGGER_TARGET,
            f"F1 {counts.f1:.3f}",
        ),
        ("answered", counts.asked - counts.failures, counts.asked, 0.99, counts.first_problem),
    ]
    for name, successes, trials, target, detail in parts:
        agreement = _judge(successes, trials, target)
        message = "; ".join(filter(None, [agreement.message, detail, counts.stopped]))
        yield Result(name, f"api:{name}", "L6", agreement.verdict).agreeing(
            agreement._replace(message=message)
        )


def _judge(successes: int, trials: int, target: float) -> Agreement:
    if trials:
        return judge_rate(successes, trials, target)
    return Agreement(Verdict.INCONCLUSIVE, "rate", 0.0, target, message="nothing was counted")
