"""The commands, as a stranger runs them."""

import io
import json
import os
import subprocess
import sys
import tarfile
import tomllib
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters

from k2tools.cli import BY_HAND, _limit, default_state, main
from k2tools.clients import CLIENTS, command, snippet
from k2tools.demo import demo
from k2tools.doctor import report
from k2tools.replay import _settings, replay
from k2tools.runlog import RunLog
from k2tools.settings import Settings
from tests.k2tools.conftest import Connect, text

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
    assert any(line.startswith("paths:") for line in report(settings.workspace, settings.state))


def test_the_doctor_works_in_a_folder_that_holds_the_state_and_says_so(tmp_path: Path) -> None:
    lines = report(tmp_path, tmp_path / "state")
    assert any(line.startswith("state:") and "serve with --state" in line for line in lines)
    assert any(line.startswith("landlock:") for line in lines)


@pytest.mark.parametrize("command", [["config", "cursor"], ["doctor"]])
def test_what_is_no_folder_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    (tmp_path / "file").touch()
    for name, reason in (("file", "is no folder"), ("missing", "No such file or directory")):
        assert main([*command, str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"k2tools: {tmp_path / name}")
        assert error.rstrip().endswith(reason)


def test_no_snippet_is_printed_for_a_folder_that_would_not_be_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert main(["config", "cursor", str(tmp_path)]) == 2
    assert "could change the log" in capsys.readouterr().err


def test_a_snippet_takes_no_module_from_where_the_client_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k2tools.clients.shutil.which", lambda _: None)
    interpreter, *arguments = command(tmp_path)
    (tmp_path / "k2tools.py").write_text("print('taken from the wrong place')")
    run = subprocess.run(
        [interpreter, *arguments[: arguments.index("serve")], "--help"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith("usage: k2tools")


def test_a_run_that_is_not_there_is_answered_with_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "ws").mkdir()
    for there in ("none", "one"):
        assert main(["show", "two", "--folder", str(tmp_path / "ws")]) == 2
        error = capsys.readouterr().err
        assert "no run 'two'; newest in " in error
        assert f"runs: {there}. --folder" in error
        RunLog(default_state(tmp_path / "ws") / "runs" / "one").close()


def test_a_replay_is_confined_whatever_the_run_says(tmp_path: Path) -> None:
    note = {"settings": {"unsafe_no_sandbox": True, "budget_calls": 3}}
    (tmp_path / "run.json").write_text(json.dumps(note))
    settings = _settings(tmp_path, tmp_path / "base")
    assert (settings.unsafe_no_sandbox, settings.budget_calls) == (False, 3)
    for damaged in ("", "[]", '{"settings": 5}', "{}"):
        (tmp_path / "run.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"run.json is damaged"):
            _settings(tmp_path, tmp_path / "base")


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
async def test_a_snapshot_takes_files_larger_than_a_tool_reads_and_passes_over_closed_ones(
    connect: Connect, settings: Settings
) -> None:
    (settings.workspace / "large").write_bytes(b"x" * 1_000)
    (settings.workspace / "closed").write_bytes(b"x")
    (settings.workspace / "closed").chmod(0)
    kept = replace(settings, snapshot=True, max_read_bytes=100, run="one")
    async with connect(kept) as client:
        assert "closed\t1\nlarge\t1000" in await text(client, "list_files")
    with tarfile.open(settings.state / "runs" / "one" / "workspace.tar") as archive:
        sizes = {member.name: member.size for member in archive}
    assert sizes.pop("closed", 1) == 1  # root reads it
    assert sizes == {"large": 1_000}


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
        (["--budget", "-1"], "--budget takes a whole number of at least 0, got '-1'"),
        (["--set", "fallback_encoding=hex"], "takes a text encoding that Python knows, such as"),
        (["--run", "../../x"], "run names are up to 64 of A-Z a-z 0-9 _ -, got --run '../../x'"),
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


@pytest.mark.skipif(os.name == "nt", reason="there is no pty")
def test_whoever_starts_the_server_by_hand_is_told_what_it_waits_for(tmp_path: Path) -> None:
    import pty

    (tmp_path / "ws").mkdir()
    ours, theirs = pty.openpty()
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "k2tools", "serve", "ws", "--state", "state"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdin=theirs, stderr=subprocess.PIPE
    ) as server:
        os.close(theirs)
        assert server.stderr is not None
        told = [server.stderr.readline().decode() for _ in BY_HAND.splitlines()]
        os.close(ours)
        server.terminate()
    assert "".join(told).strip() == BY_HAND


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
