"""The server as users run it: over stdio, and over HTTP at a port of its own."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from k2tools.settings import Settings

ROOT = Path(__file__).parents[2]


def serve(settings: Settings, *extra: str) -> list[str]:
    """Write the command that serves a workspace."""
    start = [sys.executable, "-m", "k2tools", "serve", str(settings.workspace)]
    return [*start, "--state", str(settings.state), *extra]


@contextmanager
def http_server(settings: Settings, *extra: str) -> Iterator[tuple[str, int]]:
    """Run the HTTP server without a token on loopback: -> its URL, its process id."""
    command = serve(settings, "--http", "127.0.0.1:0", "--no-auth", *extra)
    with subprocess.Popen(command, cwd=ROOT, text=True, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            found = re.search(r"http://\S+", process.stderr.readline())
            assert found is not None
            yield found[0], process.pid
        finally:
            process.terminate()
            process.communicate(timeout=60)
