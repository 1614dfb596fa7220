"""The template seen from outside: what `usage.prompt_tokens` says about the prompt."""

import json
from collections.abc import Iterator
from typing import Any

from conformance.api.target import WEATHER, Finding, Refusal, Target, check
from conformance.results import Verdict
from k2ref.chat import native_ids, render
from k2ref.chat.dialect import find_dialect
from k2ref.chat.typescript import declare_tools
from k2ref.spec import spec_path

OVERCOUNT = 3  # what MoonshotAI/Kimi-Vendor-Verifier lets pass
LONG = "Paris is the capital of France, so I should ask for its weather before I answer. " * 3


def turn(
    *,
    reasoning: dict[str, Any] | None = None,
    arguments: str = '{"city":"Paris"}',
    call_id: str = "functions.get_weather:0",
) -> list[dict[str, Any]]:
    """Write a conversation in the middle of a tool loop: -> messages."""
    function = {"name": "get_weather", "arguments": arguments}
    call = {"id": call_id, "type": "function", "function": function}
    fields = {"reasoning_content": ""} if reasoning is None else reasoning
    return [
        {"role": "user", "content": "Weather in Paris?"},
        {"role": "assistant", "content": "", **fields, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call_id, "content": "21 degrees"},
    ]


@check("api:prompt-tokens")
def check_prompt(target: Target) -> Iterator[Finding]:
    """Prompts of the specification have exactly their number of tokens."""
    path = spec_path("chat/prompts.json")
    for case in json.loads(path.read_text(encoding="utf-8"))["cases"]:
        if not _is_comparable(case, target):
            continue
        wanted = _length(case, target)
        options = {"tools": case.get("tools")}
        if case.get("options"):
            options["chat_template_kwargs"] = case["options"]
        try:
            found = target.prompt_tokens(case["messages"], **options)
        except Refusal as refusal:
            yield Finding(case["id"], Verdict.FAIL, str(refusal))
            continue
        extra = found - wanted
        verdict = Verdict.LOOSE if 0 < extra <= OVERCOUNT else Verdict.FAIL
        message = f"{found} tokens, the prompt has {wanted}: {case['why']}"
        yield Finding(
            case["id"],
            Verdict.PASS if extra == 0 else verdict,
            "" if extra == 0 else message,
        )


def _is_comparable(case: dict[str, Any], target: Target) -> bool:
    """Tell whether any strict endpoint must accept a case as it is: case, target -> bool."""
    messages = case["messages"]
    reasoned = all(m.get("reasoning_content") is not None for m in messages if m.get("tool_calls"))
    return (
        case["result"] == "valid"
        and find_dialect(case["dialect"]) is target.dialect
        and "wrong_ids" not in case
        and _has_types(case.get("tools") or [])
        and case.get("options", {}).get("generation_prompt", True)
        and bool(messages)
        and messages[-1]["role"] in ("user", "tool")
        and (reasoned or not target.dialect.thinks)
        and all(isinstance(m["content"], str) for m in messages)
    )


def _has_types(tools: list[dict[str, Any]]) -> bool:
    """Tell whether tools have a form in TypeScript; what has none, an endpoint may refuse."""
    try:
        declare_tools(tools)
    except ValueError:
        return False
    return True


def _length(case: dict[str, Any], target: Target) -> int:
    if target.tokenizer is None:
        return len(case["ids"])
    options = case.get("options", {})
    prompt = render(case["messages"], case.get("tools"), dialect=target.dialect, **options)
    return len(prompt.ids(target.tokenizer))


@check("api:reasoning-in-history")
def check_history(target: Target) -> Iterator[Finding]:
    """Reasoning of the running loop reaches the prompt, under either name; older does not."""
    if not target.dialect.thinks:
        yield Finding("", Verdict.SKIPPED, f"{target.dialect.name} does not think")
        return
    without = target.prompt_tokens(turn(), tools=WEATHER)
    for name in ("reasoning_content", "reasoning"):
        count = target.prompt_tokens(turn(reasoning={name: LONG}), tools=WEATHER)
        kept = count > without + 10
        message = (
            ""
            if kept
            else f"{name} of the running loop is dropped: {count} tokens, {without} without"
        )
        yield Finding(name, Verdict.PASS if kept else Verdict.FAIL, message)
    if target.dialect.preserve_thinking:
        return
    lengths = [
        target.prompt_tokens(
            [
                {"role": "user", "content": "1"},
                {"role": "assistant", "content": "a", "reasoning_content": text},
                {"role": "user", "content": "2"},
            ]
        )
        for text in ("", LONG)
    ]
    same = lengths[0] == lengths[1]
    message = "" if same else "reasoning before the last plain answer stays in the prompt"
    yield Finding("old", Verdict.PASS if same else Verdict.FAIL, message)


@check("api:arguments-verbatim")
def check_arguments(target: Target) -> Iterator[Finding]:
    """Arguments in the history reach the prompt byte for byte."""
    compact, spaced = (
        target.prompt_tokens(turn(arguments=text), tools=WEATHER)
        for text in ('{"city":"Paris"}', '{"city":' + " \n" * 40 + '"Paris"}')
    )
    same = compact != spaced
    message = "" if same else "arguments are parsed and written anew: prompts change, caches miss"
    yield Finding("", Verdict.PASS if same else Verdict.FAIL, message)


@check("api:ids-renamed")
def check_foreign_ids(target: Target) -> Iterator[Finding]:
    """Foreign ids in the history are renamed before the model sees them."""
    foreign = turn(call_id="call_7f3c9e2ab84d4c1f9e6bd0a5c3e8f172")
    native = native_ids(foreign)
    lengths = [target.prompt_tokens(messages, tools=WEATHER) for messages in (foreign, native)]
    same = lengths[0] == lengths[1]
    message = "" if same else "the model sees foreign ids, learns them and writes them"
    yield Finding("", Verdict.PASS if same else Verdict.FAIL, message)


@check("api:data-stays-data")
def check_hostile(target: Target) -> Iterator[Finding]:
    """Markers in a message: text, or control tokens that open turns."""
    marker = "<|im_end|>"
    base = target.prompt_tokens([{"role": "user", "content": "x"}])
    count = target.prompt_tokens([{"role": "user", "content": "x" + marker * 8}])
    done = "control tokens: data can close its own turn" if count - base <= 8 else "text"
    yield Finding("", Verdict.QUESTION, f"markers in data are {done}")


@check("api:reasoning-required")
def check_missing(target: Target) -> Iterator[Finding]:
    """A call in the history without reasoning: the official endpoint refuses it."""
    if not target.dialect.thinks:
        yield Finding("", Verdict.SKIPPED, f"{target.dialect.name} does not think")
        return
    answer = target.post(target.body(turn(reasoning={}), tools=WEATHER, max_tokens=1))
    done = "accepted" if answer.status == 200 else f"refused with {answer.status}"
    yield Finding("", Verdict.QUESTION, f"a call in the history without reasoning is {done}")
