"""Stdio and HTTP: how messages reach the server, and how it ends without leaving orphans."""

import os
import signal

import anyio
from mcp.server.stdio import stdio_server

from k2tools.server import build_server
from k2tools.settings import Settings


async def serve_stdio(settings: Settings) -> int:
    """Serve one client over stdin and stdout until it closes them or a signal comes."""
    server = build_server(settings)
    serving = anyio.CancelScope()
    ended: list[int] = []

    async def on_signal() -> None:
        with anyio.open_signal_receiver(*ending_signals()) as signals:
            async for number in signals:
                ended.append(number)
                serving.cancel()
                await anyio.sleep(0.3)
                os._exit(128 + number)  # a blocked read of stdin must not hold the process

    async with anyio.create_task_group() as group:
        group.start_soon(on_signal)
        with serving:
            async with stdio_server() as (read, write):
                await server.run(read, write, server.create_initialization_options())
        if not ended:
            group.cancel_scope.cancel()
    return 0


def ending_signals() -> list[signal.Signals]:
    """List the signals that end a server here; Windows knows fewer."""
    names = ("SIGTERM", "SIGINT", "SIGHUP")
    return [getattr(signal, name) for name in names if hasattr(signal, name)]
