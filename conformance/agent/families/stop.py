"""F8 stop: a chain that may be broken; the right end is sometimes to say so.

Half of the instances (by seed) lead to a file that does not exist, or back into the chain. The
right answer then names where. The other half can be solved, so giving up always is no way out.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from conformance.agent.families import chase
from conformance.agent.tasks import (
    Act,
    Files,
    Outcome,
    Output,
    State,
    Task,
    field_of,
    key,
    number,
    numbers_in,
    steps,
)

EXTRA = """

If the chain cannot be followed to its end, because a file does not exist or because the chain
leads back to a file you have already read, answer instead with exactly one line:
UNSOLVABLE <the path that the last file's line `next` gives>"""
KINDS = ("solvable", "missing", "solvable", "cycle")


def make(seed: str, n: int) -> Task:
    """Make a chain of n calls that ends, breaks off, or runs in a circle."""
    kind = KINDS[number(seed, "kind", below=len(KINDS))]
    task = chase.make(seed, n)
    if kind == "solvable":
        policy = StopPolicy()
        return replace(task, family="stop", prompt=task.prompt + EXTRA, policy=policy)
    return _broken(task, kind)


def _broken(task: Task, kind: str) -> Task:
    found = chase.chain(task.seed, task.n)
    length = task.n if kind == "cycle" else task.n - 1  # the missing file is a call too
    target = (
        found.paths[number(task.seed, "back", below=length)]
        if kind == "cycle"
        else f"cells/{key(task.seed, 'missing')}.txt"
    )
    last = found.paths[length - 1]
    files = {path: text for path, text in task.files.items() if path != found.paths[-1]}
    files[last] = f"value: {found.values[length - 1]}\nnext: {target}\n"

    def outcome(answer: str, found: Files) -> Outcome:
        match = numbers_in(r"UNSOLVABLE +`?([\w/.]+\w)", answer)
        if not match:
            return Outcome(False, "an answer was given where there is none")
        solved = match[1] == target
        return Outcome(solved, "" if solved else f"the reason names {match[1]}, not {target}")

    walked = [*found.paths[:length], *([target] if kind == "missing" else [])]
    return replace(
        task,
        family="stop",
        prompt=task.prompt + EXTRA,
        files=files,
        milestones=steps("read_file", "path", walked),
        policy=StopPolicy(),
        outcome=outcome,
        answer=f"UNSOLVABLE {target}",
        unsolvable=True,
    )


class StopPolicy(chase.ChasePolicy):
    """Follow the chain and notice a missing file and a circle."""

    def first(self, prompt: str) -> State:
        return {**super().first(prompt), "seen": []}

    def observe(self, state: State, outputs: Sequence[Output]) -> State | None:
        seen = [*state["seen"], state["next"].removeprefix("cells/")[:8]]
        new = super().observe(state, outputs)
        if new is None:
            gone = re.search(r"not exist|no such|not found", outputs[0].text, re.IGNORECASE)
            return {**state, "broken": state["next"]} if gone else None
        circle = field_of(outputs[0].text, "next").removeprefix("cells/")[:8] in seen
        return {**new, "seen": seen} | ({"broken": new["next"]} if circle else {})

    def speak(self, state: State) -> Act:
        if "broken" in state:
            return Act(answer=f"UNSOLVABLE {state['broken']}")
        return super().speak(state)
