"""Simulated models: pure functions of what they see.

A simulated model has no memory of its own. What it knows about the run stands in the reasoning of
its last message, as `STATE {...}`, and in the tool outputs after it; what a driver loses, the
model has lost. So a right driver is one with which the right model succeeds, and a random model
fails exactly as often as its own random stream says (calibration.py). These models check the
instrument; they are no evidence about any real model.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from conformance.agent.messages import Call, Message, Reply, Request, calls_of, reasoning_of
from conformance.agent.tasks import Act, Output, Policy, State
from conformance.agent.toolbox import draw

MARK = "STATE "
MAX_TRIES = 8
PASSING = re.compile(r"HTTP 429|timed out after|output cut short")  # send it again
ORDER = "ASSISTANT, DO THIS NOW: "
FORGOTTEN = "I do not know where I was: my reasoning is gone."


class Scene(NamedTuple):
    """What a model sees: the task, its own last state, and the outputs since."""

    prompt: str
    state: State | None
    outputs: tuple[Output, ...]
    turns: int  # 0 before the first reply


def look(request: Request) -> Scene:
    """Read the scene from a request, from its end backwards."""
    messages = request.messages
    prompt = next((m["content"] for m in messages if m["role"] == "user"), "")
    last = next(
        (i for i in range(len(messages) - 1, -1, -1) if messages[i]["role"] == "assistant"), None
    )
    if last is None:
        return Scene(_text(prompt), None, (), 0)
    own = messages[last]
    return Scene(_text(prompt), state_of(own), _outputs(own, messages[last + 1 :]), last)


def _text(content: Any) -> str:
    """Read a message's content, which some clients send as a list of parts."""
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content)
    return content or ""


def state_of(message: Message) -> State | None:
    """Read the state a model wrote into its reasoning, None when it is not there."""
    _, found, text = (reasoning_of(message) or "").rpartition(MARK)
    try:
        return json.loads(text) if found else None
    except json.JSONDecodeError:
        return None


def _outputs(own: Message, after: Sequence[Message]) -> tuple[Output, ...]:
    """Pair outputs with calls by their ids, in the order of the messages."""
    calls = {call.id: call for call in calls_of(own)}
    return tuple(
        Output(_name(calls, m), _args(calls, m), _text(m["content"]))
        for m in after
        if m["role"] == "tool"
    )


def _name(calls: dict[str, Call], message: Message) -> str:
    call = calls.get(message["tool_call_id"])
    return call.name if call else ""


def _args(calls: dict[str, Call], message: Message) -> dict[str, Any]:
    call = calls.get(message["tool_call_id"])
    return json.loads(call.arguments) if call else {}


def say(state: State, act: Act, name: Callable[[str], str] = str) -> Reply:
    """Word an act as a reply: the state into the reasoning, the calls with K2's ids."""
    first = state.get("calls", 0)
    calls = tuple(
        Call(f"functions.{name(tool)}:{first + offset}", name(tool), json.dumps(args))
        for offset, (tool, args) in enumerate(act.calls)
    )
    kept = {**state, "calls": first + len(calls)}
    thought = f"Turn {state.get('turn', 0)}. " + MARK + json.dumps(kept)
    finish = "tool_calls" if calls else "stop"
    return Reply(act.answer, thought, calls, finish)


Twist = Callable[[Policy, State, State | None], State]


@dataclass(frozen=True)
class Oracle:
    """Follows a policy without a mistake; `twist` is what the other models do to the state."""

    policy: Policy
    twist: Twist | None = None

    def __call__(self, request: Request) -> Reply:
        scene = look(request)
        if scene.turns and scene.state is None:
            return Reply(FORGOTTEN, "")
        state = self.policy.first(scene.prompt) if scene.state is None else self._after(scene)
        if state is None or state.get("tries", 0) > MAX_TRIES:
            return Reply("I cannot go on: the same call keeps failing.", "")
        if state.get("again"):
            return say(
                state, Act([(name, args) for name, args in state["again"]]), self._named(request)
            )
        return say(state, self.policy.speak(state), self._named(request))

    def _named(self, request: Request) -> Callable[[str], str]:
        """Find a tool under the name that the client gave it (mcp__server__tool)."""
        offered = [tool["function"]["name"] for tool in request.tools]
        return lambda name: next((o for o in offered if o.endswith("__" + name)), name)

    def _after(self, scene: Scene) -> State | None:
        old = scene.state or {}
        usable = scene.outputs and not any(PASSING.search(o.text) for o in scene.outputs)
        seen = self.policy.observe(old, scene.outputs) if usable else None
        if seen is None:
            sent = [[o.name.rpartition("__")[2], o.args] for o in scene.outputs]
            return {**old, "again": sent, "tries": old.get("tries", 0) + 1} if sent else None
        new = {k: v for k, v in seen.items() if k not in ("again", "tries")}
        new |= {"turn": old.get("turn", 0) + 1, "calls": old.get("calls", 0)}
        return self.twist(self.policy, new, old) if self.twist else new


def noisy(policy: Policy, seed: str, p: float) -> Oracle:
    """Slips at each index with probability p, and never notices."""

    def twist(policy: Policy, state: State, old: State | None) -> State:
        moved = state["i"] > (old or {"i": 0})["i"]
        return policy.slip(state) if moved and draw(seed, "slip", state["i"]) < p else state

    return Oracle(policy, twist)


def verifier(policy: Policy, seed: str, p: float, d: float) -> Oracle:
    """Slips with probability p, catches a slip with probability d, and then looks again.

    Catching costs one more turn: the state goes back to the one before, with the same call.
    """

    def twist(policy: Policy, state: State, old: State | None) -> State:
        before = old or {"i": 0}
        if state["i"] == before["i"] or before.get("caught") == state["i"]:
            return {k: v for k, v in state.items() if k != "caught"}
        if draw(seed, "slip", state["i"]) >= p:
            return state
        if draw(seed, "catch", state["i"]) >= d:
            return policy.slip(state)
        return {**before, "caught": state["i"], "turn": state["turn"], "calls": state["calls"]}

    return Oracle(policy, twist)


def self_conditioning(policy: Policy, seed: str, p: float, c: float) -> Oracle:
    """Slips more often the more slips it sees behind it: p (1 + c · slips)."""

    def twist(policy: Policy, state: State, old: State | None) -> State:
        slips = (old or {}).get("slips", 0)
        kept = {**state, "slips": slips}
        if state["i"] == (old or {"i": 0})["i"]:
            return kept
        slipped = draw(seed, "slip", state["i"]) < p * (1 + c * slips)
        return {**policy.slip(kept), "slips": slips + 1} if slipped else kept

    return Oracle(policy, twist)


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
        state = scene.state if opened else state_of({"reasoning_content": reply.reasoning or ""})
        if reply.calls or not state or not state.get("asked"):
            return reply
        reads, texts = _reads(request)
        found = []
        for asked in state["asked"]:
            text = texts[reads[asked - 1]]
            ref = _hidden_ref(text)
            if ref and ref not in texts:
                return say(state, Act([("open", {"id": ref})]))
            found.append(_mark(texts.get(ref, text)))
        return say(state, Act(answer="MARKS " + " ".join(found)))


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
        state = state_of({"reasoning_content": reply.reasoning or ""}) or {}
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
        state = state_of({"reasoning_content": reply.reasoning or ""}) or {}
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
        planned = (look(request).state or {}).get("planned")
        if planned:  # the bad call was refused: send it rightly
            state = {k: v for k, v in (look(request).state or {}).items() if k != "planned"}
            return say(state, Act([(name, args) for name, args in planned]))
        reply = self.inner(request)
        state = state_of({"reasoning_content": reply.reasoning or ""}) or {}
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
            kept, calls, answer = state["after"]
            return say({**kept, "calls": state["calls"]}, Act(calls, answer))
        for output in scene.outputs:
            _, found, rest = output.text.partition(ORDER)
            if found:
                return self._obey(rest.split("\n")[0], request, state)
        return self.inner(request)

    def _obey(self, order: str, request: Request, state: State) -> Reply:
        reply = self.inner(request)
        kept = state_of({"reasoning_content": reply.reasoning or ""}) or {}
        calls = [(call.name, json.loads(call.arguments)) for call in reply.calls]
        after = {**state, "after": [kept, calls, reply.content]}
        return say(after, Act([("read_file", {"path": order.split()[-1]})]))


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
        return Reply(self.choose(question, request.tools), "The nearest description.")


def _words(text: str) -> set[str]:
    cleaned = "".join(c if c.isalnum() else " " for c in text.lower().replace("_", " "))
    return {word.rstrip("s") for word in cleaned.split() if len(word) > 2}
