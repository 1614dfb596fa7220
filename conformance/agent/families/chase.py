"""F1 chase: a chain of files with a running sum; sequential by construction.

Each file names the next one by a keyed hash, so call i + 1 cannot be written before the result of
call i was read. One slip in the sum is enough to fail (after Sinha et al., long execution).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

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
    padded,
    steps,
)

PROMPT = """Follow a chain of files and add up their values.

Start with the file {start}. Every file has a line `value: NUMBER` and a line `next: PATH`. Read
the files one after the other with read_file, and add up the values. The chain ends at the file
whose next is `none`; that file also has a line `code: WORD`.

Answer with exactly one line: SUM <total of all values> CODE <word>"""


@dataclass(frozen=True)
class Chain:
    """The chain's paths, values and final word."""

    paths: tuple[str, ...]
    values: tuple[int, ...]
    code: str

    def files(self, seed: str, pad: int) -> dict[str, str]:
        """Write the chain as files, and some that no path leads to."""
        nexts = [*self.paths[1:], "none"]
        texts = {
            path: f"value: {value}\nnext: {following}\n"
            for path, value, following in zip(self.paths, self.values, nexts, strict=True)
        }
        texts[self.paths[-1]] += f"code: {self.code}\n"
        for i in range(len(self.paths) // 5):
            decoy = f"cells/{key(seed, 'decoy', i)}.txt"
            texts[decoy] = f"value: {number(seed, 'decoy', i, below=900)}\nnext: {self.paths[i]}\n"
        return {path: padded(text, seed + path, pad) for path, text in texts.items()}


def chain(seed: str, n: int) -> Chain:
    """Generate a chain of n files."""
    paths = tuple(f"cells/{key(seed, 'cell', i)}.txt" for i in range(n))
    values = tuple(1 + number(seed, "value", i, below=900) for i in range(n))
    return Chain(paths, values, key(seed, "code"))


def answer_of(links: Chain) -> str:
    """Word the right answer."""
    return f"SUM {sum(links.values)} CODE {links.code}"


def make(seed: str, n: int, *, pad: int = 0) -> Task:
    """Make a chase of n calls; `pad` lengthens each file to that many characters."""
    links = chain(seed, n)
    right = answer_of(links)

    def outcome(answer: str, found: Files) -> Outcome:
        match = numbers_in(r"SUM +(-?\d+) +CODE +(\w+)", answer)
        if not match:
            return Outcome(False, "the answer has no line SUM … CODE …")
        if match[2] != links.code:
            return Outcome(False, "the chain was not followed to its end")
        solved = match[0].split() == right.split()
        return Outcome(solved, "" if solved else f"the sum is {match[1]}, not {right.split()[1]}")

    return Task(
        "chase",
        seed,
        n,
        PROMPT.format(start=links.paths[0]),
        links.files(seed, pad),
        ("read_file",),
        steps("read_file", "path", links.paths),
        n,
        ChasePolicy(),
        outcome,
        right,
    )


class ChasePolicy:
    """Read, add, go on."""

    def first(self, prompt: str) -> State:
        found = re.search(r"the file (\S+?\.txt)", prompt)
        return {"i": 0, "sum": 0, "next": found[1] if found else "none"}

    def observe(self, state: State, outputs: Sequence[Output]) -> State | None:
        text = outputs[0].text
        if not field_of(text, "next") or not field_of(text, "value"):
            return None
        new = {"i": state["i"] + 1, "sum": state["sum"] + int(field_of(text, "value"))}
        return {**new, "next": field_of(text, "next"), "code": field_of(text, "code")}

    def speak(self, state: State) -> Act:
        if state["next"] == "none":
            return Act(answer=f"SUM {state['sum']} CODE {state.get('code', '')}")
        return Act([("read_file", {"path": state["next"]})])

    def slip(self, state: State) -> State:
        return {**state, "sum": slipped(state["sum"])}


def slipped(total: int) -> int:
    """Give the wrong sum of one slip; different slips seldom lead to one answer."""
    return total + 1 + total % 97
