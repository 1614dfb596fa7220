"""Real processes killed with SIGKILL at each moment of a writing call, and the run taken up again.

Nothing may be executed twice, so the final tree must be the one of a run without a stop. Where
nobody can know whether a call was executed, the run must say so.
"""

import fcntl
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
UNKNOWN = {"before", "between", "torn log", "unsent"}  # the server's log lacks the call


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S)


def driving(out: Path, *more: str, dying: str = "") -> list[str]:
    """Word a run of the ledger, by a driver that dies at a moment or by a right one."""
    start = [str(KILLED), dying, str(AT), "driver"] if dying else ["-m", "conformance.agent"]
    task = ["run", "ledger", "-n", str(N), "--simulate", "oracle", "--out", str(out)]
    return [sys.executable, *start, *task, *more]


def serving(world: str, state: str, *more: str, dying: str = "") -> list[str]:
    start = [str(KILLED), dying, str(AT), "server"] if dying else ["-m", "k2tools"]
    return [sys.executable, *start, "serve", world, "--state", state, *more]


def log_of(out: Path) -> Path:
    return out / "state" / "runs" / run_name(make("ledger", "1", N))


@contextmanager
def http_server(out: Path, dying: str = "") -> Iterator[str]:
    """Serve the world of a run over HTTP on a free port: -> URL."""
    (out / "world").mkdir(parents=True, exist_ok=True)
    words = serving(str(out / "world"), str(out / "state"), "--http", "127.0.0.1:0", "--no-auth",
                    dying=dying)  # fmt: skip
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = next(line for line in process.stderr if "http://" in line)
        yield next(word for word in line.split() if word.startswith("http://"))
    finally:
        process.kill()
        process.communicate()


def let_go(log: Path) -> None:
    """Wait until the server of a killed driver has ended, and with it its hold on the log."""
    deadline = time.monotonic() + WAIT_S
    while True:
        with (log / "log.jsonl").open() as file:
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                assert time.monotonic() < deadline, "the server did not end"
        time.sleep(0.02)


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
        stopped = run(driving(out, "--server", shlex.join(words)))
        done = run(driving(out, "--resume"))
    else:
        with http_server(out, moment) as url:
            stopped = run(driving(out, "--server", url))
        with http_server(out) as url:
            done = run(driving(out, "--server", url, "--server-log", str(log_of(out)), "--resume"))
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
        let_go(log_of(out))
        done = run(driving(out, "--resume"))
    else:
        with http_server(out) as url:
            stopped = run(driving(out, "--server", url, dying=moment))
            done = run(driving(out, "--server", url, "--server-log", str(log_of(out)), "--resume"))
    assert stopped.returncode == -signal.SIGKILL, stopped.stderr
    check(done, moment, out)


def test_the_operator_is_asked_where_nobody_can_know(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(driving(out, dying="unsent"))
    let_go(log_of(out))
    asked = run(driving(out, "--resume", "--lost", "ask"))
    assert asked.returncode == 2
    assert "whether edit_file(" in asked.stderr
    assert "--lost repeat to execute it, or with --lost tell" in asked.stderr
    let_go(log_of(out))
    done = run(driving(out, "--resume", "--lost", "repeat"))  # it was not sent, as we know here
    check(done, "", out)
