"""F7 needle: questions about early outputs, asked after they were hidden.

The chain is long enough to be hidden from the context; the last file asks for marks of early
files. Whoever kept them in mind answers at once; whoever did not must read an output again by its
ref, which works only when the driver named the ref where it hid the output.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from conformance.agent.families.chase import chain
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

ASKED = 3
PROMPT = """Follow a chain of files to its end.

Start with the file {start}. Every file has a line `mark: WORD` and a line `next: PATH`. Read the
files one after the other with read_file. The chain ends at the file whose next is `none`; it has a
line `question: A B C`, three numbers of files you have read, counting the first as 1. Earlier
results that are no longer visible can be read again with open(id=REF).

Answer with exactly one line: MARKS <mark of file A> <mark of file B> <mark of file C>"""


def make(seed: str, n: int, *, pad: int = 400) -> Task:
    """Make a needle task of n calls whose files have about `pad` characters."""
    found = chain(seed, n)
    marks = [key(seed, "mark", i) for i in range(n)]
    asked = sorted({1 + number(seed, "asked", j, below=n // 2) for j in range(ASKED)})
    asked += [asked[-1]] * (ASKED - len(asked))
    files = {
        path: padded(f"mark: {mark}\nnext: {following}\n", path, pad)
        for path, mark, following in zip(
            found.paths, marks, [*found.paths[1:], "none"], strict=True
        )
    }
    files[found.paths[-1]] += f"question: {' '.join(map(str, asked))}\n"
    right = "MARKS " + " ".join(marks[a - 1] for a in asked)

    def outcome(answer: str, found: Files) -> Outcome:
        match = numbers_in(r"MARKS +\w+ +\w+ +\w+", answer)
        if not match:
            return Outcome(False, "the answer has no line MARKS … … …")
        solved = match[0].split() == right.split()
        return Outcome(solved, "" if solved else "a mark is wrong")

    return Task(
        "needle",
        seed,
        n,
        PROMPT.format(start=found.paths[0]),
        files,
        ("read_file", "open"),
        steps("read_file", "path", found.paths),
        n,
        NeedlePolicy(),
        outcome,
        right,
    )


@dataclass(frozen=True)
class NeedlePolicy:
    """Follow the chain; with `remembers`, keep every mark in mind."""

    remembers: bool = True

    def first(self, prompt: str) -> State:
        found = re.search(r"the file (\S+?\.txt)", prompt)
        return {"i": 0, "next": found[1] if found else "none", "marks": [], "asked": []}

    def observe(self, state: State, outputs: Sequence[Output]) -> State | None:
        text = outputs[0].text
        if not field_of(text, "mark") or not field_of(text, "next"):
            return None
        marks = [*state["marks"], field_of(text, "mark")] if self.remembers else []
        question = re.search(r"question: (\d+) (\d+) (\d+)", text)
        asked = [int(a) for a in question.groups()] if question else []
        return {"i": state["i"] + 1, "next": field_of(text, "next"), "marks": marks,
                "asked": asked}  # fmt: skip

    def speak(self, state: State) -> Act:
        if state["next"] == "none":
            found = [state["marks"][a - 1] for a in state["asked"] if a <= len(state["marks"])]
            return Act(answer="MARKS " + " ".join(found or ["unknown"] * ASKED))
        return Act([("read_file", {"path": state["next"]})])

    def slip(self, state: State) -> State:
        return {**state, "marks": [*state["marks"][:-1], "0" * 12]}
