"""Hundreds of calls in a row: nothing grows, nothing is lost, the run goes on after a kill."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters

from k2tools.runlog import verify
from k2tools.settings import Settings
from tests.k2tools.conftest import ERAS, text
from tests.k2tools.processes import ROOT, http_server, serve
from tests.k2tools.tiers import WITH_BWRAP, WITH_LANDLOCK

pytestmark = [
    pytest.mark.slow,
    pytest.mark.anyio,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]

CALLS = 300
COLD = "--set", "warm_sandboxes=0"  # python's warm processes would come in the middle of the count
FEW = 10  # connections and workers come and go; one left by each call of a kind would be 25
GROWTH_KB = 6_000  # allocator noise; a leak of one 20 KB result per call would show


def fill(settings: Settings) -> None:
    for number in range(20):
        (settings.workspace / f"f{number}.md").write_text(
            f"# File {number}\n\nlake level {number}\n"
        )


async def one_call(client: Client, number: int) -> str:
    """Make a call of one of six kinds, every sixth an error."""
    name = f"f{number % 20}.md"
    kinds = (
        ("read_file", {"path": name}),
        ("grep", {"pattern": f"level {number % 20}"}),
        ("search", {"query": "lake level"}),
        ("write_file", {"path": "notes.md", "text": f"call {number}\n"}),
        ("list_files", {"glob": "*.md"}),
        ("read_file", {"path": f"missing{number}"}),
    )
    tool, arguments = kinds[number % len(kinds)]
    return await text(client, tool, **arguments)


async def counter(client: Client) -> str:
    """Start a Python session that counts: -> its handle."""
    begun = await text(client, "python", code="n = 0", session="new")
    return begun.split()[1]


def footprint(pid: int) -> tuple[int, int, int]:
    """Measure a process: -> resident KB, open descriptors, children."""
    resident = next(
        int(line.split()[1])
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return resident, len(os.listdir(f"/proc/{pid}/fd")), len(children)


@pytest.mark.parametrize("mode", ERAS)
async def test_300_calls_over_http_grow_nothing(settings: Settings, mode: str) -> None:
    fill(settings)
    with http_server(settings, *COLD) as (url, pid):
        async with Client(url, mode=mode) as client:
            for number in range(CALLS // 2):
                await one_call(client, number)
            before = footprint(pid)
            for number in range(CALLS // 2, CALLS):
                await one_call(client, number)
            after = footprint(pid)
    assert after[0] - before[0] < GROWTH_KB
    assert after[1] < before[1] + FEW
    assert after[2] < before[2] + FEW
    (run,) = (settings.state / "runs").iterdir()
    verdict = verify(run)
    assert not verdict.problems
    assert [record["ref"] for record in verdict.records] == [f"r{n}" for n in range(1, CALLS + 1)]


async def test_8_times_300_calls_at_once(settings: Settings) -> None:
    fill(settings)
    with http_server(settings, *COLD) as (url, pid):

        async def client_of(number: int) -> None:
            async with Client(url) as client:
                for call in range(CALLS):
                    if handles and call % 10 == 9:
                        counted = await text(
                            client, "python", code="n += 1\nn", session=handles[number]
                        )
                        assert counted.startswith(f"{call // 10 + 1}\n")
                    else:
                        await one_call(client, 6 * call + (call + number) % 5)  # no error kind

        async with Client(url) as client:
            handles = (
                [await counter(client) for _ in range(8)] if WITH_BWRAP or WITH_LANDLOCK else []
            )
            for number in range(len(handles), 60):
                await one_call(client, number)
        before = footprint(pid)
        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(client_of, number)
        after = footprint(pid)
    assert after[0] - before[0] < 3 * GROWTH_KB  # eight connections' worth of buffers
    assert after[2] < before[2] + FEW
    (run,) = (settings.state / "runs").iterdir()
    verdict = verify(run)
    assert not verdict.problems
    assert len(verdict.records) == 60 + 8 * CALLS
    assert {record["status"] for record in verdict.records[60:]} == {"ok"}


async def test_a_run_killed_every_50_calls_ends_as_an_undisturbed_one(
    settings: Settings, tmp_path: Path
) -> None:
    """Each client connects anew; the server is killed between them; refs and answers go on."""
    answers: dict[str, list[str]] = {}
    for run, calls_per_life in (("whole", CALLS), ("killed", 50)):
        workspace = tmp_path / run
        workspace.mkdir()
        chosen = Settings(workspace, settings.state)
        fill(chosen)
        command, *arguments = serve(chosen, "--run", run)
        process = StdioServerParameters(command=command, args=arguments, cwd=str(ROOT))
        answers[run] = []
        for start in range(0, CALLS, calls_per_life):
            with anyio.move_on_after(60) as scope:
                async with Client(process) as client:
                    for number in range(start, start + calls_per_life):
                        answers[run].append(await one_call(client, number))
                    if calls_per_life < CALLS:
                        kill_children_serving(run)
            assert not scope.cancelled_caught
    assert answers["killed"] == answers["whole"]
    verdicts = {run: verify(settings.state / "runs" / run) for run in answers}
    assert all(not verdict.problems for verdict in verdicts.values())
    outs = {run: [r["out_sha"] for r in verdict.records] for run, verdict in verdicts.items()}
    assert outs["killed"] == outs["whole"]


LEAVING = """
import sys
import anyio
from mcp import Client, StdioServerParameters

async def main():
    command, *arguments = sys.argv[1:]
    async with Client(StdioServerParameters(command=command, args=arguments)) as client:
        while True:
            await client.call_tool("list_files", {"glob": "*.md"})
            print("called", flush=True)

anyio.run(main)
"""


async def test_a_killed_client_leaves_no_server_and_a_run_that_goes_on(settings: Settings) -> None:
    fill(settings)
    command = serve(settings, "--run", "left")
    with subprocess.Popen(
        [sys.executable, "-c", LEAVING, *command], cwd=ROOT, stdout=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        for _ in range(20):
            assert client.stdout.readline() == b"called\n"
        client.kill()
    with anyio.fail_after(60):
        while serving("left"):
            await anyio.sleep(0.05)
    verdict = verify(settings.state / "runs" / "left")
    assert not verdict.problems
    assert len(verdict.records) >= 20
    process = StdioServerParameters(command=command[0], args=command[1:], cwd=str(ROOT))
    async with Client(process) as successor:
        answer = await text(successor, "read_file", path="f0.md")
    assert answer.endswith(f"[r{len(verdict.records) + 1}]")


def serving(run: str) -> list[str]:
    """List the processes that have the name of a run among their arguments."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if run.encode() in process.read_bytes().split(b"\0"):
                found.append(process.parent.name)
    return found


def kill_children_serving(run: str) -> None:
    """SIGKILL the server of a run, found among this process's own children."""
    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        if run.encode() in words:
            os.kill(int(child), 9)
