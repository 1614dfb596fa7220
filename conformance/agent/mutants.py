"""Broken drivers: each loses one thing that users of K2 lose in practice, and one check names it.

`kill_table` runs every check on every mutant. A mutant that passes its named check is a hole in
the kit; a right driver that fails one is a false alarm.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from conformance.agent.context import View
from conformance.agent.driver import Driver
from conformance.agent.driver_checks import CHECKS
from conformance.agent.leaks import recovered
from conformance.agent.limits import Repeats, Spent
from conformance.agent.messages import Call, Message, Reply, calls_of, reasoning_of
from conformance.agent.toolbox import Result, ToolCall


class Mutant(NamedTuple):
    """A broken driver, the check that must catch it, and the public case it stands for."""

    name: str
    check: str
    driver: type[Driver]
    seen_in: str


MUTANTS: list[Mutant] = []


def mutant(name: str, check: str, seen_in: str = "") -> Callable[[type[Driver]], type[Driver]]:
    """Register a mutant with the check that must catch it."""

    def register(driver: type[Driver]) -> type[Driver]:
        MUTANTS.append(Mutant(name, check, driver, seen_in))
        return driver

    return register


def _last_changed(driver: Driver, change: Callable[[Message], Message]) -> None:
    driver.run.history[-1] = change(driver.run.history[-1])


def _without(message: Message, *names: str) -> Message:
    return {k: v for k, v in message.items() if k not in names}


@mutant("drop reasoning", "C1 reasoning", "bytedance/deer-flow#3043, anomalyco/opencode#16318")
class DropReasoning(Driver):
    def remember(self, reply: Reply) -> None:
        super().remember(replace(reply, reasoning=None))


@mutant("content as a list of parts", "C1 reasoning", "vLLM blog 2025-10-28")
class ContentParts(Driver):
    def remember(self, reply: Reply) -> None:
        super().remember(reply)
        parts = [{"type": "text", "text": reply.content}]
        _last_changed(self, lambda m: {**m, "content": parts})


@mutant("drop empty reasoning", "C1 reasoning", "MoonshotAI/kimi-cli#2498")
class DropEmptyReasoning(Driver):
    def remember(self, reply: Reply) -> None:
        super().remember(replace(reply, reasoning=reply.reasoning or None))


@mutant("placeholder reasoning", "C1 reasoning", "can1357/oh-my-pi#1483")
class PlaceholderReasoning(Driver):
    def remember(self, reply: Reply) -> None:
        super().remember(replace(reply, reasoning="."))


@mutant("null reasoning", "C1 reasoning", "the template renders <think>None</think>")
class NullReasoning(Driver):
    def remember(self, reply: Reply) -> None:
        super().remember(reply)
        _last_changed(self, lambda m: {**m, "reasoning_content": None})


@mutant("cut reasoning by one character", "C1 reasoning")
class CutReasoning(Driver):
    def remember(self, reply: Reply) -> None:
        super().remember(replace(reply, reasoning=(reply.reasoning or "")[:-1]))


@mutant("rename the reasoning field", "C1 dialect", "vllm-project/vllm#27752, #33402")
class RenameField(Driver):
    def remember(self, reply: Reply) -> None:
        super().remember(replace(reply, reasoning_field="reasoning_content"))


@mutant("fold reasoning into content", "C1 reasoning", "MoonshotAI/Kimi-K2#89")
class FoldReasoning(Driver):
    def remember(self, reply: Reply) -> None:
        text = f"<think>{reply.reasoning}</think>{reply.content}"
        super().remember(replace(reply, content=text))


@mutant("strip </think>", "C1 reasoning", "ai-dynamo/dynamo#9227")
class StripThinkEnd(Driver):
    def remember(self, reply: Reply) -> None:
        super().remember(replace(reply, content=f"{reply.reasoning}{reply.content}"))


@mutant("keep only the last reasoning", "C1 reasoning", "anomalyco/opencode#28542")
class OnlyLastReasoning(Driver):
    def view(self) -> tuple[Message, ...]:
        messages = super().view()
        last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=-1)
        return tuple(
            m if i >= last or reasoning_of(m) is None else _without(m, "reasoning_content")
            for i, m in enumerate(messages)
        )


class _Answers(Driver):
    """A driver whose results are changed by `change` before they go back."""

    def change(self, messages: list[Message]) -> list[Message]:
        return messages

    def answered(self, calls: Sequence[Call], texts: Sequence[str]) -> list[Message]:
        return self.change(super().answered(calls, texts))


@mutant("reorder results", "C2 answers", "ggml-org/llama.cpp K2-Thinking template")
class ReorderResults(_Answers):
    def change(self, messages: list[Message]) -> list[Message]:
        return messages[::-1]


@mutant("drop a result", "C2 answers", "MoonshotAI/kimi-cli#1977")
class DropResult(_Answers):
    def change(self, messages: list[Message]) -> list[Message]:
        return messages[:1]


@mutant("answer twice", "C2 answers")
class AnswerTwice(_Answers):
    def change(self, messages: list[Message]) -> list[Message]:
        return [*messages, messages[-1]]


@mutant("swap ids of results", "C2 answers")
class SwapResultIds(_Answers):
    def change(self, messages: list[Message]) -> list[Message]:
        ids = [m["tool_call_id"] for m in messages][::-1]
        return [{**m, "tool_call_id": i} for m, i in zip(messages, ids, strict=True)]


@mutant("results without their call's id", "C2 answers", "NousResearch/hermes-agent#24328")
class ForeignResultIds(_Answers):
    def change(self, messages: list[Message]) -> list[Message]:
        return [{**m, "tool_call_id": f"call_{i}"} for i, m in enumerate(messages)]


@mutant("the result before", "C7 drift")
class StaleResult(_Answers):
    def change(self, messages: list[Message]) -> list[Message]:
        old = [m for m in self.run.history if m["role"] == "tool"]
        return [{**m, "content": old[-1]["content"]} if old else m for m in messages]


@mutant("cut results silently", "C7 whole")
class CutResults(_Answers):
    def change(self, messages: list[Message]) -> list[Message]:
        return [{**m, "content": m["content"][:500]} for m in messages]


class _Calls(Driver):
    """A driver that changes the calls in its history."""

    def changed(self, calls: list[Call]) -> list[Call]:
        return calls

    def remember(self, reply: Reply) -> None:
        super().remember(replace(reply, calls=tuple(self.changed(list(reply.calls)))))


@mutant("swap ids of calls", "C3 ids")
class SwapCallIds(_Calls):
    def changed(self, calls: list[Call]) -> list[Call]:
        ids = [call.id for call in calls][::-1]
        return [replace(call, id=i) for call, i in zip(calls, ids, strict=True)]


@mutant("ids of its own", "C3 ids", "sgl-project/sglang#25358")
class OwnIds(_Calls):
    def changed(self, calls: list[Call]) -> list[Call]:
        return [replace(c, id=f"call_{len(self.run.calls) + i}") for i, c in enumerate(calls)]


@mutant("count ids per turn", "C3 ids", "sgl-project/sglang#25218")
class IdsPerTurn(_Calls):
    def changed(self, calls: list[Call]) -> list[Call]:
        return [replace(c, id=f"functions.{c.name}:{i}") for i, c in enumerate(calls)]


@mutant("encode arguments twice", "C2 answers", "MoonshotAI/Kimi-K2#26")
class DoubleEncoded(Driver):
    def view(self) -> tuple[Message, ...]:
        return tuple(_twice(m) if m.get("tool_calls") else m for m in super().view())


def _twice(message: Message) -> Message:
    calls = [
        {**c, "function": {**c["function"], "arguments": json.dumps(c["function"]["arguments"])}}
        for c in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


@mutant("write arguments anew", "C6 prompts")
class RewrittenArguments(_Calls):
    def changed(self, calls: list[Call]) -> list[Call]:
        compact = (",", ":")
        return [
            replace(c, arguments=json.dumps(json.loads(c.arguments), separators=compact))
            for c in calls
        ]


@mutant("a clock in the prompt", "C6 prompts")
class ClockInPrompt(Driver):
    def view(self) -> tuple[Message, ...]:
        clock = {"role": "system", "content": f"Step {self.run.spent.replies}."}
        return (clock, *super().view())


@mutant("broken arguments in the history", "C5 malformed")
class RawArguments(Driver):
    def view(self) -> tuple[Message, ...]:
        return tuple(_raw(m) if m.get("tool_calls") else m for m in super().view())


def _raw(message: Message) -> Message:
    calls = [
        {**c, "function": {**c["function"], "arguments": raw}}
        for c, call in zip(message["tool_calls"], calls_of(message), strict=True)
        for raw in [call.parsed().get("invalid_json", call.arguments)]
    ]
    return {**message, "tool_calls": calls}


@mutant("think-only reply into the history", "C5 think-only")
class KeepThinkOnly(Driver):
    def _received(self, reply: Reply) -> Reply:
        reply = super()._received(reply)
        if reply.is_empty:
            self.run.history.append({"role": "assistant", "content": "", "reasoning_content": ""})
        return reply


@mutant("think-only reply ends the run", "C5 think-only")
class ThinkOnlyEnds(Driver):
    def _received(self, reply: Reply) -> Reply:
        reply = super()._received(reply)
        return replace(reply, content="(no answer)") if reply.is_empty else reply


@mutant("execute leaks unasked", "C5 leaks", "vybestack/llxprt-code#749")
class ExecuteLeaks(Driver):
    def _received(self, reply: Reply) -> Reply:
        return recovered(super()._received(reply), len(self.run.calls))


@mutant("do not see leaks", "C5 leaks", "cline/cline#12979")
class BlindToLeaks(Driver):
    def _received(self, reply: Reply) -> Reply:
        options = self.options
        self.options = replace(options, recover_leaks=False)
        try:
            return super()._received(reply)
        finally:
            self.options = options


@dataclass
class _NoRef(View):
    def placeholder(self, text: str) -> str:
        return "[output hidden to save context]"


@dataclass
class _HidesUnread(View):
    def _gains(self, index: int) -> bool:
        return index not in self.hidden

    def _hide_old(self) -> None:
        self.hide([i for i, m in enumerate(self._seen) if m["role"] == "tool" and self._gains(i)])


@dataclass
class _HidesReasoning(View):
    def _hide_old(self) -> None:
        super()._hide_old()
        for index in range(self._last_assistant()):
            if self._seen[index]["role"] == "assistant":
                self._seen[index] = _without(self._seen[index], "reasoning_content")


class _Sight(Driver):
    """A driver with another view."""

    sight_class: type[View] = View

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sight = self.sight_class(self.options.limits.window, self.options.keep_last)


@mutant("hide without ref", "C7 hidden")
class HideWithoutRef(_Sight):
    sight_class = _NoRef


@mutant("hide what is not read yet", "C7 whole")
class HideUnread(_Sight):
    sight_class = _HidesUnread


@mutant("hide reasoning too", "C7 hidden", "UKGovernmentBEIS/inspect_ai#3137")
class HideReasoning(_Sight):
    sight_class = _HidesReasoning


@mutant("hide in the history itself", "C7 whole")
class HideForGood(Driver):
    def view(self) -> tuple[Message, ...]:
        self.run.history = list(super().view())
        return tuple(self.run.history)


@mutant("execute twice on resume", "S7 resume")
class TwiceOnResume(Driver):
    def lost(self, call: ToolCall) -> Result | None:
        return None


@mutant("repeat what the log lacks", "S7 resume")
class RepeatUnlogged(Driver):
    def lost(self, call: ToolCall) -> Result | None:
        found = super().lost(call)
        return None if found and found.fault == "lost" else found


@mutant("never execute on resume", "S7 resume")
class NeverOnResume(Driver):
    def lost(self, call: ToolCall) -> Result | None:
        return super().lost(call) or Result("done")


@mutant("forget the last turn on resume", "S7 resume", "MoonshotAI/kimi-code#705")
class ForgetLastTurn(Driver):
    def _act(self, *, resumed: bool = False) -> None:
        if resumed:
            self.run.history.pop()
        else:
            super()._act()


@mutant("ignore the step budget", "D4 budgets")
class NoStepBudget(Driver):
    def _turn(self) -> None:
        self.run.spent.steps = 0
        super()._turn()


class _Free(Spent):
    def exhausted(self, limits: object) -> str:
        return ""


@mutant("ignore the token budget", "D4 budgets")
class NoTokenBudget(Driver):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.run.spent = _Free()


class _Patient(Repeats):
    def see(self, calls: list[Call]) -> int:
        return 1


@mutant("never stop a loop", "D12 loop", "MoonshotAI/kimi-code#3214")
class NeverStopLoop(Driver):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.repeats = _Patient()


@mutant("a small max_tokens", "C4 parameters", "use-kimi-k2-thinking-model guide")
class SmallMaxTokens(Driver):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.model = _capped(self)


def _capped(driver: Driver) -> Callable[..., Reply]:
    model = driver.model
    return lambda request: model(replace(request, max_tokens=4_096))


@mutant("a temperature of its own", "C4 parameters", "MoonshotAI/Kimi-Vendor-Verifier test_params")
class OwnTemperature(Driver):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.options = replace(self.options, temperature=1.5)


class Kill(NamedTuple):
    """One row of the table: the mutant, whether its check caught it, and what it said."""

    mutant: Mutant
    killed: bool
    said: str


def kill_table() -> list[Kill]:
    """Run the named check on each mutant."""
    rows = []
    for each in MUTANTS:
        said = _said(each)
        rows.append(Kill(each, bool(said), said))
    return rows


def _said(each: Mutant) -> str:
    try:
        return CHECKS[each.check](each.driver)
    except (LookupError, ValueError, TypeError) as error:
        return f"the driver broke: {error!r}"
