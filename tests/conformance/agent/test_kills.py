"""Real processes killed with SIGKILL at each moment of a writing call, and the run taken up again.

Nothing may be executed twice, so the final tree must be the one of a run without a stop. Where
nobody can know whether a call was executed, the run must say so.
"""

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conformance.agent.families import make
from conformance.agent.server_log import read
from conformance.agent.workbench import run_name
from tests.conformance.agent.killed import DRIVER, SERVER

ROOT = Path(__file__).parents[3]
KILLED = Path(__file__).parent / "killed.py"
N, AT = 16, 3
WAIT_S = 120.0
UNKNOWN = {"before", "between", "torn log"}  # the server began the call and died in it


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S)


def driving(out: Path, *more: str, dying: str = "") -> list[str]:
    """Word a run of the ledger, by a driver that dies at a moment or by a right one."""
    start = [str(KILLED), dying, str(AT), "driver"] if dying else ["-m", "conformance.agent"]
    task = ["run", "ledger", "-n", str(N), "--simulate", "oracle", "--out", str(out)]
    return [sys.executable, *start, *task, *more]


def serving(world: str, state: str, *more: str, dying: str = "", at: int = AT) -> str:
    start = [str(KILLED), dying, str(at), "server"] if dying else ["-m", "k2tools"]
    return shlex.join([sys.executable, *start, "serve", world, "--state", state, *more])


def log_of(out: Path) -> Path:
    return out / "state" / "runs" / run_name(make("ledger", "1", N))


@contextmanager
def http_server(out: Path, dying: str = "") -> Iterator[str]:
    """Serve the world of a run over HTTP on a free port: -> URL."""
    (out / "world").mkdir(parents=True, exist_ok=True)
    more = ("--http", "127.0.0.1:0", "--no-auth", "--set", "call_timeout_s=600")
    words = serving(str(out / "world"), str(out / "state"), *more, dying=dying)
    process = subprocess.Popen(shlex.split(words), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = next(line for line in process.stderr if "http://" in line)
        yield next(word for word in line.split() if word.startswith("http://"))
    finally:
        process.kill()
        process.communicate()


def check(done: subprocess.CompletedProcess[str], moment: str, out: Path) -> None:
    """The run passed, each entry stands once in the tree and at most once in the log."""
    assert "PASS (done)" in done.stdout, done.stdout + done.stderr
    assert ("unknown    edit_file" in done.stdout) == (moment in UNKNOWN)
    log = read(log_of(out))
    assert log.problems == []
    edits = [str(r["args"]["edits"]) for r in log.records if r["tool"] == "edit_file"]
    assert len(edits) == len(set(edits))


@pytest.mark.parametrize(
    ("moment", "transport"),
    [*((moment, "stdio") for moment in SERVER), ("between", "http"), ("logged", "http")],
)
@pytest.mark.slow
def test_a_run_survives_its_server(moment: str, transport: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if transport == "stdio":
        words = serving("{world}", "{state}", "--run", "{run}", dying=moment)
        stopped = run(driving(out, "--server", words))
        done = run(driving(out, "--resume"))
    else:
        with http_server(out, moment) as url:
            stopped = run(driving(out, "--server", url))
        with http_server(out) as url:
            done = run(driving(out, "--server", url, "--resume"))
    assert stopped.returncode == 2
    assert "the tool server went away during edit_file" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    check(done, moment, out)


@pytest.mark.parametrize(
    ("moment", "transport"),
    [*((moment, "stdio") for moment in DRIVER), ("unsent", "http"), ("received", "http")],
)
@pytest.mark.slow
def test_a_run_survives_its_driver_at_every_line(
    moment: str, transport: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    if transport == "stdio":
        stopped = run(driving(out, dying=moment))
        done = run(driving(out, "--resume"))
    else:
        with http_server(out) as url:
            stopped = run(driving(out, "--server", url, dying=moment))
            done = run(driving(out, "--server", url, "--resume"))
    assert stopped.returncode == -signal.SIGKILL, stopped.stderr
    check(done, moment, out)


@pytest.mark.slow
def test_the_operator_is_asked_where_nobody_can_know(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(driving(out, "--server", serving("{world}", "{state}", "--run", "{run}", dying="before")))
    asked = run(driving(out, "--resume", "--lost", "ask"))
    assert asked.returncode == 2
    assert "whether edit_file(" in asked.stderr
    assert "--lost repeat to execute it, or with --lost tell" in asked.stderr
    done = run(driving(out, "--resume", "--lost", "repeat"))  # it had no effect, as we know here
    check(done, "", out)


HELD = ("--run", "{run}", "--set", "call_timeout_s=600", "--set", "shutdown_grace_s=600")


@pytest.mark.parametrize("transport", ["http", pytest.param("stdio", marks=pytest.mark.slow)])
def test_a_call_that_still_runs_when_its_driver_is_killed_and_resumed_runs_once(
    transport: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    if transport == "http":
        with http_server(out, "held") as url:
            kill_at_the_held_call(out, "--server", url)
            done = run(driving(out, "--server", url, "--resume"))
    else:
        kill_at_the_held_call(out, "--server", serving("{world}", "{state}", *HELD, dying="held"))
        second = serving("{world}", "{state}", *HELD, dying="held", at=N)
        done = run(driving(out, "--server", second, "--resume"))
    check(done, "", out)
    assert {record["status"] for record in read(log_of(out)).records} == {"ok"}
    assert len(read(log_of(out)).records) == N


def kill_at_the_held_call(out: Path, *server: str) -> None:
    """Drive until the server holds an edit, then kill the driver."""
    process = subprocess.Popen(
        driving(out, *server), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + WAIT_S
    while not (out / "state" / "begun").exists():
        assert process.poll() is None, "the run ended before its call was held"
        assert time.monotonic() < deadline, "no call was held"
        time.sleep(0.02)
    process.kill()
    process.wait()
