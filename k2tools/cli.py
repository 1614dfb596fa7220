"""The command line: `k2tools serve DIR` and its companions."""

import argparse
import hashlib
import os
from pathlib import Path

import anyio

from k2tools.settings import Settings


def main(argv: list[str] | None = None) -> int:
    """Run one command: arguments -> exit code."""
    parser = argparse.ArgumentParser("k2tools", description=__doc__)
    commands = parser.add_subparsers(required=True)
    serve = commands.add_parser("serve", help="serve a folder to an MCP client over stdio")
    serve.add_argument("folder", type=Path)
    serve.add_argument("--state", type=Path, help="where run logs and indexes live")
    serve.set_defaults(run=run_serve)
    options = parser.parse_args(argv)
    return int(options.run(options))


def run_serve(options: argparse.Namespace) -> int:
    from k2tools.transports import serve_stdio  # the SDK takes half a second to import

    folder = options.folder.resolve(strict=True)
    settings = Settings(folder, options.state or default_state(folder))
    return anyio.run(serve_stdio, settings)


def default_state(folder: Path) -> Path:
    """Choose where the runs of a folder live: never inside it."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]
    return base / "k2tools" / f"{folder.name or 'root'}-{name}"
