"""Calls of several shapes. The model must be willing: where it is not, nothing is judged."""

import json
from collections.abc import Iterator
from typing import Any

from conformance.api.completion import Completion
from conformance.api.target import WEATHER, Finding, Target, check, function, judge
from conformance.results import Verdict

ECHO = [
    function(
        "echo",
        {
            "type": "object",
            "properties": {"payload": {"type": "object", "properties": {}}},
            "required": ["payload"],
        },
        "Return the payload unchanged.",
    )
]
NOW = [function("now", {"type": "object", "properties": {}}, "Get the current time.")]
PAYLOADS: dict[str, Any] = {
    "nested": {"a": {"b": [{"c": None}, "}", '"']}, "n": [1, -2.5, True]},
    "unicode": {"city": "北京", "family": "👩\u200d👩\u200d👧", "é": "ß\n\t"},
    "large": {"text": "0123456789" * 130},
}


@check("api:tool-arguments")
def check_echo(target: Target) -> Iterator[Finding]:
    """Arguments arrive as the model wrote them, streamed or not."""
    for case, payload in PAYLOADS.items():
        text = json.dumps(payload, ensure_ascii=False)
        messages = [
            {"role": "user", "content": f"Call echo once with exactly this payload: {text}"}
        ]
        for stream in (None, True):
            name = f"{case}-{'stream' if stream else 'plain'}"
            yield _judge_echo(name, target.chat(messages, tools=ECHO, stream=stream), payload)


def _judge_echo(case: str, completion: Completion, payload: Any) -> Finding:
    if [call.name for call in completion.calls] != ["echo"]:
        return _unwilling(case, completion)
    try:
        given = completion.calls[0].value()
    except ValueError:
        raw = completion.calls[0].arguments
        return judge(case, [f"the arguments are no JSON: {raw[:120]!r}"])
    if given != {"payload": payload}:
        return Finding(case, Verdict.INCONCLUSIVE, "the model wrote other arguments")
    return judge(case, [])


def _unwilling(case: str, completion: Completion) -> Finding:
    """Say that nothing can be judged, unless the answer is broken already: -> Finding."""
    if problems := completion.leaks() + completion.problems:
        return judge(case, problems)
    called = ", ".join(call.name for call in completion.calls) or "nothing"
    return Finding(case, Verdict.INCONCLUSIVE, f"the model called {called}; nothing to judge")


@check("api:tool-arguments")
def check_no_arguments(target: Target) -> Iterator[Finding]:
    """A call without arguments carries an empty object, not an empty text."""
    completion = target.chat([{"role": "user", "content": "Call now once."}], tools=NOW)
    if [call.name for call in completion.calls] != ["now"]:
        yield _unwilling("", completion)
        return
    arguments = completion.calls[0].arguments
    yield judge("", [] if arguments.strip() == "{}" else [f"arguments are {arguments!r}"])


@check("api:parallel-calls")
def check_parallel(target: Target) -> Iterator[Finding]:
    """Two calls of one answer stay two, with ids of their own."""
    text = "Call get_weather for Paris and for Rome, both at once, in one answer."
    for case, stream in (("plain", None), ("stream", True)):
        completion = target.chat([{"role": "user", "content": text}], tools=WEATHER, stream=stream)
        if len(completion.calls) < 2:
            yield _unwilling(case, completion)
            continue
        problems = completion.leaks() + completion.problems
        ids = [call.id for call in completion.calls]
        if len(set(ids)) < len(ids):
            problems.append(f"two calls share an id: {ids}")
        for call in completion.calls:
            try:
                call.value()
            except ValueError:
                problems.append(f"the arguments are no JSON: {call.arguments[:80]!r}")
        yield judge(case, problems)
