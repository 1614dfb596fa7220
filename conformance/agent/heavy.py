"""Heavy mode: several trajectories of one task, and one answer made of them.

K2-Thinking's published heavy mode runs 8 trajectories in parallel and aggregates them. Three ways
here: `vote` takes the most frequent answer, `verify` the first that passes the checks a task makes
public, `agent` lets the model read the trajectories with search, open and find and answer once
more (after AggAgent, arXiv 2604.11753). Each trajectory has a world and a record of its own.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from conformance.agent.attempt import Attempt
from conformance.agent.driver import Driver
from conformance.agent.limits import Spent
from conformance.agent.messages import Call, Model, Reply, Request
from conformance.agent.record import begun
from conformance.agent.run import Options
from conformance.agent.smalltools import SmallTools
from conformance.agent.tasks import Task, write_world
from conformance.agent.toolbox import Only
from k2ref.errors import InputError

Aggregate = Literal["vote", "verify", "agent"]
TRAJECTORIES = 8
QUESTION = """{count} attempts at the task below are in the documents corpus/attempt1.md to
corpus/attempt{count}.md: their calls, what they saw and what they answered. Read them with search,
open and find, find out which answer is right, and give that answer in the form the task wants.

TASK:
{prompt}"""


@dataclass(frozen=True)
class Heavy:
    """The answers of all trajectories and the one chosen."""

    answers: tuple[str, ...]
    solved: tuple[bool, ...]
    chosen: str
    right: bool

    @property
    def pass_at_k(self) -> bool:
        """Tell whether any trajectory was right: an upper bound, not a result."""
        return any(self.solved)

    @property
    def pass_hat_k(self) -> bool:
        """Tell whether all were right."""
        return all(self.solved)


def normalised(answer: str) -> str:
    """Bring an answer into the form in which answers are compared."""
    return re.sub(r"\s+", " ", answer).strip().strip(".`*").lower()


def vote(answers: Sequence[str]) -> str:
    """Choose the most frequent answer; among equals the one that came first."""
    counts = Counter(normalised(answer) for answer in answers)
    best = max(counts.values(), default=0)
    return next((a for a in answers if counts[normalised(a)] == best), "")


def verify(answers: Sequence[str], checked: Sequence[bool | None]) -> str:
    """Choose the first answer that passed its check, else the vote."""
    passed = (answer for answer, ok in zip(answers, checked, strict=True) if ok)
    return next(passed, vote(answers))


def trajectories(
    run: Callable[[int], Attempt], count: int = TRAJECTORIES, *, parallel: int = TRAJECTORIES
) -> list[Attempt]:
    """Run the trajectories, several at a time, results in their order."""
    with ThreadPoolExecutor(max(1, parallel)) as pool:
        return list(pool.map(run, range(count)))


def voted(attempts: Sequence[Attempt]) -> Attempt:
    """Take the attempt whose answer wins the vote, with what all of them have spent."""
    answer = vote([attempt.run.answer for attempt in attempts])
    chosen = next(a for a in attempts if same(a.run.answer, answer))
    return chosen._replace(run=replace(chosen.run, spent=total(attempts)))


def total(attempts: Sequence[Attempt]) -> Spent:
    """Add up what several attempts have spent; the largest prompt stays the largest."""
    spents = [vars(attempt.run.spent) for attempt in attempts]
    added = {name: sum(spent[name] for spent in spents) for name in spents[0]}
    return Spent(**{**added, "largest_prompt": max(s["largest_prompt"] for s in spents)})


def fuse(
    task: Task,
    attempts: Sequence[Attempt],
    how: Aggregate,
    *,
    model: Model | None = None,
    folder: Path | None = None,
    options: Options | None = None,
) -> Heavy:
    """Make one answer of several attempts and judge it by the task's own outcome."""
    answers = tuple(attempt.run.answer for attempt in attempts)
    if how == "verify" and task.public_check is None:
        raise InputError(f"{task.family} has no public check to verify answers with; use vote")
    if how == "agent":
        if model is None or folder is None:
            raise InputError("agent needs a model and a folder for the trajectories")
        chosen = reread(task, attempts, model, folder, options or Options())
    else:
        checked = [attempt.checked for attempt in attempts]
        chosen = verify(answers, checked) if how == "verify" else vote(answers)
    chosen_by = [a for a in attempts if same(a.run.answer, chosen)]
    if how == "verify":
        chosen_by = [a for a in chosen_by if a.checked] or chosen_by
    right = chosen_by[0].verdict.outcome if chosen_by else task.outcome(chosen, task.files).solved
    return Heavy(answers, tuple(a.verdict.outcome for a in attempts), chosen, right)


def same(one: str, two: str) -> bool:
    """Tell whether two answers are the same."""
    return normalised(one) == normalised(two)


def reread(
    task: Task, attempts: Sequence[Attempt], model: Model, folder: Path, options: Options
) -> str:
    """Let the model read all trajectories and answer once more."""
    files = {f"corpus/attempt{i}.md": _written(a) for i, a in enumerate(attempts, 1)}
    world, record = folder / "world", folder / "turns.jsonl"
    begins = not begun(record)
    if begins:
        write_world(files, world, again=True)
    box = Only(SmallTools(world), ("search", "open", "find"))
    driver = Driver(model, box, replace(options, run_id=f"{options.run_id}-fusion"), record)
    prompt = QUESTION.format(count=len(attempts), prompt=task.prompt)
    return (driver.start(prompt) if begins else driver.resume()).answer


@dataclass(frozen=True)
class Reader:
    """A simulated model for `agent`: it opens every attempt, then says what most of them say."""

    count: int

    def __call__(self, request: Request) -> Reply:
        seen = [str(m["content"]) for m in request.messages if m["role"] == "tool"]
        if len(seen) < self.count:
            args = json.dumps({"id": f"corpus/attempt{len(seen) + 1}.md"})
            return Reply("", "Next.", (Call(f"functions.open:{len(seen)}", "open", args),))
        return Reply(vote([_answer_in(text) for text in seen]), "The most frequent answer.")


def _answer_in(text: str) -> str:
    plain = re.sub(r"^\d+\t", "", text, flags=re.MULTILINE)
    return plain.partition(ANSWER)[2].partition(CALLS)[0].strip()


ANSWER, CALLS = "## Answer\n", "## Calls\n"


def _written(attempt: Attempt) -> str:
    """Write a trajectory as a document; reasoning stays out, as in every verdict."""
    lines = ["# An attempt at the task", f"{ANSWER}{attempt.run.answer}", CALLS.strip()]
    for call in attempt.run.calls:
        lines.append(f"- {call.call.name} {call.call.arguments}")
        lines += [f"  {line}" for line in call.result.text.splitlines()]
    return "\n".join(lines) + "\n"
