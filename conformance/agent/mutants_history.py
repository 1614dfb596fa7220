"""Mutants that change what goes back to the model: reasoning, results, calls and their ids."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from conformance.agent.driver import Driver
from conformance.agent.messages import Call, Message, Reply, reasoning_of
from conformance.agent.mutants import mutant


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


@mutant("placeholder reasoning", "C1 reasoning", "can1357/oh-my-pi#1485")
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


@mutant("results without their call's id", "C2 answers", "NousResearch/hermes-agent#4534")
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


@mutant("name calls after their server", "C2 answers")
class RenamedCalls(Driver):
    def view(self) -> tuple[Message, ...]:
        return tuple(_renamed(m) if m.get("tool_calls") else m for m in super().view())


def _renamed(message: Message) -> Message:
    calls = [
        {**c, "function": {**c["function"], "name": f"mcp__{c['function']['name']}"}}
        for c in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


@mutant("encode arguments twice", "C2 answers", "MoonshotAI/Kimi-K2#26, JetBrains/koog#2095")
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
