"""S1 to S7: what a tool server must keep for a run of 300 calls.

Each check names its clause. A check that needs the server's log or a restart is skipped, and says
so, when the server gives neither.
"""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conformance.agent import server_log, workbench
from conformance.agent.attempt import attempt
from conformance.agent.families import chase
from conformance.agent.limits import WINDOW, Limits
from conformance.agent.misbehaving import Literal
from conformance.agent.run import Options
from conformance.agent.simulated import Oracle
from conformance.agent.tasks import Task, write_world
from conformance.agent.toolbox import Result, Tool, Toolbox, ToolCall, ref_of
from conformance.results import Result as CheckResult
from conformance.results import Verdict

LEVEL = "L7"
NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{2,23}")
MFJS = frozenset(
    {"type", "description", "default", "enum", "minimum", "maximum", "items", "anyOf"}
    | {"properties", "required", "additionalProperties", "minLength", "maxLength", "minItems"}
    | {"maxItems", "$defs", "$ref"}
)
DEFAULT_CHARS, HARD_CHARS = 4_000, 32_000
LARGE_LINES = 3_000
LEAKED = re.compile(r"Traceback|input_value=|File \"|errors\.pydantic\.dev")


@dataclass
class Subject:
    """A server that can be started on a world of its own, and started again."""

    server: str
    folder: Path
    task: Task
    run: str = "server-check-0123456789abcdef0123"
    log: Path | None = field(default=None)

    @property
    def world(self) -> Path:
        return self.folder / "world"

    @contextmanager
    def start(self) -> Iterator[Toolbox]:
        state = self.folder / "state"
        with workbench.tools(self.server, self.world, state, self.run) as (box, log):
            self.log = log
            yield box

    @contextmanager
    def fresh(self, name: str) -> Iterator[Toolbox]:
        """Start on a copy of the world, with a state of its own."""
        other = Subject(self.server, self.folder / name, self.task)
        write_world(self.task.files, other.world)
        with other.start() as box:
            yield box


def one(box: Toolbox, name: str, **args: Any) -> Result:
    """Send one call."""
    return box.call_all([ToolCall(name, args)])[0]


def body(result: Result) -> str:
    """Take the ref line off a result: it varies and is outside every comparison."""
    ref = ref_of(result.text)
    return result.text[: result.text.rfind(f"[{ref}]")].rstrip("\n") if ref else result.text


def s1_schemas(subject: Subject, n: int) -> str:
    """Schemas keep to MFJS, names to 24 word characters, all tools to 1 % of the window."""
    with subject.start() as box:
        tools = box.tools()
    for tool in tools:
        if not NAME.fullmatch(tool.name):
            return f"{tool.name}: the name must match {NAME.pattern}"
        if not tool.description:
            return f"{tool.name} has no description"
        wrong = next(_schema_problems(tool.schema, tool.name), "")
        if wrong:
            return wrong
    weight = sum(len(tool.description) + len(str(tool.schema)) for tool in tools) // 4
    return "" if weight <= WINDOW / 100 else f"{weight} tokens of declarations"


def _schema_problems(schema: dict[str, Any], where: str) -> Iterator[str]:
    unknown = set(schema) - MFJS
    if unknown:
        yield f"{where}: {sorted(unknown)} are outside MFJS"
    if not {"type", "anyOf", "$ref"} & set(schema):
        yield f"{where}: type is not defined"
    if schema.get("type") == "object" and "additionalProperties" not in schema:
        yield f"{where}: additionalProperties is not said"
    for name, sub in (schema.get("properties") or {}).items():
        yield from _schema_problems(sub, f"{where}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from _schema_problems(schema["items"], f"{where}[]")


def s2_determinism(subject: Subject, n: int) -> str:
    """Two servers on equal worlds give the same bytes for the same calls."""
    bodies = []
    for name in ("first", "second"):
        with subject.fresh(name) as box:
            results = [one(box, "read_file", path=path) for path in sorted(subject.task.files)[:20]]
            results += [one(box, "list_files"), one(box, "read_file", path="none.txt")]
            bodies.append([body(result) for result in results])
    different = [i for i, (a, b) in enumerate(zip(*bodies, strict=True)) if a != b]
    return (
        f"result {different[0] + 1} differs: {bodies[0][different[0]][:60]!r}" if different else ""
    )


def bad_calls(tool: Tool) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Make bad calls of a tool: (kind, arguments, the argument that an error must name)."""
    required = {
        name: _wrong(tool.schema["properties"][name]) for name in tool.schema.get("required", [])
    }
    right = {name: _right(tool.schema["properties"][name]) for name in required}
    yield "unknown argument", {**right, "verbosity": 3}, "verbosity"
    for name, wrong in required.items():
        yield "wrong type", {**right, name: wrong}, name
        yield "missing", {k: v for k, v in right.items() if k != name}, name


def _wrong(schema: dict[str, Any]) -> Any:
    return [1] if schema.get("type") == "string" else "seven"


def _right(schema: dict[str, Any]) -> Any:
    samples: dict[str, Any] = {
        "integer": 1,
        "number": 1,
        "boolean": True,
        "object": {},
        "array": [],
    }
    return schema.get("enum", [samples.get(schema.get("type", ""), "x")])[0]


def s3_errors(subject: Subject, n: int) -> str:
    """A bad call is an error that names the argument, and leads a literal reader to success."""
    with subject.start() as box:
        for tool in box.tools():
            for kind, args, named in bad_calls(tool):
                result = one(box, tool.name, **args)
                if not result.error:
                    return f"{tool.name}: {kind} {named!r} was accepted"
                if named not in result.text or LEAKED.search(result.text):
                    return f"{tool.name}: {kind}: {result.text[:90]!r}"
        return _literal(subject, box)


def _literal(subject: Subject, box: Toolbox) -> str:
    path = min(subject.task.files)
    names = list(next(t for t in box.tools() if t.name == "read_file").schema["properties"])

    def repair(args: dict[str, Any], text: str) -> dict[str, Any] | None:
        wrong = next((name for name in args if name not in names), None)
        if wrong is None:
            return None
        named = re.findall(r"\b(" + "|".join(names) + r")\b", text)
        return {named[0]: args[wrong]} if named else {}

    model = Literal("read_file", {"pathh": path}, repair)
    found = attempt(subject.task, model, toolbox=box, root=subject.world)
    calls = found.run.calls
    return (
        ""
        if not calls[-1].result.error and len(calls) <= 3
        else f"not recovered: {calls[-1].result.text[:90]!r}"
    )


def s4_limits(subject: Subject, n: int) -> str:
    """Outputs are capped, the rest stays reachable, and no path leads outside."""
    lines = [f"line {i} {'x' * 60}" for i in range(1, LARGE_LINES + 1)] + ["y" * 5_000]
    (subject.world / "large.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (subject.folder / "outside.txt").write_text("outside", encoding="utf-8")
    (subject.world / "link.txt").symlink_to(subject.folder / "outside.txt")
    with subject.start() as box:
        first = one(box, "read_file", path="large.txt")
        if len(first.text) > DEFAULT_CHARS + 200:
            return f"{len(first.text)} characters without being asked for more"
        wide = one(box, "read_file", path="large.txt", max_lines=1_000)
        if len(wide.text) > HARD_CHARS + 200:
            return f"{len(wide.text)} characters, the hard cap is {HARD_CHARS}"
        missing = _not_reached(box, first)
        if missing:
            return missing
        for path in (
            "../outside.txt",
            "/etc/passwd",
            "link.txt",
            "cells/../../outside.txt",
            "a\0b",
        ):
            result = one(box, "read_file", path=path)
            if not result.error or body(result) == "outside" or "root:" in result.text:
                return f"{path!r} was read"
    return ""


def _not_reached(box: Toolbox, first: Result) -> str:
    """Follow the calls that cut results name; every line must come once."""
    result, seen = first, 0
    for _ in range(LARGE_LINES):
        seen += len(re.findall(r"\bline \d+ x", result.text))
        more = re.search(r"\[more: (\w+)\((.*)\)\]", result.text)
        if not more:
            break
        args = dict(re.findall(r'(\w+)="([^"]*)"', more[2]))
        numbers = {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", more[2])}
        result = one(box, more[1], **args, **numbers)
        if result.error:
            return f"the call it names fails: {result.text[:90]!r}"
    return "" if seen == LARGE_LINES else f"{seen} of {LARGE_LINES} lines can be reached"


def s5_refs(subject: Subject, n: int) -> str | None:
    """A ref still opens after the server was started again."""
    path = subject.task.milestones[0].value
    with subject.start() as box:
        ref = ref_of(one(box, "read_file", path=path).text)
    if subject.log is None:
        return None
    if not ref:
        return "results carry no ref"
    with subject.start() as box:
        again = one(box, "open", id=ref)
    text = next(iter(subject.task.files[path].splitlines()))
    return (
        ""
        if not again.error and text in again.text
        else f"{ref} after a restart: {again.text[:90]!r}"
    )


def s6_soak(subject: Subject, n: int) -> str:
    """n calls end well, and 16 parallel calls equal 16 serial ones."""
    with subject.start() as box:
        paths = [step.value for step in subject.task.milestones[:16]]
        calls = [ToolCall("read_file", {"path": path}) for path in paths]
        together = [body(r) for r in box.call_all(calls)]
        singly = [body(r) for call in calls for r in box.call_all([call])]
        if together != singly:
            return "16 parallel calls differ from 16 serial ones"
        limits = Limits(steps=n + 1)
        found = attempt(
            subject.task,
            Oracle(subject.task.policy),
            toolbox=box,
            root=subject.world,
            options=Options(limits=limits),
        )
    return "" if found.verdict.passed else found.verdict.reason or found.verdict.process_reason


def s7_log(subject: Subject, n: int) -> str | None:
    """The log is whole; a changed byte and a torn tail are seen."""
    with subject.start() as box:
        for step in subject.task.milestones[:5]:
            one(box, "read_file", path=step.value)
    if subject.log is None:
        return None
    log = server_log.read(subject.log)
    if log.problems or not log.records:
        return log.problems[0] if log.problems else "the log is empty"
    copy = subject.folder / "copy"
    shutil.copytree(subject.log, copy)
    data = (copy / "log.jsonl").read_bytes()
    (copy / "log.jsonl").write_bytes(data.replace(b'"read_file"', b'"read_filf"', 1))
    if not server_log.read(copy).problems:
        return "a changed byte is not seen"
    (copy / "log.jsonl").write_bytes(data[:-9])
    torn = server_log.read(copy)
    return (
        "" if torn.torn and len(torn.records) == len(log.records) - 1 else "a torn tail is not seen"
    )


CHECKS: dict[str, Callable[[Subject, int], str | None]] = {
    "S1": s1_schemas,
    "S2": s2_determinism,
    "S3": s3_errors,
    "S4": s4_limits,
    "S5": s5_refs,
    "S6": s6_soak,
    "S7": s7_log,
}


def check(server: str, n: int) -> list[CheckResult]:
    """Check a server: its name or command, calls of the soak -> one result per clause."""
    return [_checked(name, server, n) for name in CHECKS]


def _checked(name: str, server: str, n: int) -> CheckResult:
    clause = (CHECKS[name].__doc__ or "").strip()
    with tempfile.TemporaryDirectory(prefix="k2conf-") as folder:
        task = chase.make(f"server-{name}", max(16, n))
        subject = Subject(server, Path(folder).resolve(), task)
        write_world(task.files, subject.world)
        try:
            said = CHECKS[name](subject, n)
        except Exception as error:  # a server may fail in any way; the kit goes on
            return CheckResult(name, f"agent:server-{name}", LEVEL, Verdict.ERRORED, repr(error))
    if said is None:
        text = f"{clause} Skipped: the server gives no log"
        return CheckResult(name, f"agent:server-{name}", LEVEL, Verdict.SKIPPED, text)
    verdict = Verdict.FAIL if said else Verdict.PASS
    message = f"{clause} {said}".strip()
    return CheckResult(name, f"agent:server-{name}", LEVEL, verdict, message)
