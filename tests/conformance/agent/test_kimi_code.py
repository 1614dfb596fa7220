"""Kimi Code, unmodified, against the strict endpoint: 300 calls on k2tools.

It is found as `kimi` on the PATH, or as the command in the environment variable KIMI_CODE (such as
`node node_modules/@moonshot-ai/kimi-code/dist/main.mjs`; Node >= 22.19, npm package
@moonshot-ai/kimi-code 2.1.0). Without it the test is skipped.
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

ROOT = Path(__file__).parents[3]


def kimi() -> list[str]:
    words = shlex.split(os.environ.get("KIMI_CODE", ""))
    found = shutil.which("kimi")
    if not words and not found:
        pytest.skip("no Kimi Code: put `kimi` on the PATH or its command into KIMI_CODE")
    return words or [str(found)]


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
        timeout=240,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kimi_code_makes_300_calls_without_a_rejection() -> None:
    kimi()
    results = {result.case: result for result in check(run_kimi, 300)}
    for name in ("C1", "C2", "C4", "C6", "C7"):
        assert results[name].verdict is Verdict.PASS, results[name].message
    assert results["C3"].verdict is Verdict.LOOSE  # it writes ids in a form of its own
