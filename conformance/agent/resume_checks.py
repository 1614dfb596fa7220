"""A run killed at a call and taken up again.

The kill is an exception that nothing catches, at the moments between sending a call and writing
its result: before its effect, between the effect and the server's log line, after the line, and
while the call still runs, so that its effect lands later. The server remembers the keys of its
calls, or does not, or comes back with another memory. The processes themselves are killed in
tests/conformance/agent/test_kills.py.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from conformance.agent.attempt import Attempt, attempt
from conformance.agent.driver import Driver
from conformance.agent.families import chase, ledger
from conformance.agent.families.twins import pair
from conformance.agent.run import Options
from conformance.agent.server_log import LogWriter, order_problems, read
from conformance.agent.simulated import Oracle
from conformance.agent.smalltools import SmallTools
from conformance.agent.tasks import Task, read_world, world_hash, write_world
from conformance.agent.toolbox import Result, Tool, ToolCall

Drive = Callable[..., Driver]


TWINS = pair(chase.make("resume-left", 10), chase.make("resume-right", 10))
LONG_S = 1e9  # a call limit that no elapsed time reaches


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


class Scene(NamedTuple):
    """When the process dies, at which call, and what the server remembers when it is back."""

    moment: str  # before | between | after | running
    memory: str  # none | keys | other
    at: int


def scenes() -> Iterator[Scene]:
    """List what a driver must survive."""
    for at in (1, 2, 5, 6, 12):
        for moment in ("before", "between", "after"):
            yield from (Scene(moment, memory, at) for memory in ("none", "keys"))
    for at in (2, 6):
        yield Scene("running", "none", at)
        yield from (Scene(moment, "other", at) for moment in ("between", "after"))


@dataclass
class Dying:
    """A toolbox whose process dies at a call."""

    inner: SmallTools
    scene: Scene
    count: int = 0
    running: Sequence[ToolCall] = ()  # their effect lands later

    def tools(self) -> list[Tool]:
        return self.inner.tools()

    def call_all(self, calls: Sequence[ToolCall]) -> list[Result]:
        self.count += len(calls)
        if self.count < self.scene.at:
            return self.inner.call_all(calls)
        first = calls[:1]  # of parallel calls only the first was executed
        if self.scene.moment == "running":
            self.running = first
        elif self.scene.moment == "between":
            if self.inner.log is not None and self.inner.keyed:
                self.inner.log.note(first[0].key)
            replace(self.inner, log=None).call_all(first)
        elif self.scene.moment == "after":
            self.inner.call_all(first)
        raise Killed

    def land(self, seconds: float = 0.0) -> None:
        """Let the effect happen that was under way."""
        landing, self.running = self.running, ()
        replace(self.inner, log=None).call_all(landing)


@dataclass
class Late:
    """The toolbox after a restart: what was under way lands behind the first call at the latest."""

    inner: SmallTools
    dying: Dying

    def tools(self) -> list[Tool]:
        return self.inner.tools()

    def call_all(self, calls: Sequence[ToolCall]) -> list[Result]:
        results = self.inner.call_all(calls)
        if calls:
            self.dying.land()
        return results


def s7_resume(drive: Drive) -> str:
    """A run killed at any call, at any moment, ends as if nothing had happened."""
    for scene in scenes():
        for task in (ledger.make("resume", 16), TWINS):
            wrong = resumed(drive, task, scene)
            if wrong:
                return f"killed {scene.moment} call {scene.at}, memory {scene.memory}: {wrong}"
    return ""


def resumed(drive: Drive, task: Task, scene: Scene) -> str:
    """Kill a run at a call and take it up again: -> "" or what is wrong in the end."""
    with tempfile.TemporaryDirectory() as folder:
        root, record, log = (Path(folder, name) for name in ("world", "turns.jsonl", "log"))
        write_world(task.files, root)
        keyed = scene.memory != "none"
        dying = Dying(SmallTools(root, LogWriter(log), keyed), scene)

        def patient(*args: object) -> Driver:
            driver = drive(*args)
            driver.executor.pause = dying.land
            return driver

        def driven(box: Dying | Late) -> Attempt:
            options = Options(call_limit_s=LONG_S)
            return attempt(
                task,
                Oracle(task.policy),
                toolbox=box,
                root=root,
                options=options,
                record=record,
                driver=patient,
                sync=False,
            )

        try:
            driven(dying)
            return "it was not killed"
        except Killed:
            pass
        log = Path(folder, "another") if scene.memory == "other" else log
        again = SmallTools(root, LogWriter(log), keyed)
        found = driven(Late(again, dying))
        return _wrong(found, task, root) or _misordered(found, again, scene)


def _wrong(found: Attempt, task: Task, root: Path) -> str:
    if not found.verdict.passed:
        return found.verdict.reason or found.verdict.process_reason
    same = world_hash(read_world(root)) == world_hash(_straight(task))
    return "" if same else "another final state"


def _misordered(found: Attempt, box: SmallTools, scene: Scene) -> str:
    """Compare the log with the driver's calls: all of them, or those that write.

    A server without keys executes a reading call again; one with another memory has half a log.
    """
    if scene.memory == "other" or box.log is None:
        return ""
    reads = {tool.name for tool in box.tools() if tool.read_only and scene.memory == "none"}
    lost = {call.trace_id for call in found.run.calls if call.is_lost}
    calls = [(c.trace_id, c.call.name) for c in found.run.calls if c.trace_id not in lost]
    log = read(box.log.folder)
    records = [r for r in log.records if r["trace_id"] not in lost and r["tool"] not in reads]
    sent = [(trace_id, name) for trace_id, name in calls if name not in reads]
    return next(iter(log.problems + order_problems(records, sent)), "")


def _straight(task: Task) -> dict[str, str]:
    """Give the final world of the same task without an interruption."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "world")
        write_world(task.files, root)
        attempt(task, Oracle(task.policy), root=root)
        return read_world(root)
