"""A run killed at a call and taken up again.

The kill is an exception that nothing catches, at the three moments between sending a call and
writing its result: before its effect, between the effect and the server's log line, and after the
line. The processes themselves are killed in tests/conformance/agent/test_kills.py.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from conformance.agent.attempt import attempt
from conformance.agent.driver import Driver
from conformance.agent.families import chase, ledger
from conformance.agent.families.twins import pair
from conformance.agent.server_log import LogWriter, order_problems, read
from conformance.agent.simulated import Oracle
from conformance.agent.smalltools import SmallTools
from conformance.agent.tasks import Task, read_world, world_hash, write_world
from conformance.agent.toolbox import Result, Tool, ToolCall

Drive = Callable[..., Driver]


TWINS = pair(chase.make("resume-left", 10), chase.make("resume-right", 10))


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


MOMENTS = ("before", "between", "after")


@dataclass
class Dying:
    """A toolbox whose process dies at a call, at one of the MOMENTS."""

    inner: SmallTools
    at: int
    moment: str
    count: int = 0

    def tools(self) -> list[Tool]:
        return self.inner.tools()

    def call_all(self, calls: Sequence[ToolCall]) -> list[Result]:
        self.count += len(calls)
        if self.count < self.at:
            return self.inner.call_all(calls)
        dying = replace(self.inner, log=None) if self.moment == "between" else self.inner
        if self.moment != "before":
            dying.call_all(calls[:1])  # of parallel calls only the first was executed
        raise Killed


def s7_resume(drive: Drive) -> str:
    """A run killed at any call, at any moment, ends as if nothing had happened."""
    for at in (1, 2, 5, 6, 12):
        for moment in MOMENTS:
            for task in (ledger.make("resume", 16), TWINS):
                wrong = resumed(drive, task, at, moment)
                if wrong:
                    return f"killed {moment} call {at}: {wrong}"
    return ""


def resumed(drive: Drive, task: Task, at: int, moment: str) -> str:
    """Kill a run at a call and take it up again: -> "" or what is wrong in the end."""
    model = Oracle(task.policy)
    with tempfile.TemporaryDirectory() as folder:
        root, record, log = (Path(folder, name) for name in ("world", "turns.jsonl", "log"))
        write_world(task.files, root)
        dying = Dying(SmallTools(root, LogWriter(log)), at, moment)
        try:
            attempt(task, model, toolbox=dying, root=root, record=record, driver=drive)
            return "it was not killed"
        except Killed:
            pass
        again = SmallTools(root, LogWriter(log))
        found = attempt(
            task,
            model,
            toolbox=again,
            root=root,
            record=record,
            server_log=read(log),
            driver=drive,
        )
        if not found.verdict.passed:
            return found.verdict.reason or found.verdict.process_reason
        sent = [(c.trace_id, c.call.name) for c in found.run.calls if not c.is_lost]
        problems = read(log).problems + order_problems(read(log).records, sent)
        straight = world_hash(_straight(task))
        same = world_hash(read_world(root)) == straight
        return problems[0] if problems else "" if same else "another final state"


def _straight(task: Task) -> dict[str, str]:
    """Give the final world of the same task without an interruption."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "world")
        write_world(task.files, root)
        attempt(task, Oracle(task.policy), root=root)
        return read_world(root)
