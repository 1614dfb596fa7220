"""Stdio and HTTP: how messages reach the server, and how it ends without leaving orphans."""

import os
import signal
import socket
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import anyio
import uvicorn
from mcp.server import Server
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from k2tools.auth import Verifier, auth_settings, is_loopback
from k2tools.settings import Settings

STOP_S = 0.3  # for tools to kill what they started


async def serve_stdio(server: Server[Any]) -> int:
    """Serve one client over stdin and stdout until it closes them or a signal comes."""
    serving = anyio.CancelScope()
    ended: list[int] = []

    async def on_signal() -> None:
        with anyio.open_signal_receiver(*ending_signals()) as signals:
            async for number in signals:
                ended.append(number)
                serving.cancel()
                await anyio.sleep(STOP_S)
                os._exit(128 + number)  # a blocked read of stdin must not hold the process

    async with anyio.create_task_group() as group:
        group.start_soon(on_signal)
        with serving:
            async with server.lifespan(server) as state:
                server.lifespan = lambda _: nullcontext(state)
                await _served(server)
        if not ended:
            group.cancel_scope.cancel()
    return 0


async def _served(server: Server[Any]) -> None:
    """Answer until the client is gone: a pipe that breaks ends the serving, not its calls."""
    try:
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())
    except* BrokenPipeError:
        pass


def ending_signals() -> list[signal.Signals]:
    """List the signals that end a server here; Windows knows fewer."""
    names = ("SIGTERM", "SIGINT", "SIGHUP")
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


@dataclass(frozen=True)
class Address:
    """Where to listen and whom to let in."""

    host: str
    port: int
    verifier: Verifier | None  # None: anybody on this machine
    scopes: tuple[str, ...] = ()
    stateless: bool = False  # 2025 clients without server-side sessions, for several workers

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def http_app(server: Server[Any], settings: Settings, address: Address) -> Starlette:
    """Mount a server on HTTP: /mcp for clients, /health for whoever watches."""
    require_protection(address)
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=list(settings.allowed_hosts),
        allowed_origins=list(settings.allowed_origins),
    )
    verifier = address.verifier
    auth = auth_settings(verifier, address.url, list(address.scopes)) if verifier else None
    return server.streamable_http_app(
        host=address.host,
        stateless_http=address.stateless,
        max_request_body_size=settings.max_request_bytes,
        session_idle_timeout=None if address.stateless else settings.http_session_idle_s,
        max_sessions=settings.max_http_sessions,
        transport_security=security,
        auth=auth,
        token_verifier=verifier,
        custom_starlette_routes=[Route("/health", _health)],
    )


def require_protection(address: Address) -> None:
    """Refuse to serve other machines without a token."""
    if address.verifier is None and not is_loopback(address.host):
        raise ValueError(
            f"{address.host} is reachable from other machines, so a token is needed: "
            "set K2TOOLS_TOKEN or use --oauth-issuer, or listen on 127.0.0.1"
        )


async def _health(_: Request) -> PlainTextResponse:
    return PlainTextResponse("ok\n")


def serve_http(
    server: Server[Any], settings: Settings, address: Address, ready: Callable[[str], None]
) -> int:
    """Listen until a signal comes; `ready` gets the URL once the port is open."""
    require_protection(address)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    with _listener(address) as listener:
        address = replace(address, port=listener.getsockname()[1])
        config = uvicorn.Config(
            http_app(server, settings, address),
            log_level="warning",
            timeout_graceful_shutdown=settings.shutdown_grace_s,
            server_header=False,
        )
        ready(f"{address.url}/mcp")
        uvicorn.Server(config).run(sockets=[listener])
    return 0


def _listener(address: Address) -> socket.socket:
    """Open the port: address -> bound socket.

    The protocol is named because asyncio sends small packets at once (TCP_NODELAY) only on sockets
    that name it; without it every answer waits 40 ms for an acknowledgement.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # on Windows it would let others take the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
        listener.listen()
    except BaseException as error:
        listener.close()
        if isinstance(error, OSError):
            where = f"{address.host}:{address.port}"
            raise OSError(f"cannot listen on {where}: {error.strerror}") from None
        raise
    return listener
