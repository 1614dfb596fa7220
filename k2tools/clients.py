"""What to paste where, so that a client starts the server: one snippet per client."""

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

NAME = "k2tools"


def command(folder: Path) -> list[str]:
    """Write the command that serves a folder, with absolute paths: clients start anywhere."""
    script = shutil.which("k2tools")
    # -P: no module is taken from the folder the client works in, where a tool may have put it
    start = [script] if script else [sys.executable, "-P", "-m", "k2tools"]
    return [*start, "serve", str(folder)]


def _json(key: str, argv: list[str], **extra: str) -> str:
    server = {**extra, "command": argv[0], "args": argv[1:]}
    return json.dumps({key: {NAME: server}}, indent=2)


def _toml(argv: list[str]) -> str:
    arguments = ", ".join(json.dumps(argument) for argument in argv[1:])
    return f"[mcp_servers.{NAME}]\ncommand = {json.dumps(argv[0])}\nargs = [{arguments}]"


# client -> (where it goes, what goes there)
CLIENTS: dict[str, tuple[str, Callable[[list[str]], str]]] = {
    "claude-code": (
        "run in a terminal",
        lambda argv: f"claude mcp add {NAME} -- {shlex.join(argv)}",
    ),
    "claude-desktop": (
        "claude_desktop_config.json (Settings, Developer, Edit Config)",
        lambda argv: _json("mcpServers", argv),
    ),
    "codex": ("~/.codex/config.toml", _toml),
    "cursor": ("~/.cursor/mcp.json", lambda argv: _json("mcpServers", argv)),
    "kimi-code": ("~/.kimi-code/mcp.json", lambda argv: _json("mcpServers", argv)),
    "vscode": (".vscode/mcp.json", lambda argv: _json("servers", argv, type="stdio")),
}


def snippet(client: str, folder: Path) -> str:
    """Write the snippet for a client: name, folder -> text with where it goes."""
    if client not in CLIENTS:
        raise ValueError(f"clients are {', '.join(CLIENTS)}; got {client!r}")
    place, write = CLIENTS[client]
    return f"# {place}\n{write(command(folder))}"
