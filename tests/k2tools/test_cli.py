"""The commands, as a stranger runs them."""

import io
import json
import os
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters

from k2tools.cli import _limit, main
from k2tools.clients import CLIENTS, command, snippet
from k2tools.demo import demo
from k2tools.doctor import report
from k2tools.replay import replay
from k2tools.runlog import RunLog
from k2tools.settings import Settings
from tests.k2tools.conftest import text

ROOT = Path(__file__).parents[2]


def argv_in(client: str, snippet_text: str) -> list[str]:
    """Read the command out of a snippet as the client would."""
    place, _, body = snippet_text.partition("\n")
    if client == "claude-code":
        return body.partition(" -- ")[2].split()
    if client == "codex":
        server = tomllib.loads(body)["mcp_servers"]["k2tools"]
    else:
        key = "servers" if client == "vscode" else "mcpServers"
        server = json.loads(body)[key]["k2tools"]
    return [server["command"], *server["args"]]


@pytest.mark.parametrize("client", CLIENTS)
def test_every_snippet_holds_the_command_that_serves_the_folder(
    client: str, tmp_path: Path
) -> None:
    assert argv_in(client, snippet(client, tmp_path)) == command(tmp_path)


def test_an_unknown_client_is_answered_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "emacs"]) == 2
    assert "clients are claude-code" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("call_timeout_s=7", 7.0),
        ("budget_calls=300", 300),
        ("secret_globs=*.key,.env", ("*.key", ".env")),
        ("writable=false", False),
    ],
)
def test_any_limit_can_be_set_with_its_type(pair: str, value: object) -> None:
    assert _limit(pair) == (pair.partition("=")[0], value)


def test_an_unknown_limit_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["serve", str(tmp_path), "--set", "timeout=3"]) == 2
    assert "call_timeout_s" in capsys.readouterr().err


def test_a_tool_that_is_denied_must_be_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["serve", str(tmp_path), "--state", str(tmp_path.parent / "s")]
    assert main([*arguments, "--deny", "pyhton"]) == 2
    assert "no tool pyhton to deny; there are search, open" in capsys.readouterr().err


def test_a_state_folder_inside_the_workspace_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["serve", str(tmp_path), "--state", str(tmp_path / "runs")]) == 2
    assert "could change the log" in capsys.readouterr().err


def test_http_beyond_loopback_without_a_token_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("K2TOOLS_TOKEN", raising=False)
    arguments = ["serve", str(tmp_path), "--state", str(tmp_path.parent / "s")]
    for extra in (["--http", "0.0.0.0:0"], ["--http", "0.0.0.0:0", "--no-auth"]):
        assert main([*arguments, *extra]) == 2
        assert "a token is needed" in capsys.readouterr().err


def test_the_doctor_names_the_way_paths_are_opened(settings: Settings) -> None:
    assert any(line.startswith("paths:") for line in report(settings))


def test_the_demo_shows_real_answers_and_a_verified_log() -> None:
    out = io.StringIO()
    assert demo(out) == 0
    shown = out.getvalue()
    assert "[docs/gauge.md:L8-L9]" in shown
    assert "+Mean level: 2.2" in shown
    assert "leads outside" in shown
    assert "7 calls, chain verified" in shown


async def run_some_calls(folder: Path, state: Path) -> None:
    """Serve over stdio as a process, with a snapshot, and make four calls."""
    serve = ["-m", "k2tools", "serve", str(folder), "--state", str(state)]
    process = StdioServerParameters(
        command=sys.executable, args=[*serve, "--run", "one", "--snapshot"]
    )
    async with Client(process) as client:
        await text(client, "write_file", path="b.txt", text="two\x1b[2J\n")
        await text(client, "edit_file", path="a.txt", edits=[{"old": "one", "new": "1"}])
        await text(client, "grep", pattern="1|two")
        await text(client, "read_file", path="../a.txt")


@pytest.mark.anyio
async def test_a_run_served_over_stdio_can_be_shown_and_replayed_byte_for_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, state = tmp_path / "ws", tmp_path / "state"
    folder.mkdir()
    (folder / "a.txt").write_text("one\n")
    await run_some_calls(folder, state)
    run = state / "runs" / "one"
    assert await anyio.to_thread.run_sync(replay, run, None) == 0
    assert "4 of 4 calls gave the same bytes" in capsys.readouterr().out
    assert main(["show", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "4 calls, chain verified" in shown
    assert "r4  error  read_file" in shown
    assert "two\\x1b[2J" in shown


@pytest.mark.anyio
async def test_a_replay_on_another_workspace_shows_the_first_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, state, other = tmp_path / "ws", tmp_path / "state", tmp_path / "other"
    for place in (folder, other):
        place.mkdir()
    (folder / "a.txt").write_text("one\n")
    (other / "a.txt").write_text("one and more\n")
    await run_some_calls(folder, state)
    assert await anyio.to_thread.run_sync(replay, state / "runs" / "one", other) == 1
    assert "r2  edit_file  DIFFERS: line 1" in capsys.readouterr().out


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE])
def test_a_snapshot_that_leads_outside_is_refused(tmp_path: Path, kind: bytes) -> None:
    run = tmp_path / "run"
    RunLog(run).close()
    with tarfile.open(run / "workspace.tar", "w") as archive:
        member = tarfile.TarInfo("../../k2-outside")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(ValueError, match="is no file of it"):
        replay(run, None)


@pytest.mark.anyio
async def test_a_replay_tells_names_apart_that_look_like_handles(tmp_path: Path) -> None:
    folder, other = tmp_path / "ws", tmp_path / "other"
    for place, name in ((folder, "A" * 22), (other, "B" * 22)):
        place.mkdir()
        (place / "a.txt").write_text(f"py_{name}\r and more\n")
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "k2tools", "serve", str(folder), "--state", str(tmp_path), "--run", "one"],
    )
    async with Client(server) as client:
        await text(client, "grep", pattern="py_")
    run = tmp_path / "runs" / "one"
    assert await anyio.to_thread.run_sync(replay, run, folder) == 0
    assert await anyio.to_thread.run_sync(replay, run, other) == 1


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--facts", "facts.jsonl"], "facts.jsonl is refused. line 1: the source docs:a.md:L7"),
        (["--corpus", "/dev/null"], "/dev/null is no folder and no file"),
        (["--web", "brave"], "set K2TOOLS_BRAVE_KEY"),
        (["--http", "127.0.0.1:65536"], "--http takes HOST:PORT, such as 127.0.0.1:8765; got"),
        (["--set", "writable=no"], "--set writable takes true or false, got 'no'"),
        (["--set", "budget_calls=-1"], "budget_calls takes a whole number of at least 0, got '-1'"),
        (["--set", "call_timeout_s=nan"], "call_timeout_s takes a number of at least 0, got 'nan'"),
        (["--set", "warm_sandboxes=x"], "warm_sandboxes takes a whole number of at least 0, got"),
        (["--state", "damaged"], "the state folder cannot be used (file is not a database)"),
    ],
)
def test_a_start_that_is_refused_says_why_in_one_line(
    tmp_path: Path, flags: list[str], reason: str
) -> None:
    (tmp_path / "ws").mkdir()
    (tmp_path / "facts.jsonl").write_text('{"key": "x", "value": 1, "source": "docs:a.md:L7"}\n')
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "pages.sqlite").write_bytes(b"x" * 10_000)
    command = [sys.executable, "-m", "k2tools", "serve", "ws", "--state", "state", *flags]
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, input="", capture_output=True, text=True
    )
    assert run.returncode == 2
    assert reason in run.stderr
    assert run.stderr.startswith("k2tools: ")
    assert run.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.anyio
async def test_python_sessions_and_their_inner_calls_replay_byte_for_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, state = tmp_path / "ws", tmp_path / "state"
    folder.mkdir()
    (folder / "a.md").write_text("# Lake\n\nlake level\n")
    serve = ["-m", "k2tools", "serve", str(folder), "--state", str(state)]
    process = StdioServerParameters(
        command=sys.executable, args=[*serve, "--run", "one", "--snapshot"]
    )
    async with Client(process) as client:
        begun = await text(client, "python", code="x = 41", session="new")
        if "not available" in begun:
            pytest.skip("no sandbox works here")
        handle = begun.split()[1]
        assert (await text(client, "python", code="x + 1", session=handle)).startswith("42\n")
        inner = "import k2\nprint(k2.search(query='lake'))\nopen('new.txt', 'w').write('n')"
        await text(client, "python", code=inner)
        await text(client, "open", id="r2")
        await text(client, "list_files")
    assert await anyio.to_thread.run_sync(replay, state / "runs" / "one", None) == 0
    assert "5 of 5 calls gave the same bytes" in capsys.readouterr().out
