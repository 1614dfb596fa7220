"""Heavy mode at full length: eight trajectories of 300 calls, at the same time, on one server.

Nothing may grow with the calls: the server closes every connection, holds one open log a run, works
with a bounded number of threads, and its memory stays where a short round of the same runs left it.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conformance.agent import server_log
from conformance.agent.attempt import Attempt, attempt
from conformance.agent.families import chase
from conformance.agent.heavy import TRAJECTORIES, fuse, trajectories
from conformance.agent.mcp_tools import McpTools
from conformance.agent.run import Options
from conformance.agent.simulated import noisy
from conformance.agent.tasks import Task, write_world

ROOT = Path(__file__).parents[3]
SHORT, LONG = 30, 300
WAIT_S = 60.0
GROWTH_MB = 32.0


@contextmanager
def server(world: Path, state: Path) -> Iterator[tuple[str, int]]:
    """Serve a world over HTTP: -> URL and process id."""
    words = [sys.executable, "-m", "k2tools", "serve", str(world), "--http", "127.0.0.1:0"]
    words += ["--no-auth", "--state", str(state)]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = next(line for line in process.stderr if "http://" in line)
        yield next(word for word in line.split() if word.startswith("http://")), process.pid
    finally:
        process.terminate()
        process.communicate(timeout=WAIT_S)


def heavy(task: Task, url: str, world: Path) -> list[Attempt]:
    """Run eight noisy trajectories of a task, each as a run of its own."""

    def one(index: int) -> Attempt:
        name = run_of(index)
        with McpTools(url, name) as box:
            model = noisy(task.policy, f"{task.seed}/{index}", 0.002)
            options = Options(run_id=f"{task.n}-{name}")
            return attempt(task, model, toolbox=box, root=world, options=options)

    return trajectories(one, TRAJECTORIES)


def run_of(index: int) -> str:
    return f"run-{index}-0123456789abcdef0123456789abcdef"


def connections(url: str) -> int:
    """Count the connections that a server has not closed (established, or closed by the client)."""
    port = f":{int(url.rpartition(':')[2].partition('/')[0]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(port) and row[3] in ("01", "08") for row in rows)


def open_logs(pid: int) -> int:
    targets = [str(path.resolve()) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return sum(target.endswith("/log.jsonl") for target in targets)


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def memory_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def closed(url: str) -> bool:
    """Wait until the server has closed what its clients have closed."""
    deadline = time.monotonic() + WAIT_S
    while connections(url) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not connections(url)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc")
def test_eight_times_300_calls_leave_a_server_as_it_was(tmp_path: Path) -> None:
    world, state = tmp_path / "world", tmp_path / "state"
    short, long = chase.make("short", SHORT), chase.make("long", LONG)
    write_world({**short.files, **long.files}, world)
    with server(world, state) as (url, pid):
        heavy(short, url, world)
        memory = memory_mb(pid)
        found = heavy(long, url, world)
        assert closed(url)
        assert open_logs(pid) == TRAJECTORIES
        assert threads(pid) <= 64  # workers are bounded, whatever the calls
        assert memory_mb(pid) - memory < GROWTH_MB
    assert [len(a.run.calls) for a in found] == [LONG] * TRAJECTORIES
    assert all(a.verdict.process and not a.verdict.safety for a in found)
    fused = fuse(long, found, "vote")
    assert fused.right
    assert not fused.pass_hat_k  # the vote had something to decide
    for index in range(TRAJECTORIES):
        log = server_log.read(state / "runs" / run_of(index))
        assert log.problems == []
        reads = [record["args"]["path"] for record in log.records]
        assert reads == [s.value for t in (short, long) for s in t.milestones]
