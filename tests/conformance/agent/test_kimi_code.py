"""Kimi Code, unmodified, against the strict endpoint: 300 calls on k2tools.

It is the command in the environment variable KIMI_CODE, `kimi` on the PATH, or the npm package
@moonshot-ai/kimi-code 2.1.0 where the other npm packages are (tests/k2tools/npm.py). Without it, or
without a Node >= 22.19 for it, the test is skipped.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conformance.agent.client_checks import check
from conformance.results import Verdict
from tests.k2tools import npm

LEAST_NODE = (22, 19)
ROOT = Path(__file__).parents[3]


def kimi() -> list[str]:
    words = shlex.split(os.environ.get("KIMI_CODE", ""))
    found = shutil.which("kimi")
    if words or found:
        return words or [str(found)]
    program = npm.node()
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    version = tuple(map(int, shown.stdout.strip().removeprefix("v").split(".")[:2]))
    if version < LEAST_NODE:
        pytest.skip(f"Kimi Code needs Node >= 22.19, got {shown.stdout.strip()}")
    return [program, npm.script("@moonshot-ai/kimi-code", "dist/main.mjs")]


def run_kimi(url: str, prompt: str, world: Path) -> str:
    """Let Kimi Code work on a prompt, with k2tools as its MCP server and a home of its own."""
    home = world.parent / "home"
    home.mkdir()
    serve = ["-m", "k2tools", "serve", str(world), "--state", str(world.parent / "state")]
    server = {"command": sys.executable, "args": serve, "cwd": str(ROOT)}
    servers = {"mcpServers": {"k2tools": server}}
    (home / "mcp.json").write_text(json.dumps(servers))
    given = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "KIMI_CODE_HOME": str(home),
        "KIMI_MODEL_NAME": "simulated",
        "KIMI_MODEL_API_KEY": "none",
        "KIMI_MODEL_PROVIDER_TYPE": "openai",
        "KIMI_MODEL_BASE_URL": url,
    }
    words = [*kimi(), "-p", prompt, "--output-format", "stream-json"]
    done = subprocess.run(
        words,
        cwd=world,
        env=given,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kimi_code_makes_300_calls_without_a_rejection() -> None:
    kimi()
    results = {result.case: result for result in check(run_kimi, 300)}
    for name in ("C1", "C2", "C4", "C6", "C7"):
        assert results[name].verdict is Verdict.PASS, results[name].message
    assert results["C3"].verdict is Verdict.LOOSE  # it writes ids in a form of its own
