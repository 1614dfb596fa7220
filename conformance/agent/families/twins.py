"""Two tasks at once: every turn has two parallel calls, one of each task.

Not a family of its own: it shows that results come back complete and in the order of the calls,
since the model tells the two chains apart by nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from conformance.agent.tasks import Act, Files, Outcome, Output, Policy, State, Task

RULE = "\n\n===== second task, to be worked on in the same turns =====\n\n"


def pair(first: Task, second: Task) -> Task:
    """Join two tasks of one family and different seeds."""

    def outcome(answer: str, found: Files) -> Outcome:
        one, _, two = answer.partition("\n")
        left, right = first.outcome(one, found), second.outcome(two, found)
        return Outcome(left.solved and right.solved, left.reason or right.reason)

    return replace(
        first,
        seed=f"{first.seed}+{second.seed}",
        prompt=first.prompt + RULE + second.prompt,
        files={**first.files, **second.files},
        milestones=first.milestones,
        needed_calls=first.needed_calls + second.needed_calls,
        policy=TwinsPolicy(first.policy, second.policy),
        outcome=outcome,
        answer=f"{first.answer}\n{second.answer}",
    )


@dataclass(frozen=True)
class TwinsPolicy:
    """Speak for both tasks in one turn; outputs are told apart by their position alone."""

    one: Policy
    two: Policy

    def first(self, prompt: str) -> State:
        left, _, right = prompt.partition(RULE)
        return {"i": 0, "one": self.one.first(left), "two": self.two.first(right)}

    def observe(self, state: State, outputs: Sequence[Output]) -> State | None:
        waiting = [n for n in ("one", "two") if self._part(n).speak(state[n]).calls]
        if len(outputs) != len(waiting):
            return None
        new = {**state, "i": state["i"] + 1}
        for name, output in zip(waiting, outputs, strict=True):
            seen = self._part(name).observe(state[name], [output])
            if seen is None:
                return None
            new[name] = seen
        return new

    def speak(self, state: State) -> Act:
        acts = [self.one.speak(state["one"]), self.two.speak(state["two"])]
        calls = [call for act in acts for call in act.calls]
        return Act(calls) if calls else Act(answer="\n".join(act.answer for act in acts))

    def slip(self, state: State) -> State:
        return {**state, "one": self.one.slip(state["one"])}

    def _part(self, name: str) -> Policy:
        return self.one if name == "one" else self.two
