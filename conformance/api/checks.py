"""Answers: their form, streams, fields, calls, ends and counts, whatever the model says."""

import math
import re
from collections.abc import Iterator
from typing import Any

from conformance.api.completion import Completion, read_whole
from conformance.api.target import ASK_WEATHER, HELLO, WEATHER, Finding, Target, check, judge
from conformance.results import Verdict

FEW_TOKENS = 3


@check("api:models")
def check_models(target: Target) -> Iterator[Finding]:
    """The list of models names the one that is asked for."""
    answer = target.exchange("GET", "/models")
    if answer.status == 404:
        yield Finding("", Verdict.SKIPPED, "no /models")
        return
    body = answer.json()
    models = body.get("data") if isinstance(body, dict) else None
    names = [m.get("id") for m in models if isinstance(m, dict)] if type(models) is list else []
    listed = answer.status == 200 and target.model in names
    yield judge("", [] if listed else [f"HTTP {answer.status}, lists {names}"])


@check("api:reasoning-field")
def check_reasoning(target: Target) -> Iterator[Finding]:
    """Reasoning has a field of its own, streamed or not."""
    if not target.dialect.thinks:
        yield Finding("", Verdict.SKIPPED, f"{target.dialect.name} does not think")
        return
    for case, stream in (("plain", None), ("stream", True)):
        completion = target.chat(HELLO, stream=stream)
        problems = [
            f"{tag} in content" for tag in ("<think>", "</think>") if tag in completion.content
        ]
        if completion.reasoning is None:
            problems.append("neither reasoning_content nor reasoning came")
        if completion.finish == "stop" and not (completion.content or completion.calls):
            problems.append("no content came: it ended in the reasoning, or nowhere")
        yield judge(case, problems)._replace(
            message="; ".join(problems) or f"in {completion.reasoning_field}"
        )


@check("api:thinking-off")
def check_instant(target: Target) -> Iterator[Finding]:
    """Thinking can be turned off, and then nothing of it shows."""
    if not target.dialect.opens_think:
        yield Finding("", Verdict.SKIPPED, f"{target.dialect.name} cannot turn thinking off")
        return
    completion = target.chat(HELLO, chat_template_kwargs={"thinking": False})
    problems = completion.leaks() + (["reasoning came"] if completion.reasoning else [])
    yield judge("", problems + ([] if completion.content else ["no content came"]))


@check("api:no-control-tokens")
def check_markers(target: Target) -> Iterator[Finding]:
    """No marker of the format stands in any field."""
    for case, stream in (("plain", None), ("stream", True)):
        yield judge(case, target.chat(ASK_WEATHER, tools=WEATHER, stream=stream).leaks())


@check("api:stream-form")
def check_stream(target: Target) -> Iterator[Finding]:
    """A stream has order, indices, one finish reason, usage at its end and [DONE]."""
    for case, messages, tools in (("text", HELLO, None), ("tools", ASK_WEATHER, WEATHER)):
        completion = target.chat(messages, tools=tools, stream=True)
        problems = list(completion.problems)
        if completion.usage is None:
            problems.append("no usage, although stream_options asked for it")
        yield judge(case, problems)


@check("api:stream-equals-plain")
def check_chunks(target: Target) -> Iterator[Finding]:
    """Chunks join to the answer that is not streamed."""
    for case, messages, tools in (("text", HELLO, None), ("tools", ASK_WEATHER, WEATHER)):
        first, second = (_said(target.chat(messages, tools=tools)) for _ in range(2))
        streamed = _said(target.chat(messages, tools=tools, stream=True))
        if first != second:
            yield Finding(
                case, Verdict.INCONCLUSIVE, "two equal requests at temperature 0 differ already"
            )
            continue
        differing = [key for key in first if streamed[key] != first[key]]
        yield judge(case, [f"{k}: {streamed[k]!r}, plain {first[k]!r}" for k in differing])


def _said(completion: Completion) -> dict[str, Any]:
    return {
        "content": completion.content,
        "reasoning": completion.reasoning or "",
        "calls": [(c.name, c.arguments) for c in completion.calls],
        "finish_reason": completion.finish,
    }


@check("api:tool-call")
def check_call(target: Target) -> Iterator[Finding]:
    """A call has an id of its own, a declared name, an object of arguments, its finish reason."""
    for case, stream in (("plain", None), ("stream", True)):
        completion = target.chat(ASK_WEATHER, tools=WEATHER, stream=stream)
        leaked = completion.leaks()
        if not completion.calls and not leaked:
            yield Finding(case, Verdict.INCONCLUSIVE, "the model made no call")
            continue
        yield judge(case, [*leaked, *_call_problems(completion)])
        foreign = [c.id for c in completion.calls if not re.search(r":\d+$", c.id)]
        if foreign:
            yield Finding(
                f"{case}-id", Verdict.LOOSE, f"{foreign[0]!r} is not functions.NAME:INDEX"
            )


def _call_problems(completion: Completion) -> Iterator[str]:
    for call in completion.calls:
        try:
            is_object = isinstance(call.value(), dict)
        except ValueError:
            is_object = False
        if not is_object:
            yield f"the arguments are no JSON object: {call.arguments[:80]!r}"
        if call.name != "get_weather":
            yield f"calls {call.name!r}, which was not declared"
    ids = [call.id for call in completion.calls]
    if len(set(ids)) < len(ids):
        yield f"two calls share an id: {ids}"
    if completion.calls and completion.finish != "tool_calls":
        yield f"finish_reason is {completion.finish!r}, not tool_calls"
    if not completion.calls:
        yield "no tool_calls came"


@check("api:round-trip")
def check_next_turn(target: Target) -> Iterator[Finding]:
    """What an endpoint sends is accepted when it comes back, with the answer to each call."""
    messages: list[dict[str, Any]] = list(ASK_WEATHER)
    ids: list[str] = []
    for turn in range(2):
        completion = target.chat(messages, tools=WEATHER)
        if not completion.calls:
            yield Finding("", Verdict.INCONCLUSIVE, f"the model made no call in turn {turn + 1}")
            return
        ids += [call.id for call in completion.calls]
        answers = [
            {"role": "tool", "tool_call_id": c.id, "content": "21 degrees"}
            for c in completion.calls
        ]
        messages += [completion.message(), *answers]
    target.chat(messages, tools=WEATHER)
    yield judge("", [] if len(set(ids)) == len(ids) else [f"ids repeat over the turns: {ids}"])


@check("api:length")
def check_length(target: Target) -> Iterator[Finding]:
    """max_tokens ends an answer, says so, and counts reasoning."""
    completion = target.chat(HELLO, max_tokens=FEW_TOKENS)
    problems = [] if completion.finish == "length" else [f"finish_reason is {completion.finish!r}"]
    used = (completion.usage or {}).get("completion_tokens")
    if used is None or used > FEW_TOKENS:
        problems.append(f"{used} completion_tokens for max_tokens {FEW_TOKENS}")
    yield judge("", problems)


@check("api:stop")
def check_stop(target: Target) -> Iterator[Finding]:
    """A stop text ends the answer and is not part of it."""
    content = target.chat(HELLO).content
    words = re.findall(r"\w{2,}", content)
    if len(words) < 3:
        yield Finding("", Verdict.INCONCLUSIVE, "the answer is too short to be stopped")
        return
    stop = words[len(words) // 2]
    completion = target.chat(HELLO, stop=[stop])
    problems = [f"the answer holds {stop!r}"] if stop in completion.content else []
    if completion.finish != "stop":
        problems.append(f"finish_reason is {completion.finish!r}")
    expected = content[: content.index(stop)]
    if completion.content.rstrip() != expected.rstrip():
        problems.append(f"{completion.content!r} instead of {expected!r}")
    yield judge("", problems)


@check("api:usage")
def check_usage(target: Target) -> Iterator[Finding]:
    """Token counts are there and add up."""
    usage = target.chat(HELLO).usage
    if usage is None:
        yield Finding("", Verdict.FAIL, "no usage")
        return
    prompt, completion, total = (
        usage.get(f"{name}_tokens", 0) for name in ("prompt", "completion", "total")
    )
    adds_up = prompt > 0 and prompt + completion == total
    yield judge("", [] if adds_up else [f"{prompt} + {completion} are counted as {total}"])


@check("api:logprobs")
def check_logprobs(target: Target) -> Iterator[Finding]:
    """At temperature 0 the reported token is the likeliest, and probabilities are some."""
    answer = target.post(target.body(HELLO, logprobs=True, top_logprobs=3))
    if answer.status in (400, 404, 422):
        yield Finding("", Verdict.SKIPPED, f"HTTP {answer.status} for logprobs")
        return
    completion = read_whole(answer)
    if not completion.logprobs:
        yield Finding("", Verdict.SKIPPED, "logprobs are null")
        return
    problems = list(dict.fromkeys(p for e in completion.logprobs for p in _logprob_problems(e)))
    used = (completion.usage or {}).get("completion_tokens")
    if used is not None and not used - 2 <= len(completion.logprobs) <= used:
        problems.append(f"{len(completion.logprobs)} entries for {used} tokens")
    yield judge("", problems[:5])


def _logprob_problems(entry: dict[str, Any]) -> Iterator[str]:
    chosen, top = entry.get("logprob"), [t.get("logprob") for t in entry.get("top_logprobs") or []]
    for value in (chosen, *top):
        if not isinstance(value, int | float) or not value <= 1e-6:  # NaN is neither
            yield f"a logprob is {value}"
            return
    if top and chosen < max(top) - 1e-3:
        yield f"{entry.get('token')!r} has {chosen:.3f}, but {max(top):.3f} was possible"
    if math.fsum(math.exp(value) for value in top) > 1.001:
        yield "the probabilities of one token sum to more than 1"
