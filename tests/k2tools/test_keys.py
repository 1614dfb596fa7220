"""Keyed calls: sent again, they are answered and never executed again."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp_types import CallToolResult, ToolAnnotations

from k2tools.keys import memory_name
from k2tools.runlog import RunLog, verify
from k2tools.server import FATE_KEY, MEMORY_KEY, PACKS
from k2tools.settings import Settings
from k2tools.toolbox import Context, Pack, tool
from tests.k2tools.conftest import ERAS, Connect

pytestmark = pytest.mark.anyio
KEY = "a-key-of-a-call-0001"


async def append(cx: Context, word: str = "x") -> str:
    """Wait for the file `go`, then add a word to `effects`."""
    folder = cx.workspace.path
    (folder / "begun").touch()
    while not (folder / "go").exists():
        await anyio.sleep(0.01)
    with (folder / "effects").open("a") as file:
        file.write(word)
    return f"added {word}"


PACK = Pack(tools=(tool(append, example={}, annotations=ToolAnnotations()),))
WITH = (*PACKS, PACK)


async def call(client: Client, key: str = KEY, run: str = "", **arguments: object) -> Any:
    meta = {"io.k2tools/key": key} | ({"io.k2tools/run": run} if run else {})
    return await client.call_tool("append", arguments, meta=meta)


def said(result: CallToolResult) -> str:
    (block,) = result.content
    return block.text


def effects(settings: Settings) -> str:
    path = settings.workspace / "effects"
    return path.read_text() if path.exists() else ""


def statuses(settings: Settings) -> Sequence[str]:
    (run,) = (settings.state / "runs").iterdir()
    return [record["status"] for record in verify(run).records]


@pytest.fixture
def named(settings: Settings) -> Settings:
    return replace(settings, run="keyed-run")


def allow(settings: Settings) -> None:
    (settings.workspace / "go").touch()


@pytest.mark.parametrize("mode", ERAS)
async def test_a_key_sent_again_gets_the_answer_also_after_a_restart(
    connect: Connect, named: Settings, mode: str
) -> None:
    allow(named)
    async with connect(named, mode=mode, packs=WITH) as client:
        first = said(await call(client))
        assert said(await call(client)) == first == "added x\n[r1]"
        assert said(await call(client, "another-key-of-16")) == "added x\n[r2]"
    async with connect(named, mode=mode, packs=WITH) as client:
        assert said(await call(client)) == first
    assert effects(named) == "xx"
    assert statuses(named) == ["ok", "ok"]


@pytest.mark.parametrize("mode", ERAS)
async def test_a_call_outlives_its_client_and_the_next_one_joins_it(
    connect: Connect, named: Settings, mode: str
) -> None:
    async with connect(named, mode=mode, packs=WITH) as client:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(call, client)
                while not (named.workspace / "begun").exists():
                    await anyio.sleep(0.01)
                group.cancel_scope.cancel()
            async with anyio.create_task_group() as group:
                results: list[Any] = []

                async def join() -> None:
                    results.append(await call(client))

                group.start_soon(join)
                group.start_soon(join)
                await anyio.wait_all_tasks_blocked()
                allow(named)
    assert [said(result) for result in results] == ["added x\n[r1]"] * 2
    assert effects(named) == "x"
    assert statuses(named) == ["ok"]


async def test_what_ran_when_the_server_ended_is_known_to_be_unknown(
    connect: Connect, named: Settings
) -> None:
    ending = replace(named, shutdown_grace_s=0)
    async with connect(ending, packs=WITH) as client, anyio.create_task_group() as group:
        group.start_soon(call, client)
        while not (named.workspace / "begun").exists():
            await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    assert statuses(named) == ["cancelled"]
    allow(named)
    async with connect(named, packs=WITH) as client:
        again = await call(client)
    assert again.is_error
    assert again.meta[FATE_KEY] == "unknown"
    assert "Look at the present state first" in said(again)
    assert effects(named) == ""


async def test_a_call_has_its_time_when_the_server_ends(connect: Connect, named: Settings) -> None:
    async def let_go(client: Client) -> None:
        with anyio.CancelScope(shield=True):
            while not (named.workspace / "begun").exists():
                await anyio.sleep(0.01)
            allow(named)

    patient = replace(named, shutdown_grace_s=60)
    async with connect(patient, packs=WITH) as client, anyio.create_task_group() as group:
        group.start_soon(call, client)
        await let_go(client)
        group.cancel_scope.cancel()
    assert statuses(named) == ["ok"]
    assert effects(named) == "x"


async def test_a_key_noted_by_a_server_that_died_is_not_executed(
    connect: Connect, named: Settings
) -> None:
    allow(named)
    async with connect(named, packs=WITH) as client:
        await call(client)
    (run,) = (named.state / "runs").iterdir()
    (run / "log.jsonl").write_bytes(b"")  # as if it died before the log line
    async with connect(named, packs=WITH) as client:
        assert (await call(client)).meta[FATE_KEY] == "unknown"
        assert "added x" in said(await call(client, "another-key-of-16"))
    assert effects(named) == "xx"


async def test_a_torn_key_was_never_begun(connect: Connect, named: Settings) -> None:
    allow(named)
    async with connect(named, packs=WITH) as client:
        await call(client)
    (run,) = (named.state / "runs").iterdir()
    with (run / "keys.jsonl").open("a") as file:
        file.write('["another-key-of-16", "r2"')
    async with connect(named, packs=WITH) as client:
        assert "added y" in said(await call(client, "another-key-of-16", word="y"))
    assert effects(named) == "xy"


async def test_a_key_names_one_call(connect: Connect, named: Settings) -> None:
    allow(named)
    async with connect(named, packs=WITH) as client:
        await call(client, word="x")
        other = await call(client, word="y")
        assert other.is_error
        assert f"the key {KEY} names another call, r1" in said(other)
        wrong = await call(client, "short")
        assert "16 to 64 of A-Z a-z 0-9 _ -, got 'short'" in said(wrong)
    assert effects(named) == "x"


async def test_a_server_waits_for_the_one_before_it(connect: Connect, named: Settings) -> None:
    allow(named)
    folder = named.state / "runs" / "keyed-run"
    held = RunLog(folder)
    async with connect(named, packs=WITH) as client:
        refused = await client.call_tool("list_files", {})
        assert "in use by another server" in said(refused)
        async with anyio.create_task_group() as group:
            group.start_soon(call, client)
            await anyio.wait_all_tasks_blocked()
            held.close()
    assert effects(named) == "x"


async def test_results_that_are_not_kept_are_not_given(connect: Connect, named: Settings) -> None:
    allow(named)
    silent = replace(named, redact_log=True)
    async with connect(silent, packs=WITH) as client:
        await call(client)
        assert "executed and ended as ok; its result was not kept" in said(await call(client))
    assert effects(named) == "x"


async def test_a_disk_that_takes_no_key_stops_the_call(
    connect: Connect, named: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(named)

    def full(fd: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    async with connect(named, packs=WITH) as client:
        await client.call_tool("list_files", {})
        with monkeypatch.context() as patch:
            patch.setattr("k2tools.keys.write_all", full)
            assert "nothing was done" in said(await call(client))
        assert "added x" in said(await call(client))
    assert effects(named) == "x"


@pytest.mark.parametrize("other", [("anna", "run-b"), ("bert", "run-a")])
async def test_a_key_belongs_to_one_run_of_one_principal(
    connect: Connect, settings: Settings, other: tuple[str, str]
) -> None:
    allow(settings)

    async def as_principal(client: Client, name: str, run: str, word: str) -> Any:
        token = AccessToken(token="t", client_id=name, scopes=[], subject=name)
        reset = auth_context_var.set(AuthenticatedUser(token))
        try:
            return await call(client, run=run, word=word)
        finally:
            auth_context_var.reset(reset)

    async with connect(settings, packs=WITH) as client:
        await as_principal(client, "anna", "run-a", "secret")
        theirs = await as_principal(client, *other, "mine")
    assert said(theirs) == "added mine\n[r1]"
    assert effects(settings) == "secretmine"


async def test_the_memory_is_named_by_its_state_folder(
    connect: Connect, settings: Settings, tmp_path: Path
) -> None:
    names = []
    for state in (settings.state, settings.state, tmp_path / "other"):
        async with connect(replace(settings, state=state)) as client:
            names.append((await client.list_tools()).meta[MEMORY_KEY])
    assert names[0] == names[1] == memory_name(settings.state) != names[2]
