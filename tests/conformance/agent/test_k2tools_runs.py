"""300-step runs through `k2tools serve`, killed in the middle and taken up again.

The proof of the whole chain: a real server in a process of its own, the driver in another, killed
with SIGKILL at a moment nobody chose. The final tree must be the one of a run without a stop, and
the server's log must hold every call once.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conformance.agent import server_log, trace
from conformance.agent.families import make
from conformance.agent.record import events
from conformance.agent.tasks import Task, read_world, world_hash
from conformance.agent.workbench import run_name

ROOT = Path(__file__).parents[3]
N = 300
WAIT_S = 60.0


def command(family: str, out: Path, *more: str) -> list[str]:
    base = [sys.executable, "-m", "conformance.agent", "run", family, "-n", str(N)]
    return [*base, "--simulate", "oracle", "--out", str(out), *more]


def run(family: str, out: Path, *more: str) -> str:
    done = subprocess.run(
        command(family, out, *more), cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_for(condition: object, what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def killed_in_the_middle(family: str, out: Path, *more: str) -> int:
    """Start a run, kill the driver once half of its turns are written, wait for its children."""
    process = subprocess.Popen(command(family, out, *more), cwd=ROOT, stdout=subprocess.DEVNULL)
    record = out / "turns.jsonl"
    half = N  # a turn has two lines
    wait_for(
        lambda: (record.exists() and record.read_bytes().count(b"\n") >= half) or process.poll(),
        "the run did not get to its middle",
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(alive(pid) for pid in children), "the server did not end")
    kinds = [event["kind"] for event in events(record)]
    assert kinds[-1] in ("turn", "results")
    return kinds.count("turn")


def alive(pid: str) -> bool:
    """Tell whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def http_server(world: Path, state: Path, name: str) -> Iterator[str]:
    """Serve a world over HTTP on a free port of the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "k2tools", "serve", str(world), "--http", f"127.0.0.1:{port}"]
    words += ["--no-auth", "--state", str(state), "--run", name]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: _listens(port), "the server did not start")
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        process.wait(20)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def check_log(folder: Path, task: Task) -> None:
    """Every entry was read and posted once, in order, and the chain is whole.

    Where the kill struck a posting that the log lacks, the model has looked once more, and the
    posting may stand in the tree alone.
    """
    log = server_log.read(folder)
    assert log.problems == []
    assert not log.torn
    ended = [record for record in log.records if record["status"] != "cancelled"]
    calls = [(record["tool"], record["args"].get("path")) for record in ended]
    wanted = [(step.tool, step.value) for step in task.milestones]
    looked = [call for call in calls if call[0] == "read_file" and call not in wanted]
    assert len(looked) <= 1
    done = [call for call in calls if call not in looked]
    assert done == wanted or (looked and len(done) >= len(wanted) - 1)


def straight(family: str, folder: Path) -> str:
    """Hash the final world of a run that nobody stopped."""
    out = folder / "straight"
    run(family, out)
    return world_hash(read_world(out / "world"))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["chase", "ledger"])
def test_a_run_over_stdio_survives_its_driver(family: str, tmp_path: Path) -> None:
    task = make(family, "1", N)
    out = tmp_path / "killed"
    before = killed_in_the_middle(family, out)
    assert before < N
    assert "PASS (done)" in run(family, out, "--resume")
    check_log(out / "state" / "runs" / run_name(task), task)
    assert world_hash(read_world(out / "world")) == straight(family, tmp_path)
    assert len(trace.read(out / "turns.jsonl").turns) in (N + 1, N + 2, N + 3)  # a lost call


@pytest.mark.slow
@pytest.mark.parametrize("family", ["chase", "ledger"])
def test_a_run_over_http_survives_its_driver(family: str, tmp_path: Path) -> None:
    task = make(family, "1", N)
    out, state = tmp_path / "killed", tmp_path / "state"
    (out / "world").mkdir(parents=True)
    name = run_name(task)
    with http_server(out / "world", state, name) as url:
        more = ("--server", url)
        killed_in_the_middle(family, out, *more)
        assert "PASS (done)" in run(family, out, *more, "--resume")
    check_log(state / "runs" / name, task)
    assert world_hash(read_world(out / "world")) == straight(family, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["dossier", "repair", "report", "proof", "needle", "stop"])
def test_the_other_families_run_through_the_server(family: str, tmp_path: Path) -> None:
    assert "PASS" in run(family, tmp_path / "out")


def test_a_short_run_goes_through_the_server(tmp_path: Path) -> None:
    words = command("ledger", tmp_path / "out")
    words[words.index(str(N))] = "12"
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
