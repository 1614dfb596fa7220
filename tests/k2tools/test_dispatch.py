"""The way of a call: time limits, incidents, cancellation, progress, caps, inner calls."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp_types import ToolAnnotations

from k2tools.results import Result, ToolError
from k2tools.runlog import verify
from k2tools.server import PACKS, build_server
from k2tools.settings import Settings
from k2tools.toolbox import Context, Pack, tool
from tests.k2tools.conftest import ERAS, Connect, text

pytestmark = pytest.mark.anyio


async def sleep_long(cx: Context, seconds: int = 60) -> str:
    """Sleep."""
    (cx.workspace.path / "begun").touch()
    try:
        await anyio.sleep(seconds)
    except anyio.get_cancelled_exc_class():
        (cx.workspace.path / "cancelled").touch()
        raise
    return "slept"


async def break_down(cx: Context) -> str:
    """Fail as a defect does."""
    raise RuntimeError("SECRET internals")


async def refuse_in_group(cx: Context) -> str:
    """Refuse from inside a task group."""
    async with anyio.create_task_group():
        raise ToolError("not like this")


async def print_much(cx: Context, lines: int = 5_000, max_lines: int = 0) -> Result:
    """Print."""
    return Result("\n".join(f"line {n}" for n in range(lines)), keep="ends")


async def call_inside(cx: Context) -> str:
    """Call another tool."""
    inner = await cx.call("list_files", {})
    wrong = await cx.call("list_files", {"glo": 1})
    return f"{inner.body}|{inner.status}|{wrong.status}"


FUNCTIONS = (sleep_long, break_down, refuse_in_group, print_much, call_inside)
PACK = Pack(
    tools=tuple(
        tool(f, example={}, annotations=ToolAnnotations(), size_arguments=("max_lines",))
        for f in FUNCTIONS
    )
)
WITH = (*PACKS, PACK)


async def test_a_call_that_takes_too_long_is_stopped_with_a_way_out(
    connect: Connect, settings: Settings
) -> None:
    async with connect(replace(settings, call_timeout_s=1.0), packs=WITH) as client:
        assert "stopped after 1 s: ask for less" in await text(client, "sleep_long")
    assert (settings.workspace / "cancelled").exists()


async def test_a_defect_shows_an_incident_and_nothing_else(connect: Connect) -> None:
    async with connect(packs=WITH) as client:
        answer = await text(client, "break_down")
        assert "failed inside the server (incident " in answer
        assert "SECRET" not in answer


async def test_a_refusal_inside_a_task_group_reaches_the_model(connect: Connect) -> None:
    async with connect(packs=WITH) as client:
        assert (await text(client, "refuse_in_group")).startswith("not like this")


async def there(path: Path) -> None:
    while not path.exists():
        await anyio.sleep(0.01)


@pytest.mark.parametrize("mode", ERAS)
async def test_a_cancelled_call_stops_its_tool_and_is_logged(
    connect: Connect, settings: Settings, mode: str
) -> None:
    async with connect(packs=WITH, mode=mode) as client:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(client.call_tool, "sleep_long", {})
                await there(settings.workspace / "begun")
                group.cancel_scope.cancel()
            await there(settings.workspace / "cancelled")
        await text(client, "list_files")
    (run,) = (settings.state / "runs").iterdir()
    statuses = [record["status"] for record in verify(run).records]
    assert statuses[0] == "cancelled"
    assert statuses[-1] == "ok"


async def test_progress_comes_while_a_call_runs_and_only_rises(
    connect: Connect, settings: Settings
) -> None:
    """In memory the 2026 client sends no token; `test_clients` asks for progress on the wire."""
    ticks: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        ticks.append(progress)
        if len(ticks) == 3:
            running.cancel()

    changed = replace(settings, heartbeat_s=0.02)
    async with connect(changed, packs=WITH, mode="legacy") as client:
        with anyio.CancelScope() as running:
            await client.call_tool("sleep_long", {}, progress_callback=note)
    assert len(ticks) >= 3
    assert ticks == sorted(set(ticks))


async def test_output_is_capped_and_the_rest_is_behind_the_ref(connect: Connect) -> None:
    async with connect(packs=WITH) as client:
        short = await text(client, "print_much")
        assert len(short) <= 4_000 + 20
        assert short.startswith("line 0\n")
        assert "line 4999\n[r1]" in short
        long = await text(client, "print_much", max_lines=1)
        assert 30_000 < len(long) <= 32_000
        middle = await text(client, "open", id="r1", line=2_501, max_lines=1)
        assert "line 2500" in middle


async def test_inner_calls_are_logged_with_their_parent(
    connect: Connect, settings: Settings
) -> None:
    (settings.workspace / "a").touch()
    async with connect(packs=WITH) as client:
        assert await text(client, "call_inside") == "a\t0|ok|error\n[r1]"
    (run,) = (settings.state / "runs").iterdir()
    logged = [(r["ref"], r["tool"], r["parent"]) for r in verify(run).records]
    assert logged == [
        ("r2", "list_files", "r1"),
        ("r3", "list_files", "r1"),
        ("r1", "call_inside", ""),
    ]


async def test_a_denied_tool_says_so(connect: Connect, settings: Settings) -> None:
    async with connect(replace(settings, deny_tools=frozenset({"write_file"}))) as client:
        assert "does not allow write_file" in await text(client, "write_file", path="a", text="b")
    (run,) = (settings.state / "runs").iterdir()
    assert [record["status"] for record in verify(run).records] == ["denied"]


async def test_a_full_disk_under_the_log_withholds_the_answer(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connect() as client:
        await text(client, "list_files")

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("k2tools.runlog.write_all", full)
        answer = await text(client, "list_files")
        assert "run log could not be written" in answer


async def test_a_run_that_cannot_begin_is_an_answer_and_the_next_call_tries_again(
    connect: Connect, settings: Settings
) -> None:
    runs = settings.state / "runs"
    settings.state.mkdir()
    runs.touch()  # where the folder should be
    async with connect() as client:
        assert "run log could not be written" in await text(client, "list_files")
        runs.unlink()
        assert "[r1]" in await text(client, "list_files")


async def test_parallel_calls_equal_serial_ones_byte_for_byte(
    connect: Connect, settings: Settings
) -> None:
    for number in range(16):
        (settings.workspace / f"f{number}.txt").write_text(f"text {number}\n" * number)
    async with connect() as client:
        answers: dict[int, str] = {}

        async def read(number: int) -> None:
            answers[number] = await text(client, "read_file", path=f"f{number}.txt")

        for number in range(16):
            await read(number)
        serial = {n: answer.rpartition("\n")[0] for n, answer in answers.items()}
        async with anyio.create_task_group() as group:
            for number in range(16):
                group.start_soon(read, number)
        assert {n: answer.rpartition("\n")[0] for n, answer in answers.items()} == serial


async def test_the_trace_id_and_the_run_come_from_the_requests_meta(settings: Settings) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    meta = {
        "traceparent": f"00-{trace}-00f067aa0ba902b7-01",
        "io.k2tools/run": "a_run_name_of_22_characters",
    }
    async with Client(build_server(settings)) as client:
        await client.call_tool("list_files", {}, meta=meta)
    run = settings.state / "runs" / "a_run_name_of_22_characters"
    (record,) = verify(run).records
    assert record["trace_id"] == trace
