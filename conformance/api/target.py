"""An endpoint under test, and how a check reports on it."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from conformance.api.completion import Completion, read_stream, read_whole
from conformance.api.exchange import Answer, BudgetError, Exchange, TransportError, usage_of
from conformance.results import Result, Verdict
from k2ref.chat import K2_THINKING, Dialect
from k2ref.tokenizer import Tokenizer

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "City name"}},
    "required": ["city"],
}


def function(name: str, parameters: Any, description: str = "") -> dict[str, Any]:
    """Declare a tool: name, parameters -> tool."""
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


HELLO = [{"role": "user", "content": "Say hello in one sentence."}]
WEATHER = [function("get_weather", CITY, "Get the weather of a city.")]
ASK_WEATHER = [{"role": "user", "content": "What is the weather in Paris? Use the tool."}]


class Finding(NamedTuple):
    """What a check says about one case."""

    case: str
    verdict: Verdict
    message: str = ""


class Refusal(Exception):
    """The endpoint did not answer a request that a check needs answered."""


@dataclass
class Target:
    """An endpoint, the model behind it, and what is known about that model."""

    exchange: Exchange
    model: str
    dialect: Dialect = K2_THINKING
    tokenizer: Tokenizer | None = None
    """for exact prompt lengths; None stands for the Kimi vocabulary"""
    max_tokens: int = 4096
    extra: dict[str, Any] = field(default_factory=dict)

    def body(self, messages: Sequence[Any], **options: Any) -> dict[str, Any]:
        """Write a request at temperature 0: messages, options -> body."""
        body = {"model": self.model, "messages": list(messages), "temperature": 0}
        body |= {"max_tokens": self.max_tokens} | self.extra
        return body | {name: value for name, value in options.items() if value is not None}

    def post(self, body: Any) -> Answer:
        """Send a body as it is: body -> Answer."""
        return self.exchange("POST", "/chat/completions", body)

    def chat(self, messages: Sequence[Any], **options: Any) -> Completion:
        """Ask, and read the answer: messages, options -> Completion.

        Raises:
            Refusal: another status than 200, or an answer that is no chat completion.
        """
        body = self.body(messages, **options)
        if body.get("stream"):
            body.setdefault("stream_options", {"include_usage": True})
        answer = self.post(body)
        if answer.status != 200:
            raise Refusal(f"HTTP {answer.status}: {answer.body[:200]}")
        if body.get("stream"):
            return read_stream(answer)
        completion = read_whole(answer)
        if completion.problems:
            raise Refusal("; ".join(completion.problems))
        return completion

    def prompt_tokens(self, messages: Sequence[Any], **options: Any) -> int:
        """Ask for one token to learn the length of the prompt: messages -> number.

        Raises:
            Refusal: another status than 200, or an answer without usage.
        """
        answer = self.post(self.body(messages, **{**options, "max_tokens": 1}))
        usage = usage_of(answer)
        if answer.status != 200 or usage is None:
            raise Refusal(f"HTTP {answer.status} without usage.prompt_tokens: {answer.body[:200]}")
        return usage["prompt_tokens"]


Check = Callable[[Target], Iterator[Finding]]
CHECKS: dict[str, list[Check]] = {}


def check(requirement: str) -> Callable[[Check], Check]:
    """Register a check under the requirement it tests: requirement -> decorator."""

    def register(function: Check) -> Check:
        CHECKS.setdefault(requirement, []).append(function)
        return function

    return register


def run_checks(target: Target, only: Sequence[str] = ()) -> Iterator[Result]:
    """Put every check to an endpoint: target -> results."""
    for requirement, functions in CHECKS.items():
        if only and requirement not in only:
            continue
        for function in functions:
            yield from _run(target, requirement, function)


def _run(target: Target, requirement: str, function: Check) -> Iterator[Result]:
    case = function.__name__.removeprefix("check_").replace("_", "-")
    started = time.monotonic()

    def result(finding: Finding) -> Result:
        nonlocal started
        seconds, started = time.monotonic() - started, time.monotonic()
        name = f"{case}-{finding.case}" if finding.case else case
        return Result(
            name,
            requirement,
            "L6",
            finding.verdict,
            finding.message,
            seconds=seconds,
        )

    try:
        for finding in function(target):
            yield result(finding)
    except Refusal as refusal:
        yield result(Finding("", Verdict.FAIL, f"refused: {refusal}"))
    except BudgetError as error:
        yield result(Finding("", Verdict.SKIPPED, str(error)))
    except TransportError as error:
        yield result(Finding("", Verdict.ERRORED, str(error)))


def judge(case: str, problems: Sequence[str]) -> Finding:
    """Say pass without problems, else fail with them: case, problems -> Finding."""
    verdict = Verdict.FAIL if problems else Verdict.PASS
    return Finding(case, verdict, "; ".join(problems))
