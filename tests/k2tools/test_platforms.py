"""Without Linux: `python` is refused with a sentence, everything else works."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What the interpreter of another system lacks is taken away before anything is imported.
ELSEWHERE = {
    "darwin": "import sys, anyio, mcp.server, uvicorn; sys.platform = 'darwin'",
    "win32": """
import asyncio, os, subprocess, sys
import encodings.idna, multiprocessing, shutil, socket, ssl, tempfile, uuid, ctypes
import anyio, mcp, mcp.server.stdio, uvicorn  # with the host's own event loop
import fcntl, resource, pwd, grp
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY", "fchmod",
             "setsid", "fork", "killpg"):
    if hasattr(os, name): delattr(os, name)
os.supports_dir_fd = set()
whole = ctypes.CDLL.__init__
def load(self, name, *args, **kw):
    if name is None: raise TypeError("no library without a name")
    whole(self, None if name == "kernel32" else name, *args, **kw)
ctypes.CDLL.__init__ = load
sys.platform = "win32"
""",
}
USE = """
import tempfile
from pathlib import Path
import anyio
from k2tools.server import PACKS, lifespan, tools_of
from k2tools.settings import Settings

async def main():
    base = Path(tempfile.mkdtemp())
    (base / "ws").mkdir()
    (base / "ws" / "a.txt").write_text("lake level 7")
    settings = Settings(base / "ws", base / "state")
    async with lifespan(settings, PACKS, tools_of(PACKS)) as state:
        session = state.sessions.get("local")
        for tool, arguments in (
            ("write_file", {"path": "sub/b.txt", "text": "river"}),
            ("edit_file", {"path": "sub/b.txt", "edits": [{"old": "river", "new": "lake"}]}),
            ("list_files", {}),
            ("grep", {"pattern": "la.e"}),
            ("search", {"query": "lake level"}),
            ("read_file", {"path": "../x"}),
            ("python", {"code": "1"}),
        ):
            outcome = await state.dispatcher.call(session, tool, arguments)
            print(tool, outcome.status, outcome.body.replace("\\n", "|"))

anyio.run(main)
"""


@pytest.mark.parametrize("platform", ELSEWHERE)
def test_python_is_refused_elsewhere_and_the_rest_works(platform: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", ELSEWHERE[platform] + "\n" + USE],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    seen = dict(line.split(" ", 1) for line in run.stdout.splitlines())
    for tool in ("write_file", "edit_file", "list_files", "grep", "search"):
        assert seen[tool].startswith("ok "), run.stdout
    assert "sub/b.txt:1: lake" in seen["grep"]
    assert seen["read_file"].startswith("error '../x' leads outside")
    assert seen["python"].startswith("error ")
    assert "sandbox" in seen["python"]
    assert "failed inside" not in run.stdout
