"""Every server check can fail: a right small server, and one broken server for each clause."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from conformance.agent import server_checks, workbench
from conformance.agent.server_checks import CHECKS, check
from conformance.agent.server_log import LogWriter
from conformance.agent.smalltools import SmallTools
from conformance.agent.toolbox import Result, Tool, ToolCall
from conformance.results import Verdict


@dataclass
class Paged(SmallTools):
    """The small server with a reader that shows a file to its end."""

    def _one(self, call: ToolCall) -> Result:
        if (
            call.name == "read_file"
            and set(call.args) == {"path"}
            and call.args["path"] == "large.txt"
        ):
            call = ToolCall("open", {"id": "large.txt", "max_lines": 10_000})
        if call.name == "open":
            call = ToolCall("open", {**call.args, "max_lines": 10_000})
        return super()._one(call)

    def _shown(self, text: str) -> str:
        ref = f"r{len(self.results)}"
        cap = 4_000
        if len(text) > cap:
            head = text[: text.rfind("\n", 0, cap) + 1] or text[:cap]
            line = head.count("\n") + 1
            text = f'{head}[more: open(id="{ref}", line={line})]'
        return f"{text}\n[{ref}]"


@dataclass
class Broken(Paged):
    """A server with one fault."""

    fault: str = ""
    started: int = 0

    def tools(self) -> list[Tool]:
        tools = super().tools()
        if self.fault == "S1":
            tools[0] = tools[0]._replace(name="search-files")
        return tools

    def _one(self, call: ToolCall) -> Result:
        if self.fault == "S3" and "verbosity" in call.args:
            call = ToolCall(call.name, {k: v for k, v in call.args.items() if k != "verbosity"})
        if self.fault == "S4" and call.name == "read_file" and call.args["path"].startswith("/"):
            return Result("root:x:0:0\n[r1]")
        result = super()._one(call)
        if self.fault == "S2":
            return result._replace(text=f"at {id(self)}\n{result.text}")
        if self.fault == "S5" and call.name == "open":
            return Result("no such ref\n[r9]", True)
        return result

    def call_all(self, calls: Sequence[ToolCall]) -> list[Result]:
        results = super().call_all(calls)
        return results[::-1] if self.fault == "S6" and len(calls) > 1 else results


def served(fault: str) -> Callable[..., object]:
    @contextmanager
    def tools(
        server: str, world: Path, state: Path, run: str
    ) -> Iterator[tuple[SmallTools, Path | None]]:
        log = state / "log"
        yield Broken(world, LogWriter(log), fault=fault), log
        if fault == "S7" and (log / "log.jsonl").exists():
            data = (log / "log.jsonl").read_bytes()
            (log / "log.jsonl").write_bytes(data.replace(b'"ok"', b'"on"', 1))

    return tools


@pytest.fixture(autouse=True)
def smaller_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_checks, "LARGE_LINES", 400)


def test_a_right_server_passes_every_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbench, "tools", served(""))
    assert [(r.case, r.verdict, r.message) for r in check("fake", 20) if r.verdict != "pass"] == []


@pytest.mark.parametrize("name", CHECKS)
def test_every_check_has_a_server_that_fails_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbench, "tools", served(name))
    monkeypatch.setattr(server_checks, "CHECKS", {name: CHECKS[name]})
    assert [r.verdict for r in check("fake", 20)] == [Verdict.FAIL]


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
