"""A small internet in memory: names with public addresses that lead to a local server."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from typing import Any

import anyio
import httpcore2
from anyio.abc import SocketStream

Answer = tuple[int, dict[str, str], bytes]
PUBLIC = "93.184.215.14"


def page(body: bytes | str, status: int = 200, **headers: str) -> Answer:
    data = body if isinstance(body, bytes) else body.encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"content-type": "text/html; charset=utf-8", **named}, data


def moved(to: str, status: int = 302) -> Answer:
    return status, {"location": to}, b""


class Internet:
    """Hosts, their addresses and pages; remembers what was asked of it."""

    def __init__(self) -> None:
        self.pages: dict[str, Answer | Callable[[dict[str, str]], Answer]] = {}
        self.addresses: dict[str, list[list[str]]] = {}  # host -> one answer per resolution
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.dialled: list[tuple[str, int]] = []
        self.resolved: list[str] = []
        self.stall_after: int | None = None  # bytes of a body before nothing more comes
        self._port = 0

    async def resolve(self, host: str, port: int) -> list[str]:
        self.resolved.append(host)
        with suppress(ValueError):
            return [str(ip_address(host))]
        answers = self.addresses.get(host, [[PUBLIC]])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def dial(self, address: str, port: int, **_: Any) -> httpcore2.AsyncNetworkStream:
        self.dialled.append((address, port))
        if address.endswith(".99"):
            raise httpcore2.ConnectError("refused")
        return await httpcore2.AnyIOBackend().connect_tcp("127.0.0.1", self._port)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Internet"]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        self._port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, self._serve)
            yield self
            group.cancel_scope.cancel()

    async def _serve(self, stream: SocketStream) -> None:
        async with stream:
            head = b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive()
            first, *lines = head.decode().split("\r\n\r\n")[0].split("\r\n")
            headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
            url = f"http://{headers['host']}{first.split()[1]}"
            self.requests.append((url, headers))
            found = self.pages.get(url, page("nothing here", 404))
            status, answered, body = found(headers) if callable(found) else found
            text = f"HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {len(body)}\r\n"
            text += "".join(f"{name}: {value}\r\n" for name, value in answered.items()) + "\r\n"
            await stream.send(text.encode())
            if self.stall_after is not None:
                await stream.send(body[: self.stall_after])
                await anyio.sleep_forever()
            await stream.send(body or b"")
