"""HTTP: who is let in. Processes: how they end, and that nothing outlives them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx2 as httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from k2tools.auth import IssuedTokens, SharedToken, is_loopback
from k2tools.runlog import verify
from k2tools.server import build_server
from k2tools.settings import Settings
from k2tools.transports import Address, _listener, http_app

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-more-than-22-characters"
LIST = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {
        "name": "list_files",
        "arguments": {},
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        },
    },
}
HEADERS = {
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2026-07-28",
    "Mcp-Method": "tools/call",
    "Mcp-Name": "list_files",
}


@asynccontextmanager
async def client_of(settings: Settings, verifier: Any = None) -> AsyncIterator[httpx.AsyncClient]:
    """The application in memory, with its lifespan running."""
    address = Address("127.0.0.1", 8000, verifier)
    app = http_app(build_server(settings), settings, address)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000"
        ) as client,
    ):
        yield client


async def posted(client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    return await client.post("/mcp", json=LIST, headers=HEADERS | headers)


@pytest.mark.anyio
async def test_hosts_and_origins_from_elsewhere_are_refused(settings: Settings) -> None:
    async with client_of(settings) as client:
        assert (await posted(client)).status_code == 200
        assert (await posted(client, Host="evil.example")).status_code == 421
        assert (await posted(client, Origin="http://evil.example")).status_code == 403
        assert (await posted(client, Origin="http://localhost:3000")).status_code == 200
        assert (await client.get("/health")).text == "ok\n"


@pytest.mark.anyio
async def test_a_shared_token_is_asked_for(settings: Settings) -> None:
    async with client_of(settings, SharedToken(TOKEN)) as client:
        refused = await posted(client)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")
        for wrong in ("", "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}"):
            assert (await posted(client, Authorization=wrong)).status_code == 401
        assert (await posted(client, Authorization=f"Bearer {TOKEN}")).status_code == 200


@pytest.mark.anyio
async def test_a_request_body_over_the_limit_is_refused(settings: Settings) -> None:
    async with client_of(replace(settings, max_request_bytes=100)) as client:
        assert (await posted(client)).status_code == 413


class Keys:
    """The issuer's keys, without a network."""

    def __init__(self, public: Any) -> None:
        self.key = public

    def get_signing_key_from_jwt(self, token: str) -> Any:
        return self


ISSUER, RESOURCE = "https://issuer.example", "https://tools.example/mcp"


def issued(key: Any, algorithm: str = "RS256", **changes: Any) -> str:
    claims = {
        "iss": ISSUER,
        "aud": RESOURCE,
        "sub": "user-1",
        "client_id": "agent",
        "scope": "tools",
        "exp": int(time.time()) + 60,
    }
    return jwt.encode(claims | changes, key, algorithm)


@pytest.fixture(scope="module")
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.mark.anyio
async def test_tokens_of_an_issuer_are_checked_in_every_claim(
    settings: Settings, private_key: rsa.RSAPrivateKey
) -> None:
    verifier = IssuedTokens(ISSUER, RESOURCE, Keys(private_key.public_key()))
    other = rsa.generate_private_key(65537, 2048)
    wrong = (
        issued(private_key, aud="https://other.example"),
        issued(private_key, iss="https://other.example"),
        issued(private_key, exp=int(time.time()) - 60),
        issued(other),
        issued("a shared secret of 32 characters", "HS256"),
        issued(None, "none"),
        "no.token.atall",
    )
    async with client_of(settings, verifier) as client:
        good = issued(private_key)
        assert (await posted(client, Authorization=f"Bearer {good}")).status_code == 200
        for token in wrong:
            assert (await posted(client, Authorization=f"Bearer {token}")).status_code == 401
        refused = await posted(client)
        metadata = re.search(r'resource_metadata="([^"]+)"', refused.headers["WWW-Authenticate"])
        assert metadata is not None
        found = await client.get(httpx.URL(metadata[1]).path)
        assert found.json()["authorization_servers"] == [ISSUER]


@pytest.mark.anyio
async def test_principals_do_not_share_runs(
    settings: Settings, private_key: rsa.RSAPrivateKey
) -> None:
    verifier = IssuedTokens(ISSUER, RESOURCE, Keys(private_key.public_key()))
    async with client_of(settings, verifier) as client:
        for user in ("one", "two", "one"):
            token = issued(private_key, sub=user)
            await posted(client, Authorization=f"Bearer {token}", **{"K2tools-Run": "same"})
    runs = {len(verify(run).records) for run in (settings.state / "runs").iterdir()}
    assert runs == {1, 2}


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *((h, True) for h in ("127.0.0.1", "localhost", "::1", "[::1]", "127.1.2.3")),
        *((h, False) for h in ("0.0.0.0", "::", "10.0.0.1", "example.org", "127.0.0.1.nip.io")),
    ],
)
def test_only_loopback_counts_as_local(host: str, local: bool) -> None:
    assert is_loopback(host) is local


@contextmanager
def process(settings: Settings, *extra: str, **pipes: Any) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "k2tools", "serve", str(settings.workspace)]
    command += ["--state", str(settings.state), *extra]
    kinds = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **kinds | pipes) as made:
        try:
            yield made
        finally:
            made.kill()


def ask(server: subprocess.Popen[bytes], tool: str, number: int = 1, **arguments: Any) -> None:
    params = {**LIST["params"], "name": tool, "arguments": arguments}  # type: ignore[dict-item]
    message = {**LIST, "id": number, "params": params}
    assert server.stdin is not None
    server.stdin.write(json.dumps(message).encode() + b"\n")
    server.stdin.flush()


def children_of(pid: int) -> list[int]:
    """List a process's descendants from /proc."""
    below = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            child = int(status.parent.name)
            below += [child, *children_of(child)]
    return below


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone_within(pids: list[int], limit_s: float) -> bool:
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        if not any(map(alive, pids)):
            return True
        time.sleep(0.02)
    return False


END_S = 40.0  # on a machine with other work; long before anything ends by itself
HOSTILE = {"pattern": "(a+)+$", "glob": "a.txt"}  # keeps its worker busy for minutes


@contextmanager
def busy(
    settings: Settings, limit_s: int = 300
) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """A server whose search runs in a child process."""
    (settings.workspace / "a.txt").write_text("a" * 40 + "b\n")
    with process(settings, "--set", f"grep_timeout_s={limit_s}") as server:
        ask(server, "grep", **HOSTILE)
        end_s = time.monotonic() + END_S
        while not (children := children_of(server.pid)) and time.monotonic() < end_s:
            time.sleep(0.02)
        assert children
        yield server, children


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("ending", ["SIGTERM", "SIGINT", "SIGHUP", "EOF"])
def test_a_signal_or_the_end_of_input_ends_everything_at_once(
    settings: Settings, ending: str
) -> None:
    with busy(settings) as (server, children):
        assert server.stdin is not None
        if ending == "EOF":
            server.stdin.close()
        else:
            server.send_signal(getattr(signal, ending))
        server.wait(timeout=END_S)
        assert gone_within(children, END_S)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_killed_server_leaves_no_search_behind(settings: Settings) -> None:
    with busy(settings, limit_s=6) as (server, children):
        server.kill()
        server.wait()
        assert gone_within(children, END_S)  # by the worker's own alarm


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_http_stops_within_its_grace_and_prints_its_address(settings: Settings) -> None:
    with process(settings, "--http", "127.0.0.1:0") as server:
        assert server.stderr is not None
        url = re.search(rb"http://127.0.0.1:(\d+)/mcp", server.stderr.readline())
        token = re.search(rb"Bearer (\S+)", server.stderr.readline())
        assert url is not None
        assert token is not None
        answer = httpx.post(
            url[0].decode(),
            json=LIST,
            headers=HEADERS | {"Authorization": f"Bearer {token[1].decode()}"},
        )
        assert answer.status_code == 200
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=END_S)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: .*in use"):
            _listener(Address("127.0.0.1", port, None))


@pytest.mark.slow
@pytest.mark.anyio
async def test_kill_9_of_the_server_between_calls_loses_nothing(settings: Settings) -> None:
    """The same run is resumed ten times; refs go on and old results are still there."""
    for number in range(1, 11):
        with process(settings, "--run", "one") as server:
            ask(server, "write_file", path=f"f{number}", text="x" * number)
            assert server.stdout is not None
            line = await anyio.to_thread.run_sync(server.stdout.readline)
            assert f"[r{2 * number - 1}]" in line.decode()
            ask(server, "open", 2, id="r1")
            line = await anyio.to_thread.run_sync(server.stdout.readline)
            assert "f1: created, 1 bytes" in line.decode()
            os.kill(server.pid, signal.SIGKILL)
    verdict = verify(settings.state / "runs" / "one")
    assert not verdict.problems
    assert len(verdict.records) == 20


def test_garbage_on_stdin_does_not_end_the_server(settings: Settings) -> None:
    with process(settings) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        for line in (b"garbage", b"", b"[]", b"{}", b"\xff\xfe", b'{"jsonrpc":"2.0","id":1}'):
            server.stdin.write(line + b"\n")
        ask(server, "list_files", 77)
        for _ in range(20):
            answer = json.loads(server.stdout.readline())
            if answer.get("id") == 77:
                break
        assert answer["result"]["content"][0]["text"].endswith("[r1]")
