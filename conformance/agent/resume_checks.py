"""A run killed at a call, before or after its execution, and taken up again.

The kill is an exception that nothing catches, at the two sides of the one moment that matters:
the call was sent, and the result is not written. The processes themselves are killed in
tests/conformance/agent/test_k2tools_runs.py.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


@dataclass
class Dying:
    """A toolbox whose process dies at a call: before it is executed, or after."""

    inner: SmallTools
    at: int
    after: bool
    count: int = 0

    def tools(self) -> list[Tool]:
        return self.inner.tools()

    def call_all(self, calls: Sequence[ToolCall]) -> list[Result]:
        self.count += len(calls)
        if self.count >= self.at and not self.after:
            raise Killed
        results = self.inner.call_all(calls[:1] if self.count >= self.at else calls)
        if self.count >= self.at:  # of parallel calls only the first was executed
            raise Killed
        return results


def s7_resume(drive: Drive) -> str:
    """A run killed at any call, before or after its execution, ends as if nothing had happened."""
    for at in (1, 2, 5, 6, 12):
        for after in (False, True):
            for task in (ledger.make("resume", 16), TWINS):
                wrong = _resumed(drive, task, at, after)
                if wrong:
                    return f"killed {'after' if after else 'before'} call {at}: {wrong}"
    return ""


def _resumed(drive: Drive, task: Task, at: int, after: bool) -> str:
    model = Oracle(task.policy)
    with tempfile.TemporaryDirectory() as folder:
        root, record, log = (Path(folder, name) for name in ("world", "turns.jsonl", "log"))
        write_world(task.files, root)
        dying = Dying(SmallTools(root, LogWriter(log)), at, after)
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
        sent = [(call.trace_id, call.call.name) for call in found.run.calls]
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
