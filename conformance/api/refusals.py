"""Requests: what must be refused, and what must not."""

from collections.abc import Iterator
from typing import Any

from conformance.api.target import HELLO, Finding, Target, check, judge
from conformance.results import Verdict

ONE = {"max_tokens": 1}
BROKEN: dict[str, Any] = {
    "no-json": "{",
    "no-messages": {"messages": None},
    "messages-text": {"messages": "hi"},
    "role": {"messages": [{"role": "wizard", "content": "hi"}]},
    "temperature": {"temperature": -1},
    "top-p": {"top_p": 7},
    "max-tokens": {"max_tokens": -5},
    "tools-text": {"tools": "get_weather"},
}


@check("api:errors")
def check_broken(target: Target) -> Iterator[Finding]:
    """A wrong request is answered with 400 and a sentence, never with 200 or 5xx."""
    for case, change in BROKEN.items():
        body = change if isinstance(change, str) else target.body(HELLO, **ONE) | change
        if isinstance(body, dict):
            body = {key: value for key, value in body.items() if value is not None}
        answer = target.post(body)
        problems = [] if answer.status in (400, 422) else [f"HTTP {answer.status}"]
        error = answer.json()
        if not problems and not (
            isinstance(error, dict) and {"error", "detail", "message"} & set(error)
        ):
            problems.append("the error has no message")
        yield judge(case, problems)


IMMUTABLE: dict[str, Any] = {
    "temperature": 1.1,
    "top_p": 0.8,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "n": 2,
}


@check("api:immutable-parameters")
def check_immutable(target: Target) -> Iterator[Finding]:
    """Settings that the official endpoint refuses with 400, and self-hosted ones mostly take."""
    taken = [
        f"{name} {value}"
        for name, value in IMMUTABLE.items()
        if target.post(target.body(HELLO, **ONE) | {name: value}).status == 200
    ]
    yield Finding("", Verdict.QUESTION, f"takes {', '.join(taken) or 'none of them'}")
