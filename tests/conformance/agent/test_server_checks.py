"""Every server check can fail: a right small server, and one broken server for each clause."""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from conformance.agent import server_call_checks, server_checks, workbench
from conformance.agent.server_checks import CHECKS, check
from conformance.agent.server_log import LogWriter
from conformance.agent.server_run_checks import Patient
from conformance.agent.smalltools import SmallTools
from conformance.agent.toolbox import Result, Tool, ToolCall
from conformance.results import Verdict

LINE_CHARS = 2_000
PYTHON = Tool(
    "python",
    "Run Python.",
    {
        "type": "object",
        "properties": {"code": {"type": "string"}, "session": {"type": "string", "default": ""}},
        "required": ["code"],
        "additionalProperties": False,
    },
)
STARTED = itertools.count()


@dataclass
class Paged(SmallTools):
    """The small server with a reader that shows a file to its end, and with sessions."""

    sessions: set[str] = field(default_factory=set)

    def tools(self) -> list[Tool]:
        return [*super().tools(), PYTHON._replace(memory=super().tools()[0].memory)]

    def _one(self, call: ToolCall) -> Result:
        if call.name == "python":
            return self._python(**call.args)
        if (
            call.name == "read_file"
            and set(call.args) == {"path"}
            and call.args["path"] == "large.txt"
        ):
            call = ToolCall("open", {"id": "large.txt", "max_lines": 10_000})
        if call.name == "open":
            call = ToolCall("open", {"max_lines": 10_000, **call.args})
        return super()._one(call)

    def _python(self, code: Any = None, session: Any = "", **more: Any) -> Result:
        for name, value in {"code": code, "session": session, **more}.items():
            if not isinstance(value, str):
                return Result(f"{name}: got {value!r}. Example: python(code='1')", True)
        if session not in ("", "new", *self.sessions):
            return Result(f'{session} is gone; session="new" starts another', True)
        if session == "new":
            self.sessions.add(f"py_{len(self.sessions)}")
            return Result(f"session py_{len(self.sessions) - 1}")
        return Result("42")

    def _shown(self, text: str) -> str:
        ref = f"r{len(self.results)}"
        cap = 4_000
        text = "\n".join(line[:LINE_CHARS] for line in text.split("\n"))
        if len(text) > cap:
            head = text[: text.rfind("\n", 0, cap) + 1] or text[:cap]
            line = head.count("\n") + 1
            text = f'{head}[more: open(id="{ref}", line={line})]'
        return f"{text}\n[{ref}]"


@dataclass
class Broken(Paged):
    """A server with one fault."""

    fault: str = ""
    way: str = ""
    count: int = 0

    def tools(self) -> list[Tool]:
        tools = super().tools()
        if self.fault == "a hyphen":
            tools[0] = tools[0]._replace(name="search-files")
        if self.fault == "other schemas":
            tools[0] = tools[0]._replace(description=f"Process {next(STARTED)}")
        return tools

    def _one(self, call: ToolCall) -> Result:
        args = call.args
        if self.fault == "unknown arguments" and "verbosity" in args:
            call = ToolCall(call.name, {k: v for k, v in args.items() if k != "verbosity"})
        if self.fault == "coercion" and isinstance(args.get("line"), str):
            call = ToolCall(call.name, {**args, "line": 1})
        if self.fault == "a defect" and args.get("path") == "":
            return Result('Traceback (most recent call last):\n  File "server.py"', True)
        if self.fault == "an escape" and str(args.get("path")).startswith("/"):
            return Result("root:x:0:0\n[r1]")
        result = super()._one(call)
        if self.fault == "no example":
            return result._replace(text=result.text.replace("example", "e.g."))
        if self.fault == "no value":
            return result._replace(text=re.sub(r"got [^;]+", "got another", result.text))
        if self.fault in ("an address", "another run", "the era", "the hash seed"):
            return result._replace(text=f"{self._varying()}\n{result.text}")
        if self.fault == "lost refs" and call.name == "open":
            return Result("no such ref\n[r9]", True)
        return result

    def _varying(self) -> str:
        era, seed = self.way.split("/")
        return {"the era": era, "the hash seed": seed}.get(self.fault, f"at {id(self)}")

    def _python(self, *args: Any, **more: Any) -> Result:
        result = super()._python(*args, **more)
        if self.fault == "no way to a session" and result.error:
            return Result(result.text.partition(";")[0].replace("new", ""), True)
        return result

    def call_all(self, calls: Sequence[ToolCall]) -> list[Result]:
        self.count += len(calls)
        if self.fault == "exhausted" and self.count > 80:
            return [Result("too many open files", True) for _ in calls]
        if self.fault == "twice":
            calls = [call._replace(key="") for call in calls]
        results = super().call_all(calls)
        return results[::-1] if self.fault == "out of order" and len(calls) > 1 else results


@dataclass
class Forgetful(Broken):
    """Forgets refs and sessions when its client reconnects."""

    def call_all(self, calls: Sequence[ToolCall]) -> list[Result]:
        if self.fault == "lost by a reconnect":
            self.results.clear()
        if self.fault == "sessions lost by a reconnect":
            self.sessions.clear()
        return super().call_all(calls)


FAULTS = [
    ("S1", "a hyphen"),
    ("S2", "an address"),
    ("S2", "the era"),
    ("S2", "the hash seed"),
    ("S2", "other schemas"),
    ("S3", "unknown arguments"),
    ("S3", "coercion"),
    ("S3", "no example"),
    ("S3", "no value"),
    ("S3", "a defect"),
    ("S4", "an escape"),
    ("S4", "long lines"),
    ("S5", "lost refs"),
    ("S5", "no way to a session"),
    ("S5", "lost by a reconnect"),
    ("S5", "sessions lost by a reconnect"),
    ("S6", "out of order"),
    ("S6", "exhausted"),
    ("S7", "a changed byte"),
    ("S7", "twice"),
    ("S7", "another run"),
]


def served(fault: str) -> Callable[..., object]:
    @contextmanager
    def tools(
        server: str,
        world: Path,
        state: Path,
        run: str,
        *,
        era: str,
        hash_seed: str,
        reconnect: bool,
    ) -> Iterator[tuple[SmallTools, Path | None]]:
        log = state / "log"
        kind = Forgetful if reconnect else Broken
        yield kind(world, LogWriter(log), True, fault=fault, way=f"{era}/{hash_seed}"), log
        if fault == "a changed byte" and (log / "log.jsonl").exists():
            data = (log / "log.jsonl").read_bytes()
            (log / "log.jsonl").write_bytes(data.replace(b'"ok"', b'"on"', 1))

    return tools


@pytest.fixture(autouse=True)
def smaller_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_call_checks, "LARGE_LINES", 400)


def test_a_right_server_passes_every_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbench, "tools", served(""))
    results = check("fake:http", 20)
    assert [(r.case, r.verdict, r.message) for r in results if r.verdict != "pass"] == []


@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_every_clause_has_a_server_that_breaks_it(
    name: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbench, "tools", served(fault))
    monkeypatch.setattr(server_checks, "CHECKS", {name: CHECKS[name]})
    if fault == "long lines":
        monkeypatch.setattr("tests.conformance.agent.test_server_checks.LINE_CHARS", 4_500)
    assert [r.verdict for r in check("fake:http", 20)] == [Verdict.FAIL]


def test_every_check_has_a_server_that_fails_it() -> None:
    assert {name for name, _ in FAULTS} == set(CHECKS)


def test_a_server_that_asks_to_slow_down_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("x\n")
    slept: list[float] = []
    monkeypatch.setattr("conformance.agent.server_run_checks.time.sleep", slept.append)

    class Paced(SmallTools):
        def _one(self, call: ToolCall) -> Result:
            paced = Result("more than 200 calls per second: wait a second and repeat it", True)
            return super()._one(call) if len(slept) == 2 else paced

    (result,) = Patient(Paced(tmp_path)).call_all([ToolCall("read_file", {"path": "a.txt"})])
    assert not result.error
    assert slept == [1, 1]


def test_a_server_that_breaks_is_an_error_of_its_own() -> None:
    results = server_checks.check("no-such-command-here", 20)
    assert {r.verdict for r in results} == {Verdict.ERRORED}


def test_the_small_server_skips_what_it_does_not_give() -> None:
    verdicts = {r.case: r.verdict for r in check("small", 20)}
    assert verdicts.pop("S5") is Verdict.SKIPPED
    assert verdicts.pop("S7") is Verdict.SKIPPED
    assert verdicts.pop("S4") is Verdict.FAIL  # its long lines cannot be reached to the end
    assert set(verdicts.values()) == {Verdict.PASS}


@pytest.mark.slow
def test_our_own_server_passes_every_check_with_300_calls() -> None:
    assert [(r.case, r.message) for r in check("k2tools", 300) if r.verdict != "pass"] == []
