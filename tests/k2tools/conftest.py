"""A workspace, its settings, and a client of the real server in memory."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from mcp import Client

from k2tools.server import PACKS, build_server
from k2tools.settings import Settings
from tests.k2tools.played import Played, playing

ERAS = ("auto", "legacy")  # the 2026 wire and the 2025 one


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "ws").mkdir()
    return Settings(workspace=tmp_path / "ws", state=tmp_path / "state")


@pytest.fixture
def played() -> Iterator[Played]:
    with playing() as made:
        yield made


Connect = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
def connect(settings: Settings) -> Connect:
    @asynccontextmanager
    async def connected(
        changed: Settings = settings, mode: str = "auto", packs=PACKS
    ) -> AsyncIterator[Client]:
        async with Client(build_server(changed, packs), mode=mode) as client:
            yield client

    return connected


async def text(client: Client, tool: str, **arguments: object) -> str:
    """Call a tool and read its one text block: client, tool, arguments -> text."""
    result = await client.call_tool(tool, arguments)
    assert result.structured_content is None
    (block,) = result.content
    return block.text
