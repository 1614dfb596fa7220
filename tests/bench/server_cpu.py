"""Server CPU per tool call: k2tools beside FastMCP and the SDK's own MCPServer, in one run.

    python -m tests.bench.server_cpu [--calls 1500] [--rounds 3]

The same tool `add`, the same pre-encoded requests, one server process at a time; CPU is user and
system time of the server from /proc, so load on the machine matters little. k2tools validates
strictly and writes an fsynced, hash-chained record and the body of every call; the others log
nothing. The best round of each counts. FastMCP is measured when it is installed.
"""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx

ROOT = Path(__file__).parents[2]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
HEADERS = {
    "Accept": "application/json, text/event-stream",
    "Content-Type": "application/json",
    "MCP-Protocol-Version": "2026-07-28",
    "Mcp-Method": "tools/call",
    "Mcp-Name": "add",
}


def request(number: int) -> bytes:
    params = {"name": "add", "arguments": {"a": number, "b": 2}, "_meta": META}
    return json.dumps(
        {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
    ).encode()


def serve_k2tools(transport: str, state: str) -> None:
    import anyio
    from mcp_types import ToolAnnotations

    from k2tools.server import build_server
    from k2tools.settings import Settings
    from k2tools.toolbox import Context, Pack, tool
    from k2tools.transports import Address, serve_http, serve_stdio

    async def add(cx: Context, a: int, b: int) -> str:
        """Add two numbers."""
        return str(a + b)

    workspace = Path(state) / "ws"
    workspace.mkdir()
    settings = Settings(workspace, Path(state) / "state", rate_burst_calls=10**9)
    added = tool(add, example={"a": 1, "b": 2}, annotations=ToolAnnotations())
    server = build_server(settings, (Pack((added,)),))
    if transport == "stdio":
        anyio.run(serve_stdio, server)
    else:
        here = Address("127.0.0.1", 0, verifier=None)
        serve_http(server, settings, here, lambda url: print(url, file=sys.stderr, flush=True))


def serve_other(kind: str, transport: str) -> None:
    if kind == "fastmcp":
        from fastmcp import FastMCP as Server  # type: ignore[import-not-found]
    else:
        from mcp.server import MCPServer as Server
    server = Server("other")

    @server.tool()
    async def add(a: int, b: int) -> str:
        """Add two numbers."""
        return str(a + b)

    if transport == "stdio":
        server.run(**({"show_banner": False} if kind == "fastmcp" else {}))
        return
    import socket

    import uvicorn

    app = server.http_app() if kind == "fastmcp" else server.streamable_http_app()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", file=sys.stderr, flush=True)
        config = uvicorn.Config(app, log_level="warning", lifespan="on")
        uvicorn.Server(config).run(sockets=[listener])


def cpu_s(pid: int) -> float:
    """Read a process's user and system time: pid -> seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


@contextmanager
def running(kind: str, transport: str, state: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.bench.server_cpu", "--serve", kind, transport, state]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def caller(process: Any, transport: str) -> Callable[[bytes], bytes]:
    """Make the function that sends one request and reads one answer."""
    if transport == "stdio":

        def ask(message: bytes) -> bytes:
            process.stdin.write(message + b"\n")
            process.stdin.flush()
            return bytes(process.stdout.readline())

        return ask
    line = ""
    while not (found := re.search(r"http://\S+", line)):
        line = process.stderr.readline().decode()
    client = httpx.Client(headers=HEADERS, timeout=30)
    return lambda message: client.post(found[0], content=message).content


def measured(kind: str, transport: str, state: str, calls: int) -> tuple[float, float]:
    """Measure one server: -> CPU and wall milliseconds per call."""
    with running(kind, transport, state) as process:
        ask = caller(process, transport)
        for number in range(200):
            answer = ask(request(number))
        assert b"201" in answer, answer[-2000:]
        before, started_s = cpu_s(process.pid), time.perf_counter()
        for number in range(calls):
            ask(request(number))
        wall_s = time.perf_counter() - started_s
        return (cpu_s(process.pid) - before) / calls * 1e3, wall_s / calls * 1e3


def main(calls: int, rounds: int) -> None:
    kinds = {"k2tools, log on disk": ("k2tools", None), "MCPServer, no log": ("mcpserver", None)}
    if Path("/dev/shm").is_dir():
        kinds["k2tools, log in memory"] = ("k2tools", "/dev/shm")
    if importlib.util.find_spec("fastmcp"):
        kinds["FastMCP, no log"] = ("fastmcp", None)
    best: dict[tuple[str, str], tuple[float, float]] = {}
    for _ in range(rounds):
        for transport in ("stdio", "http"):
            for name, (kind, where) in kinds.items():
                with tempfile.TemporaryDirectory(dir=where) as state:
                    got = measured(kind, transport, state, calls)
                best[name, transport] = min(best.get((name, transport), got), got)
    print("| server | stdio, CPU ms per call | HTTP, CPU ms per call |\n|---|---|---|")
    for name in kinds:
        print(f"| {name} | {best[name, 'stdio'][0]:.2f} | {best[name, 'http'][0]:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve and options.serve[0] == "k2tools":
        serve_k2tools(*options.serve[1:])
    elif options.serve:
        serve_other(*options.serve[:2])
    else:
        main(options.calls, options.rounds)
