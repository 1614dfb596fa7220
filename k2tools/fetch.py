"""Fetch one page from the public web, and from nowhere else.

Every hop resolves its host once, checks every address it got, and dials the checked one: a name
that answers differently the second time (DNS rebinding) gains nothing. No proxies, cookies or
credentials; http and https on the allowed ports; robots.txt is honoured through the same door.
"""

import socket
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any, NamedTuple
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

import anyio
import httpcore2

from k2tools.results import ToolError, shown

AGENT = "k2tools"
HEADERS = {
    "User-Agent": f"{AGENT}/1.0 (MCP server; reads single pages on request)",
    "Accept": "text/html, application/xhtml+xml, text/*;q=0.9, application/pdf;q=0.8, */*;q=0.5",
    "Accept-Encoding": "gzip",
    "Accept-Language": "en, *;q=0.5",
}
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_HOPS = 5
MAX_URL_CHARS = 2_000
CONNECT_S = 5.0  # to one address of several
ROBOTS_BYTES = 512 * 2**10
ROBOTS_S, MAX_ROBOTS = 3_600.0, 1_000  # how long rules are kept, and of how many sites
ASCII_MARKS = "!\"#$%&'()*+,/:;<=>?@[\\]^`{|}~"
NAT64 = IPv6Network("64:ff9b::/96")
UNICAST = IPv6Network("2000::/3")


class Refused(Exception):
    """An address or a port that is never dialled."""


class Response(NamedTuple):
    """What a server answered, body decompressed."""

    url: str  # after redirects
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


Resolve = Callable[[str, int], Awaitable[list[str]]]
Dial = Callable[..., Awaitable[httpcore2.AsyncNetworkStream]]


def is_public(text: str) -> bool:
    """Say whether an address is on the public internet, whatever it is wrapped in."""
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast
    if address in NAT64:
        return is_public(str(IPv4Address(int(address) & 0xFFFFFFFF)))
    inner = _inner(address)
    return address in UNICAST and address.is_global and all(is_public(str(v4)) for v4 in inner)


def _inner(address: IPv6Address) -> list[IPv4Address]:
    """List the IPv4 addresses that an IPv6 tunnel address leads to."""
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    return [v4 for v4 in found if v4 is not None]


async def resolve(host: str, port: int) -> list[str]:
    """Ask the system's resolver once: host -> addresses in its order."""
    try:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Refused(f"the host {host} is not known") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Pinned(httpcore2.AsyncNetworkBackend):
    """Connects to checked addresses only: one resolution, every address vetted, then dialled."""

    def __init__(
        self,
        ports: Iterable[int] = (80, 443),
        resolve: Resolve = resolve,
        dial: Dial | None = None,
    ) -> None:
        self._ports, self._resolve = frozenset(ports), resolve
        self._dial = dial or httpcore2.AnyIOBackend().connect_tcp

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore2.AsyncNetworkStream:
        if port not in self._ports:
            raise Refused(f"port {port} is not allowed, only {sorted(self._ports)}")
        addresses = await self._resolve(host, port)
        for address in addresses:
            if not is_public(address):
                raise Refused(f"{host} is not on the public internet")
        failure: Exception = Refused(f"the host {host} has no address")
        for address in addresses:
            try:
                return await self._dial(address, port, timeout=timeout or CONNECT_S)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error  # on to the next address of the same, checked answer
        raise failure

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Any = None
    ) -> httpcore2.AsyncNetworkStream:
        raise Refused("unix sockets are never dialled")

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


def checked_url(text: str) -> str:
    """Check and normalise a URL: -> without fragment, scheme and host in lower case."""
    if len(text) > MAX_URL_CHARS:
        raise ToolError(f"the URL has {len(text)} characters, the limit is {MAX_URL_CHARS}")
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname or "", parts.port
        host = host if host.isascii() else host.encode("idna").decode()
    except (ValueError, UnicodeError):
        raise ToolError(f"{shown(text)} is no URL; one looks like https://host/path") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ToolError(f"{shown(text)}: only http:// and https:// URLs with a host are fetched")
    if parts.username is not None or parts.password is not None:
        raise ToolError("a URL with user name or password is not fetched; leave them out")
    if any(c <= " " or c == "\x7f" for c in text.strip()):
        raise ToolError(f"{shown(text)} holds spaces or control characters; write them as %20")
    name = f"[{host}]" if ":" in host else host
    place = name if port is None else f"{name}:{port}"
    path = _escaped(parts.path or "/")
    return urlunsplit((parts.scheme, place, path, _escaped(parts.query), ""))


def _escaped(text: str) -> str:
    """Percent-encode what is not ASCII, and leave the rest as it is."""
    return quote(text.encode("utf-8", "replace"), safe=ASCII_MARKS)


class Fetcher:
    """Fetches pages under caps: bytes after decompression, seconds in all, hops."""

    def __init__(
        self,
        backend: Pinned,
        *,
        timeout_s: float,
        max_bytes: int,
        honour_robots: bool = True,
    ) -> None:
        self._backend, self._timeout_s, self._max_bytes = backend, timeout_s, max_bytes
        self._honour_robots = honour_robots
        self._robots: dict[str, tuple[float, Any]] = {}  # origin -> until when, rules or refusal

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> Response:
        """Fetch a page, redirects followed: URL, extra headers -> Response, or ToolError."""
        url = checked_url(url)
        host = urlsplit(url).hostname
        try:
            with anyio.fail_after(self._timeout_s):
                return await self._follow(url, headers or {}, robots=self._honour_robots)
        except TimeoutError:
            raise ToolError(f"{host} took more than {self._timeout_s:.0f} s; try another") from None
        except Refused as error:
            raise ToolError(f"{url} is not fetched: {error}") from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException) as e:
            reason = f"{type(e).__name__}{f' ({e})' if str(e) else ''}"
            raise ToolError(f"{host} could not be read: {reason}; try another source") from None

    async def _follow(
        self, url: str, headers: Mapping[str, str], *, robots: bool, max_bytes: int = 0
    ) -> Response:
        for _ in range(MAX_HOPS + 1):
            if robots:
                await self._require_allowed(url)
            response = await self._once(url, headers, max_bytes or self._max_bytes)
            if response.status not in REDIRECTS or "location" not in response.headers:
                return response
            url = checked_url(urljoin(url, response.headers["location"]))
        raise Refused(f"it was redirected more than {MAX_HOPS} times")

    async def _once(self, url: str, headers: Mapping[str, str], max_bytes: int) -> Response:
        async with _pool(self._backend) as pool:
            pairs = [(k.encode(), v.encode()) for k, v in {**HEADERS, **headers}.items()]
            pairs.append((b"Host", _host(url)))
            async with pool.stream("GET", url, headers=pairs) as answer:
                names = {
                    k.decode("latin-1").lower(): v.decode("latin-1") for k, v in answer.headers
                }
                body = b""
                if answer.status == 200:
                    body = await _read(answer, names.get("content-encoding", ""), max_bytes)
                return Response(url, answer.status, names, body)

    async def _require_allowed(self, url: str) -> None:
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        until_s, rules = self._robots.pop(origin, (0.0, None))
        if until_s < time.monotonic():
            until_s, rules = time.monotonic() + ROBOTS_S, await self._rules(origin)
        self._robots[origin] = until_s, rules
        if len(self._robots) > MAX_ROBOTS:
            self._robots.pop(next(iter(self._robots)))
        if isinstance(rules, str):
            raise Refused(rules)
        if rules is not None and not rules.can_fetch(url, AGENT):
            raise Refused("the site's robots.txt does not allow it")

    async def _rules(self, origin: str) -> Any:
        """Read robots.txt as RFC 9309 has it: absent allows all, an error of the server nothing."""
        from protego import Protego

        answer = await self._follow(
            f"{origin}/robots.txt", {}, robots=False, max_bytes=ROBOTS_BYTES
        )
        if answer.status >= 500 or answer.status == 429:
            return f"its robots.txt answers {answer.status}, so nothing is allowed for now"
        return Protego.parse(answer.body.decode("utf-8", "replace")) if answer.body else None


@asynccontextmanager
async def _pool(backend: Pinned) -> AsyncIterator[httpcore2.AsyncConnectionPool]:
    async with httpcore2.AsyncConnectionPool(network_backend=backend, max_connections=2) as pool:
        yield pool


def _host(url: str) -> bytes:
    return urlsplit(url).netloc.encode()


async def _read(answer: httpcore2.Response, encoding: str, max_bytes: int) -> bytes:
    """Read a body, at most so many bytes after decompression."""
    if encoding not in ("", "identity", "gzip", "x-gzip"):
        raise Refused(f"it answers in the encoding {encoding[:20]!r}, which was not asked for")
    inflate = zlib.decompressobj(31) if "gzip" in encoding else None
    parts, size = [], 0
    async for chunk in answer.aiter_stream():
        if inflate is not None:
            try:
                chunk = inflate.decompress(chunk, max_bytes - size + 1)
            except zlib.error:
                raise Refused("its compressed body is damaged") from None
        size += len(chunk)
        if size > max_bytes:
            raise Refused(f"it is larger than {max_bytes} bytes")
        parts.append(chunk)
    return b"".join(parts)
