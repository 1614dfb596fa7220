"""Tier 3 against a real Jupyter Kernel Gateway on loopback."""

import dataclasses
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from k2tools.settings import Settings
from tests.k2tools.conftest import Connect, text

pytest.importorskip("kernel_gateway", reason="the extra peers-jupyter is not installed")
pytest.importorskip("websockets", reason="the extra gateway is not installed")
pytestmark = [pytest.mark.anyio, pytest.mark.peer]
TOKEN = "a-token-for-the-test"
AUTHORISED = {"Authorization": f"token {TOKEN}"}
START_S = 60.0


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    """Start a gateway: -> its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "kernel_gateway", f"--KernelGatewayApp.port={port}"]
    command += ["--KernelGatewayApp.ip=127.0.0.1", f"--KernelGatewayApp.auth_token={TOKEN}"]
    command += ["--JupyterWebsocketPersonality.list_kernels=True"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            deadline_s = time.monotonic() + START_S
            while not _answers(url):
                assert time.monotonic() < deadline_s
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/api", headers=AUTHORISED).status_code == 200
    except httpx2.HTTPError:
        return False


@pytest.fixture
def remote(settings: Settings, gateway: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("K2TOOLS_GATEWAY_TOKEN", TOKEN)
    folder = str(settings.workspace)
    return dataclasses.replace(settings, gateway_url=gateway, gateway_folder=folder)


async def test_cells_read_as_in_the_other_tiers(connect: Connect, remote: Settings) -> None:
    async with connect(remote) as client:
        code = "open('made', 'w').write('a')\nprint('one')\n6 * 7"
        first = await text(client, "python", code=code, session="new", timeout_s=50)
        handle, *rest = first.split("\n")
        handle = handle.removeprefix("session ")
        assert rest[:3] == ["one", "42", "[files: made new 1 B]"]
        answer = await text(client, "python", code="_ + 1\n1 / 0", session=handle)
        assert answer == (
            "Traceback (most recent call last):\n"
            '  File "<cell 2>", line 2, in <module>\n    1 / 0\n    ~~^~~\n'
            "ZeroDivisionError: division by zero\n[r2]"
        )
        assert (await text(client, "python", code="_", session=handle)).startswith("42\n")


async def test_other_tools_and_the_interrupt_work_there(connect: Connect, remote: Settings) -> None:
    async with connect(remote) as client:
        code = (
            "import k2\nprint(k2.list_files())\ntry: k2.find()\nexcept k2.ToolError as e: print(e)"
        )
        first = await text(client, "python", code=code, session="new", timeout_s=50)
        handle = first.split("\n")[0].removeprefix("session ")
        assert "no file matches" in first
        assert "missing argument 'id'" in first
        code = "kept = 5\nwhile True: pass"
        stopped = await text(client, "python", code=code, session=handle, timeout_s=1)
        assert "[interrupted after 1 s; variables are kept]" in stopped
        assert (await text(client, "python", code="kept", session=handle)).startswith("5\n")


async def test_a_wrong_token_is_told_and_not_shown(
    connect: Connect, remote: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("K2TOOLS_GATEWAY_TOKEN", "wrong")
    async with connect(remote) as client:
        answer = await client.call_tool("python", {"code": "1"})
        assert answer.is_error
        assert "did not start a kernel" in answer.content[0].text
        assert os.environ["K2TOOLS_GATEWAY_TOKEN"] not in answer.content[0].text


async def test_kernels_end_with_the_server(
    connect: Connect, remote: Settings, gateway: str, tmp_path: Path
) -> None:
    async with connect(remote) as client:
        await text(client, "python", code="1", session="new", timeout_s=50)
    assert httpx2.get(f"{gateway}/api/kernels", headers=AUTHORISED).json() == []
