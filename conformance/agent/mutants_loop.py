"""Mutants of the loop: bad replies, hiding, resume, budgets, parameters."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from conformance.agent.context import View
from conformance.agent.driver import Driver
from conformance.agent.execution import Executor
from conformance.agent.leaks import recovered
from conformance.agent.limits import Repeats, Spent
from conformance.agent.messages import Call, Message, Reply, calls_of
from conformance.agent.mutants import mutant
from conformance.agent.toolbox import Result, ToolCall


def _without(message: Message, *names: str) -> Message:
    return {k: v for k, v in message.items() if k not in names}


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


class _Sends(Executor):
    def lost(self, call: ToolCall) -> Result | None:
        return None


@mutant("execute twice on resume", "S7 resume")
class TwiceOnResume(Driver):
    executes = _Sends


class _Repeats(Executor):
    def forgotten(self, call: ToolCall) -> Result:
        return self.toolbox.call_all([call._replace(key=call.key[::-1])])[0]


@mutant("repeat what the server cannot know", "S7 resume")
class RepeatUnknown(Driver):
    executes = _Repeats


class _NewKeys(Executor):
    def key(self, number: int) -> str:
        return f"{id(self)}-{number}"


@mutant("new keys on resume", "S7 resume")
class NewKeys(Driver):
    executes = _NewKeys


class _Trusts(Executor):
    def lost(self, call: ToolCall) -> Result | None:
        return None if call.key else super().lost(call)


@mutant("trust a server that has another memory", "S7 resume")
class TrustAnyMemory(Driver):
    executes = _Trusts


class _Hurries(Executor):
    def lost(self, call: ToolCall) -> Result | None:
        self.stopped_s = self.options.call_limit_s
        return super().lost(call)


@mutant("look while the call still runs", "S7 resume")
class LookTooEarly(Driver):
    executes = _Hurries


class _Skips(Executor):
    def lost(self, call: ToolCall) -> Result | None:
        return super().lost(call) or Result("done")


@mutant("never execute on resume", "S7 resume")
class NeverOnResume(Driver):
    executes = _Skips


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
