"""The official MCP conformance suite, against the fixtures on our factory and the real server."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.k2tools.npm import node, script

pytestmark = pytest.mark.slow

PINNED = "0.2.0-alpha.12"
REQUIRED = {"2025-11-25": 30, "2026-07-28": 37}
# Scenarios that need no fixture: the server a user runs must pass them as it is.
PROTOCOL_ONLY = {
    "2025-11-25": ("server-initialize", "ping", "tools-list", "dns-rebinding-protection"),
    "2026-07-28": (
        "tools-list",
        "dns-rebinding-protection",
        "http-header-validation",
        "input-required-result-unsupported-methods",
    ),
}


@contextmanager
def serving(command: list[str], stream: str = "stdout") -> Iterator[str]:
    """Start a server process: command -> its URL."""
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        line = getattr(process, stream).readline()
        yield re.search(r"http://\S+", line)[0].replace("127.0.0.1", "localhost")
    finally:
        process.terminate()
        process.communicate(timeout=60)


def conformance(url: str, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    suite = script("@modelcontextprotocol/conformance", "dist/index.js")
    command = [node(), suite, "server", "--url", url, "-o", str(out), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def verdicts(output: str) -> dict[str, bool]:
    """Read the summary: output -> scenario, whether it passed."""
    scored = output.partition("=== SUMMARY ===")[2]
    return {name: mark == "✓" for mark, name in re.findall(r"^([✓✗]) ([\w-]+):", scored, re.M)}


@pytest.mark.parametrize("revision", REQUIRED)
def test_the_fixtures_on_our_factory_pass_every_required_scenario(
    revision: str, tmp_path: Path
) -> None:
    (tmp_path / "ws").mkdir()
    serve = [sys.executable, "-m", "tests.k2tools.suite.serve"]
    with serving([*serve, str(tmp_path / "ws"), str(tmp_path / "state")]) as url:
        run = conformance(url, tmp_path / "out", "--requirements", revision)
    unscored = re.findall(r"^  [✓✗] ([\w-]+) \(", run.stdout, re.M)
    passed = {name: ok for name, ok in verdicts(run.stdout).items() if name not in unscored}
    assert [name for name, ok in passed.items() if not ok] == []
    assert len(passed) == REQUIRED[revision]
    assert run.returncode == 0


@pytest.mark.parametrize("revision", PROTOCOL_ONLY)
def test_the_server_that_users_run_passes_every_scenario_without_fixtures(
    revision: str, tmp_path: Path
) -> None:
    (tmp_path / "ws").mkdir()
    state = ["--state", str(tmp_path / "state")]
    serve = [sys.executable, "-m", "k2tools", "serve", str(tmp_path / "ws"), *state]
    with serving([*serve, "--http", "127.0.0.1:0", "--no-auth"], "stderr") as url:
        for scenario in PROTOCOL_ONLY[revision]:
            only = ("--scenario", scenario, "--spec-version", revision)
            run = conformance(url, tmp_path / scenario, *only)
            assert run.returncode == 0, f"{scenario}: {run.stdout[-2000:]}"
