"""S2, S5, S6, S7: what a server must keep over many calls, processes and restarts."""

import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from conformance.agent import server_log
from conformance.agent.attempt import Attempt, attempt
from conformance.agent.heavy import TRAJECTORIES, trajectories
from conformance.agent.limits import Limits
from conformance.agent.run import Options
from conformance.agent.server_subject import Subject, Way, body, one, right_arguments
from conformance.agent.simulated import Oracle
from conformance.agent.toolbox import Result, Tool, Toolbox, ToolCall, ref_of

PARALLEL = 16
HANDLE = re.compile(r"\bsession (\w+_[\w-]+)")
KEY = "server-check-key-0001"
PATIENCE_S = 30


def s2_determinism(subject: Subject, n: int) -> str:
    """The same calls give the same bytes, and the tools the same schemas, in every process, hash
    seed, transport and era."""
    seen: list[tuple[Way, list[Any], list[str]]] = []
    for number, way in enumerate(subject.ways):
        with subject.fresh(f"way-{number}").start(way) as box:
            tools: list[Any] = [(t.name, t.description, t.schema) for t in box.tools()]
            seen.append((way, tools, [body(result) for result in _many(subject, box)]))
    first, tools, bodies = seen[0]
    for way, others, their in seen[1:]:
        if others != tools:
            return f"other tools by {way} than by {first}"
        different = [
            i for i, pair in enumerate(zip(bodies, their, strict=True)) if len({*pair}) > 1
        ]
        if different:
            index = different[0]
            return f"result {index + 1} by {way}: {their[index][:60]!r}, by {first}: other bytes"
    return ""


def _many(subject: Subject, box: Toolbox) -> list[Result]:
    """Read files, one that is none, and ask every reading tool something."""
    results = [one(box, "read_file", path=path) for path in sorted(subject.task.files)[:20]]
    results += [one(box, "list_files"), one(box, "read_file", path="none.txt")]
    reading = [tool for tool in box.tools() if tool.read_only]
    return results + [one(box, tool.name, **right_arguments(tool.schema)) for tool in reading]


def s5_refs(subject: Subject, n: int) -> str | None:
    """Refs open and sessions go on after a reconnect, refs after a restart too, and a session that
    is gone says how to get another."""
    path = subject.task.milestones[0].value
    with subject.start() as box:
        ref, handle = ref_of(one(box, "read_file", path=path).text), _session(box)
    if subject.log is None:
        return None
    if not ref:
        return "results carry no ref"
    with subject.start() as box:
        again = one(box, "open", id=ref)
        if again.error or _first_line(subject, path) not in again.text:
            return f"{ref} after a restart: {again.text[:90]!r}"
        if handle:
            gone = one(box, "python", code="print(x)", session=handle)
            if not gone.error or 'session="new"' not in gone.text:
                return f"a session after a restart: {gone.text[:90]!r}"
    return _reconnected(subject, path)


def _reconnected(subject: Subject, path: str) -> str:
    """Open and close the client around every call, where the server stays."""
    ways = [way for way in subject.ways if way.server.endswith(":http")]
    for way in ways:
        with subject.fresh(f"reconnect-{way.era}").start(way, reconnect=True) as box:
            ref, handle = ref_of(one(box, "read_file", path=path).text), _session(box)
            again = one(box, "open", id=ref)
            if again.error or _first_line(subject, path) not in again.text:
                return f"{ref} after a reconnect, {way}: {again.text[:90]!r}"
            if (
                handle
                and "42" not in (kept := one(box, "python", code="print(x)", session=handle)).text
            ):
                return f"a session after a reconnect, {way}: {kept.text[:90]!r}"
    return ""


def _session(box: Toolbox) -> str:
    """Start a Python session where that is offered and works: -> its handle."""
    if "python" not in {tool.name for tool in box.tools()}:
        return ""
    found = HANDLE.search(one(box, "python", code="x = 42", session="new").text)
    return found[1] if found else ""


def _first_line(subject: Subject, path: str) -> str:
    return subject.task.files[path].splitlines()[0]


@dataclass
class Patient:
    """A toolbox whose calls are repeated, a second later, where the server asks to slow down."""

    inner: Toolbox

    def tools(self) -> list[Tool]:
        return self.inner.tools()

    def call_all(self, calls: Sequence[ToolCall]) -> list[Result]:
        return [self._one(call) for call in calls]

    def _one(self, call: ToolCall) -> Result:
        for _ in range(PATIENCE_S):
            result = self.inner.call_all([call])[0]
            if not result.error or "per second" not in result.text:
                break
            time.sleep(1)
            call = call._replace(key="")  # the key names the call that was refused
        return result


def s6_soak(subject: Subject, n: int) -> str:
    """n calls end well, then 8 times n at once, and 16 parallel calls equal 16 serial ones."""
    with subject.start() as box:
        paths = [step.value for step in subject.task.milestones[:PARALLEL]]
        calls = [ToolCall("read_file", {"path": path}) for path in paths]
        together = [body(r) for r in box.call_all(calls)]
        singly = [body(r) for call in calls for r in box.call_all([call])]
        if together != singly:
            return f"{PARALLEL} parallel calls differ from {PARALLEL} serial ones"

        def chased(index: int) -> Attempt:
            options = Options(limits=Limits(steps=n + 1))
            model = Oracle(subject.task.policy)
            return attempt(
                subject.task, model, toolbox=Patient(box), root=subject.world, options=options
            )

        verdicts = [found.verdict for found in (chased(0), *trajectories(chased, TRAJECTORIES))]
    wrong = [(i, v) for i, v in enumerate(verdicts) if not v.passed]
    if not wrong:
        return ""
    index, verdict = wrong[0]
    which = f"{index}th of {TRAJECTORIES} at once" if index else "alone"
    return f"{n} calls, {which}: {verdict.reason or verdict.process_reason}"


def s7_log(subject: Subject, n: int) -> str | None:
    """The log is whole, a changed byte and a torn tail are seen, a run goes on after a restart
    without executing a call twice, and its calls repeated elsewhere give the same bytes."""
    with subject.start() as box:
        for step in subject.task.milestones[:5]:
            one(box, "read_file", path=step.value)
        keyed = any(tool.name == "write_file" and tool.memory for tool in box.tools())
        before = _write_once(box) if keyed else None
    if subject.log is None:
        return None
    if before:
        (subject.world / "once.txt").unlink()
        with subject.start() as box:
            if body(_write_once(box)) != body(before) or (subject.world / "once.txt").exists():
                return "a call sent again under its key was executed again"
    log = server_log.read(subject.log)
    if log.problems or not log.records:
        return log.problems[0] if log.problems else "the log is empty"
    return _damage_unseen(subject, log) or _replayed(subject, log)


def _write_once(box: Toolbox) -> Result:
    return box.call_all([ToolCall("write_file", {"path": "once.txt", "text": "x"}, key=KEY)])[0]


def _damage_unseen(subject: Subject, log: server_log.ServerLog) -> str:
    copy = subject.folder / "copy"
    shutil.copytree(log.folder, copy)
    data = (copy / "log.jsonl").read_bytes()
    (copy / "log.jsonl").write_bytes(data.replace(b'"read_file"', b'"read_filf"', 1))
    if not server_log.read(copy).problems:
        return "a changed byte is not seen"
    (copy / "log.jsonl").write_bytes(data[:-9])
    torn = server_log.read(copy)
    whole = torn.torn and len(torn.records) == len(log.records) - 1
    return "" if whole else "a torn tail is not seen"


def _replayed(subject: Subject, log: server_log.ServerLog) -> str:
    """Repeat the logged calls on a fresh world and compare what the two logs keep."""
    other = subject.fresh("replay")
    with other.start() as box:
        for record in log.records:
            one(box, record["tool"], **record["args"])
    if other.log is None:
        return ""
    outs = [[r["out_sha"] for r in each.records] for each in (log, server_log.read(other.log))]
    return "" if outs[0] == outs[1] else "the calls of the log, repeated, give other bytes"
