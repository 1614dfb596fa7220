"""However the server ends, nothing that it started lives on; nor does what python started."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from k2tools.sandbox.launcher import descendants
from tests.k2tools import canaries
from tests.k2tools.tiers import TIERS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")

DAEMONS = """
import os, time
for _ in range(20):
    if not os.fork():
        os.setsid()
        if not os.fork():
            os.closerange(0, 64)
            time.sleep(300)
        os._exit(0)
time.sleep(0.2)
"""
END_S = 60.0


class Served:
    """A server process spoken to line by line, so that it can be killed in the middle."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.request(
            "initialize",
            protocolVersion="2025-11-25",
            capabilities={},
            clientInfo={"name": "test", "version": "0"},
        )
        self.send(method="notifications/initialized")

    def send(self, **message: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        self.process.stdin.flush()

    def request(self, method: str, **params: Any) -> Any:
        self.send(id=1, method=method, params=params)
        assert self.process.stdout is not None
        while "id" not in (answer := json.loads(self.process.stdout.readline())):
            pass
        return answer["result"]

    def python(self, code: str, session: str = "") -> str:
        arguments = {"code": code, "session": session}
        result = self.request("tools/call", name="python", arguments=arguments)
        return str(result["content"][0]["text"])


@contextmanager
def served(tier: str, state: Path) -> Iterator[Served]:
    """Serve a workspace from a process of its own; without bwrap on its path, tier 2 is chosen."""
    path = os.environ["PATH"] if tier == "bubblewrap" else "/nonexistent"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": os.getcwd()}
    with canaries.workspace() as workspace:
        command = [sys.executable, "-m", "k2tools", "serve", str(workspace), "--state", str(state)]
        with (
            open(state.with_suffix(".err"), "w+") as errors,
            subprocess.Popen(
                command,
                env=environment,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            ) as process,
        ):
            try:
                yield Served(process)
            finally:
                process.kill()
        assert f"python runs in tier {tier}" in state.with_suffix(".err").read_text()


def identity(pid: int) -> str:
    """Tell a process from another that gets its number later: id -> its start time, or ""."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19]
    except (OSError, IndexError):
        return ""


def assert_all_end(processes: dict[int, str]) -> None:
    deadline_s = time.monotonic() + END_S
    while left := [pid for pid, born in processes.items() if identity(pid) == born]:
        assert time.monotonic() < deadline_s, f"{len(left)} of {len(processes)} live on"
        time.sleep(0.02)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    "ending",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
        pytest.param(None, marks=pytest.mark.slow, id="end of input"),
    ],
)
def test_no_process_outlives_the_server(
    tier: str, ending: signal.Signals | None, tmp_path: Path
) -> None:
    with served(tier, tmp_path / "state") as server:
        server.python(DAEMONS, session="new")
        started = {pid: identity(pid) for pid in descendants(server.process.pid)}
        assert len(started) > 20
        if ending is None:
            server.process.stdin.close()  # type: ignore[union-attr]
        else:
            server.process.send_signal(ending)
        assert_all_end(started)


@pytest.mark.parametrize("tier", TIERS)
def test_what_a_fresh_process_leaves_behind_ends_with_its_call(tier: str, tmp_path: Path) -> None:
    with served(tier, tmp_path / "state") as server:
        server.python("1")
        assert server.python(DAEMONS).startswith("(no output)")
        below = descendants(server.process.pid)
        assert len(below) < 20, "the daemons of the call live on"
