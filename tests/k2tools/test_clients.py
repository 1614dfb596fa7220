"""Real clients, no model: every client sees the same tools, answers, errors and progress."""

import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters

from k2tools.runlog import verify
from k2tools.server import PACKS, tools_of
from k2tools.settings import Settings
from tests.k2tools.conftest import ERAS, text
from tests.k2tools.npm import FOLDER, node, script
from tests.k2tools.processes import ROOT, http_server, serve

NAMES = list(tools_of(PACKS))
TRANSPORTS = ("stdio", "http")
QUICK = ("--set", "heartbeat_s=0.1", "--set", "grep_timeout_s=1")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, str]]:
    base = tmp_path_factory.mktemp("clients")
    (base / "ws").mkdir()
    (base / "ws" / "a.txt").write_text("one\ntwo\n" + "a" * 40 + "b\n")
    settings = Settings(base / "ws", base / "state")
    with http_server(settings, *QUICK) as (url, _):
        yield settings, url


def stdio(settings: Settings) -> dict[str, Any]:
    command, *arguments = serve(settings, *QUICK)
    return {"command": command, "args": arguments, "cwd": str(ROOT)}


@asynccontextmanager
async def connected(
    served: tuple[Settings, str], transport: str, mode: str
) -> AsyncIterator[Client]:
    settings, url = served
    target = url if transport == "http" else StdioServerParameters(**stdio(settings))
    async with Client(target, mode=mode) as client:
        yield client


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_official_client_of_both_eras(
    served: tuple[Settings, str], transport: str, mode: str
) -> None:
    ticks: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        ticks.append(progress)

    async with connected(served, transport, mode) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == NAMES
        assert "2\ttwo" in await text(client, "read_file", path="a.txt")
        wrong = await client.call_tool("read_file", {"path": "../a.txt"})
        assert wrong.is_error
        stopped = await client.call_tool("grep", {"pattern": "(a+)+$"}, progress_callback=note)
        assert "nested repeats" in stopped.content[0].text
    assert len(ticks) >= 3
    assert ticks == sorted(set(ticks))


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_call_that_its_client_gives_up_is_stopped(
    served: tuple[Settings, str], transport: str, mode: str
) -> None:
    run = f"given_up_{transport}_{mode}_with_22_characters"
    async with connected(served, transport, mode) as client:
        with anyio.CancelScope() as waiting:

            async def give_up(*_: object) -> None:
                waiting.cancel()

            await client.call_tool(
                "grep",
                {"pattern": "(a+)+$"},
                progress_callback=give_up,
                meta={"io.k2tools/run": run},
            )
        folder = served[0].state / "runs" / run
        with anyio.fail_after(60):
            while not (folder.exists() and verify(folder).records):
                await anyio.sleep(0.02)
    assert [record["status"] for record in verify(folder).records] == ["cancelled"]


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_fastmcp_client(served: tuple[Settings, str], transport: str) -> None:
    fastmcp = pytest.importorskip("fastmcp")
    settings, url = served
    target = url if transport == "http" else {"mcpServers": {"k2tools": stdio(settings)}}
    async with fastmcp.Client(target) as client:
        assert [tool.name for tool in await client.list_tools()] == NAMES
        answer = await client.call_tool("read_file", {"path": "a.txt"})
        assert "2\ttwo" in answer.content[0].text
        with pytest.raises(fastmcp.exceptions.ToolError, match="leads outside"):
            await client.call_tool("read_file", {"path": "../a.txt"})


def inspected(*arguments: str) -> tuple[int, Any]:
    """Run the Inspector's command line: arguments -> exit code, parsed output."""
    inspector = script("@modelcontextprotocol/inspector", "clients/launcher/build/index.js")
    command = [node(), inspector, "--cli", *arguments, "--format", "json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    return run.returncode, json.loads(run.stdout)["result"]


@pytest.mark.slow
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_inspectors_command_line(served: tuple[Settings, str], transport: str) -> None:
    settings, url = served
    target = [url, "--transport", "http"] if transport == "http" else serve(settings)
    code, listed = inspected(*target, "--method", "tools/list")
    assert code == 0
    assert [tool["name"] for tool in listed["tools"]] == NAMES
    read = ("--method", "tools/call", "--tool-name", "read_file", "--tool-arg")
    code, answer = inspected(*target, *read, "path=a.txt")
    assert code == 0
    assert "2\ttwo" in answer["content"][0]["text"]
    code, answer = inspected(*target, *read, "path=../a.txt")
    assert code == 5
    assert answer["isError"]


TYPESCRIPT_2 = """
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
const make = (mode) => new Client({ name: 't', version: '1' }, { versionNegotiation: { mode } });
"""
TYPESCRIPT_1 = """
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
const make = () => new Client({ name: 't', version: '1' });
"""
TYPESCRIPT = """
const { mode, url, stdio } = JSON.parse(process.env.K2_TEST);
const client = make(mode);
await client.connect(url ? new StreamableHTTPClientTransport(new URL(url))
                         : new StdioClientTransport(stdio));
const { tools } = await client.listTools();
const read = (path) => client.callTool({ name: 'read_file', arguments: { path } });
const good = await read('a.txt');
const bad = await read('../a.txt');
console.log(JSON.stringify({ names: tools.map((t) => t.name), good, bad }));
await client.close();
"""


@pytest.mark.slow
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("package", "mode"), [("client", "auto"), ("client", "legacy"), ("sdk", "legacy")]
)
def test_the_typescript_clients(
    served: tuple[Settings, str], transport: str, package: str, mode: str
) -> None:
    script(f"@modelcontextprotocol/{package}", "package.json")
    settings, url = served
    source = (TYPESCRIPT_2 if package == "client" else TYPESCRIPT_1) + TYPESCRIPT
    told = {"mode": mode, "url": url} if transport == "http" else {"mode": mode}
    told["stdio"] = stdio(settings)  # type: ignore[assignment]
    run = subprocess.run(
        [node(), "--input-type=module", "-e", source],
        cwd=FOLDER,  # bare imports are resolved from here
        env={"PATH": str(Path(node()).parent), "K2_TEST": json.dumps(told)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout)
    assert seen["names"] == NAMES
    assert "2\ttwo" in seen["good"]["content"][0]["text"]
    assert seen["bad"]["isError"]


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_2025_client_of_a_stateless_server(settings: Settings) -> None:
    (settings.workspace / "a.txt").write_text("one\ntwo\n")
    with http_server(settings, "--stateless") as (url, _):
        for _ in range(3):  # a new connection for every call: the run goes on
            async with Client(url, mode="legacy") as client:
                await text(client, "read_file", path="a.txt")
    (run,) = (settings.state / "runs").iterdir()
    assert [record["ref"] for record in verify(run).records] == ["r1", "r2", "r3"]
