"""Simulated models: pure functions of what they see.

A simulated model has no memory of its own. What it knows about the run stands in the reasoning of
its messages, each as `STATE {...}` with what changed, and in the tool outputs after the last one;
what a driver loses, the model has lost. So a right driver is one with which the right model
succeeds, and a random model fails exactly as often as its own random stream says (calibration.py).
These models check the instrument; they are no evidence about any real model.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
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
    return Scene(_text(prompt), memory(messages), _outputs(own, messages[last + 1 :]), last)


def _text(content: Any) -> str:
    """Read a message's content, which some clients send as a list of parts."""
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content)
    return content or ""


def memory(messages: Sequence[Message]) -> State | None:
    """Put the state together from all reasoning; None when any of it is not there."""
    state: State = {}
    for message in messages:
        if message["role"] != "assistant" or reasoning_of(message) == "":
            continue
        change = change_of(reasoning_of(message))
        if change is None:
            return None
        state = changed(state, change)
    return state


@lru_cache(maxsize=4_096)  # every request repeats the reasoning of all turns before
def change_of(reasoning: str | None) -> State | None:
    """Read what one reasoning says has changed, None when it says nothing."""
    _, found, text = (reasoning or "").rpartition(MARK)
    try:
        return json.loads(text) if found else None
    except json.JSONDecodeError:
        return None


GROWN, GONE = "+", "-"


def changed(state: State, change: State) -> State:
    """Apply a change: new values, lists that grew (`name+`), names that went (`-`)."""
    new = {k: v for k, v in state.items() if k not in change.get(GONE, ())}
    for name, value in change.items():
        if name.endswith(GROWN):
            new[name[:-1]] = [*state.get(name[:-1], []), *value]
        elif name != GONE:
            new[name] = value
    return new


def change_between(old: State, new: State) -> State:
    """Write what leads from one state to another; a list that grew costs only its new items."""
    change: State = {}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(before, list) and before and value[: len(before)] == before:
            if len(value) > len(before):
                change[name + GROWN] = value[len(before) :]
        elif name not in old or before != value:
            change[name] = value
    gone = [name for name in old if name not in new]
    return change | ({GONE: gone} if gone else {})


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


def say(old: State | None, state: State, act: Act, name: Callable[[str], str] = str) -> Reply:
    """Word an act as a reply: what changed into the reasoning, the calls with K2's ids."""
    first = state.get("calls", 0)
    calls = tuple(
        Call(f"functions.{name(tool)}:{first + offset}", name(tool), json.dumps(args))
        for offset, (tool, args) in enumerate(act.calls)
    )
    kept = {**state, "calls": first + len(calls)}
    change = change_between(old or {}, kept)
    thought = f"Turn {state.get('turn', 0)}. " + MARK + json.dumps(change)
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
        again = Act([(name, args) for name, args in state.get("again", [])])
        act = again if again.calls else self._possible(self.policy.speak(state), request)
        return say(scene.state, state, act, self._named(request))

    def _possible(self, act: Act, request: Request) -> Act:
        """Take the other way to the same end where a server lacks the tool."""
        offered = {tool["function"]["name"].rpartition("__")[2] for tool in request.tools}
        lacks = any(name not in offered for name, _ in act.calls)
        return Act(act.instead) if lacks and act.instead else act

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
