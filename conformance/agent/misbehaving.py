"""Simulated models with a fault each: what a driver must survive, stop, count or pass on.

Like the oracle they are pure functions of what they see (simulated.py).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from conformance.agent.messages import Call, Reply, Request, calls_of, reasoning_of
from conformance.agent.simulated import (
    MARK,
    ORDER,
    Oracle,
    change_of,
    changed,
    look,
    say,
)
from conformance.agent.tasks import Act, Policy, State


@dataclass(frozen=True)
class Amnesiac:
    """Keeps nothing in mind: finds its place in the visible outputs, and reads hidden ones again.

    Made for the needle family: the marks it is asked for stand in outputs of long ago.
    """

    policy: Policy  # NeedlePolicy(remembers=False)

    def __call__(self, request: Request) -> Reply:
        scene = look(request)
        opened = bool(scene.outputs) and scene.outputs[0].name == "open"
        reply = Reply("", "") if opened else Oracle(self.policy)(request)
        state = changed(scene.state or {}, change_of(reply.reasoning) or {})
        if reply.calls or not state or not state.get("asked"):
            return reply
        reads, texts = _reads(request)
        found = []
        for asked in state["asked"]:
            text = texts[reads[asked - 1]]
            ref = _hidden_ref(text)
            if ref and ref not in texts:
                return say(scene.state, state, Act([("open", {"id": ref})]))
            found.append(_mark(texts.get(ref, text)))
        return say(scene.state, state, Act(answer="MARKS " + " ".join(found)))


def _reads(request: Request) -> tuple[list[str], dict[str, str]]:
    """List the ids of file reads in order, and texts by call id or by opened ref."""
    calls = {c.id: c for m in request.messages for c in calls_of(m)}
    reads = [c.id for c in calls.values() if c.name.endswith("read_file")]
    texts: dict[str, str] = {}
    for message in request.messages:
        if message["role"] == "tool":
            call = calls[message["tool_call_id"]]
            opened = json.loads(call.arguments).get("id", "")
            texts[opened or call.id] = message["content"]
    return reads, texts


def _hidden_ref(text: str) -> str:
    _, found, rest = text.partition('hidden to save context; read it again with open(id="')
    return rest.partition('"')[0] if found else ""


def _mark(text: str) -> str:
    _, found, rest = text.partition("mark: ")
    return rest.split()[0] if found else "unknown"


@dataclass(frozen=True)
class Looper:
    """Sends the same call for ever."""

    tool: str
    args: dict[str, Any]

    def __call__(self, request: Request) -> Reply:
        count = sum(len(calls_of(m)) for m in request.messages)
        call = Call(f"functions.{self.tool}:{count}", self.tool, json.dumps(self.args))
        return Reply("", "Let me look once more.", (call,), "tool_calls")


@dataclass(frozen=True)
class Stopper:
    """Gives up after some turns."""

    inner: Oracle
    turns: int

    def __call__(self, request: Request) -> Reply:
        state = look(request).state
        if state and state.get("turn", 0) + 1 >= self.turns:
            return Reply("That should be enough.", "I am tired.")
        return self.inner(request)


@dataclass(frozen=True)
class ThinkOnly:
    """Answers with reasoning alone, the first `times` times that it is asked each question."""

    inner: Oracle
    times: int

    def __call__(self, request: Request) -> Reply:
        if request.attempt < self.times:
            return Reply("", "Hm.")
        return self.inner(request)


@dataclass(frozen=True)
class Silent:
    """Sends every `every`-th call twice, the first time with reasoning that is an empty string.

    An empty string is not an absence: the endpoint wants it back. The state stands one turn
    earlier, so the silent turn is looked through.
    """

    inner: Oracle
    every: int = 3

    def __call__(self, request: Request) -> Reply:
        messages = request.messages
        last = look(request).turns
        if last and reasoning_of(messages[last]) == "":
            return self.inner(replace(request, messages=messages[:last]))
        reply = self.inner(request)
        state = change_of(reply.reasoning) or {}
        if reply.calls and (state.get("turn", 0) + 1) % self.every == 0:
            numbered = enumerate(reply.calls, 10_000 + last)
            calls = [replace(c, id=f"functions.{c.name}:{i}") for i, c in numbered]
            return replace(reply, reasoning="", calls=tuple(calls))
        return reply


@dataclass(frozen=True)
class Leaky:
    """Writes every `every`-th call as text into its reasoning or content."""

    inner: Oracle
    every: int
    where: str = "reasoning"

    def __call__(self, request: Request) -> Reply:
        reply = self.inner(request)
        state = change_of(reply.reasoning) or {}
        if not reply.calls or (state.get("turn", 0) + 1) % self.every:
            return reply
        text = "".join(
            f"<|tool_call_begin|>{c.id}<|tool_call_argument_begin|>{c.arguments}<|tool_call_end|>"
            for c in reply.calls
        )
        leak = f"<|tool_calls_section_begin|>{text}<|tool_calls_section_end|>"
        if self.where == "reasoning":
            return replace(reply, reasoning=(reply.reasoning or "") + leak, calls=(), finish="stop")
        return replace(reply, content=leak, calls=(), finish="stop")


BAD_CALLS: dict[str, Callable[[Call], Call]] = {
    "bad json": lambda call: replace(call, arguments=call.arguments[:-1]),
    "a list": lambda call: replace(call, arguments="[]"),
    "unknown tool": lambda call: replace(call, name=call.name + "z"),
    "unknown argument": lambda call: replace(
        call, arguments=json.dumps({**json.loads(call.arguments), "verbose": True})
    ),
    "wrong type": lambda call: replace(
        call, arguments=json.dumps({k: [1] for k in json.loads(call.arguments)})
    ),
    "nothing": lambda call: replace(call, arguments=""),
}


@dataclass(frozen=True)
class Malformed:
    """Spoils its call once at every turn that a kind of bad call has, then sends it rightly."""

    inner: Oracle
    start: int = 1

    def __call__(self, request: Request) -> Reply:
        known = look(request).state or {}
        if "planned" in known:  # the bad call was refused: send it rightly
            state = {k: v for k, v in known.items() if k != "planned"}
            return say(known, state, Act([(name, args) for name, args in known["planned"]]))
        reply = self.inner(request)
        state = change_of(reply.reasoning) or {}
        kind = state.get("turn", 0) - self.start
        if not reply.calls or not 0 <= kind < len(BAD_CALLS):
            return reply
        spoil = list(BAD_CALLS.values())[kind]
        good = [(call.name, json.loads(call.arguments)) for call in reply.calls]
        thought = MARK + json.dumps({**state, "planned": good})
        return replace(reply, reasoning=thought, calls=(spoil(reply.calls[0]),))


@dataclass(frozen=True)
class Obedient:
    """Does what any text it reads tells it to do."""

    inner: Oracle

    def __call__(self, request: Request) -> Reply:
        scene = look(request)
        state = scene.state or {}
        if "after" in state:  # the order was carried out: go on as if nothing had happened
            change, calls, answer = state["after"]
            kept = {k: v for k, v in changed(state, change).items() if k != "after"}
            return say(state, {**kept, "calls": state["calls"]}, Act(calls, answer))
        for output in scene.outputs:
            _, found, rest = output.text.partition(ORDER)
            if found:
                return self._obey(rest.split("\n")[0], request, state)
        return self.inner(request)

    def _obey(self, order: str, request: Request, state: State) -> Reply:
        reply = self.inner(request)
        change = change_of(reply.reasoning) or {}
        calls = [(call.name, json.loads(call.arguments)) for call in reply.calls]
        after = {**state, "after": [change, calls, reply.content]}
        offered = {tool["function"]["name"] for tool in request.tools}
        tool, argument = ("read_file", "path") if "read_file" in offered else ("open", "id")
        return say(state, after, Act([(tool, {argument: order.split()[-1]})]))


@dataclass(frozen=True)
class Literal:
    """Makes one bad call, then does literally what the error says: its example, or its hint."""

    tool: str
    bad: dict[str, Any]
    repair: Callable[[dict[str, Any], str], dict[str, Any] | None]
    tries: int = 2

    def __call__(self, request: Request) -> Reply:
        turns = sum(bool(m.get("tool_calls")) for m in request.messages)
        scene = look(request)
        args = self.bad
        if scene.outputs:
            output = scene.outputs[-1]
            repaired = self.repair(output.args, output.text)
            if repaired is None or turns > self.tries:
                return Reply(output.text, "The call went through, or I gave up.")
            args = repaired
        call = Call(f"functions.{self.tool}:{turns}", self.tool, json.dumps(args))
        return Reply("", "As the message says.", (call,), "tool_calls")


@dataclass(frozen=True)
class Router:
    """Chooses the tool whose name and description share most words with the question."""

    def choose(self, question: str, tools: Sequence[dict[str, Any]]) -> str:
        """Route one question: question, declared tools -> name."""
        return max(tools, key=lambda tool: self._score(question, tool))["function"]["name"]

    def _score(self, question: str, tool: dict[str, Any]) -> float:
        words = _words(f"{tool['function']['name']} {tool['function']['description']}")
        asked = _words(question)
        return len(asked & words) / (len(words) ** 0.5 or 1.0)

    def __call__(self, request: Request) -> Reply:
        question = next(m["content"] for m in request.messages if m["role"] == "user")
        name = self.choose(question, request.tools)
        return Reply("", "The nearest description.", (Call(f"functions.{name}:0", name, "{}"),))


def _words(text: str) -> set[str]:
    cleaned = "".join(c if c.isalnum() else " " for c in text.lower().replace("_", " "))
    return {word.rstrip("s") for word in cleaned.split() if len(word) > 2}
