"""Nothing leaves the workspace, whoever races; writes are whole or not at all."""

import errno
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from k2tools import beneath
from k2tools.results import ToolError
from k2tools.workspace import Workspace, printable, sha_of

MAX = 2**20
LEADS_OUT = (
    *("../secret.txt", "sub/../../secret.txt", "./../secret.txt", "..", "sub/.."),
    *("/etc/passwd", "//etc/passwd", "C:/x", "/proc/self/environ", "", ".", "a\0b"),
)
ROOT = Path(__file__).parents[2]


def has_openat2(tmp: Path) -> bool:
    fd = os.open(tmp, os.O_RDONLY)
    try:
        return beneath.best_opener(fd) is beneath.openat2
    finally:
        os.close(fd)


@pytest.fixture(params=["openat2", "walk", "by_path"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workspace]:
    """The three ways of opening, each on a workspace beside a secret."""
    (tmp_path / "secret.txt").write_text("SECRET")
    root = tmp_path / "ws"
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_text("inside\n")
    (root / "sub" / "b.txt").write_text("deeper\n")
    if request.param == "openat2" and not has_openat2(tmp_path):
        pytest.skip("this kernel or container refuses openat2")
    opener = {"openat2": beneath.openat2, "walk": beneath.walk}.get(request.param)
    made = Workspace(root, opener=opener, by_path=request.param == "by_path")
    yield made
    made.close()


@pytest.mark.parametrize("path", ["a.txt", "./a.txt", "sub/b.txt", "sub//b.txt", "sub/./b.txt"])
def test_relative_paths_are_read(workspace: Workspace, path: str) -> None:
    assert workspace.read(path, MAX).data in (b"inside\n", b"deeper\n")


@pytest.mark.parametrize("path", LEADS_OUT)
def test_a_path_that_leads_out_is_refused_with_the_rule(workspace: Workspace, path: str) -> None:
    for use in (
        lambda: workspace.read(path, MAX),
        lambda: workspace.write(path, b"", max_bytes=MAX),
    ):
        with pytest.raises(ToolError, match="workspace"):
            use()


@pytest.mark.parametrize("target", ["../secret.txt", "/etc/passwd", "sub/../../secret.txt"])
def test_a_link_that_leads_out_is_refused(workspace: Workspace, target: str) -> None:
    (workspace.path / "link").symlink_to(target)
    (workspace.path / "dir").symlink_to("..")
    for path in ("link", "dir/secret.txt"):
        with pytest.raises(ToolError, match=r"outside|link"):
            workspace.read(path, MAX)
        with pytest.raises(ToolError, match=r"outside|link"):
            workspace.write(path, b"x", max_bytes=MAX)
    assert (workspace.path.parent / "secret.txt").read_text() == "SECRET"


def test_a_link_within_the_workspace_works_where_the_kernel_resolves_it(tmp_path: Path) -> None:
    if not has_openat2(tmp_path):
        pytest.skip("this kernel or container refuses openat2")
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "link").symlink_to("a.txt")
    workspace = Workspace(tmp_path)
    assert workspace.read("link", MAX).data == b"x"
    workspace.close()


def test_special_files_are_refused_and_none_is_waited_for(workspace: Workspace) -> None:
    os.mkfifo(workspace.path / "fifo")
    with pytest.raises(ToolError, match="named pipe"):
        workspace.read("fifo", MAX)
    with pytest.raises(ToolError, match="named pipe"):
        workspace.write("fifo", b"", max_bytes=MAX)
    with pytest.raises(ToolError, match="directory"):
        workspace.read("sub", MAX)


def test_a_file_with_a_second_name_is_not_split(workspace: Workspace) -> None:
    os.link(workspace.path.parent / "secret.txt", workspace.path / "second")
    with pytest.raises(ToolError, match="2 names"):
        workspace.write("second", b"x", max_bytes=MAX)


def test_secrets_are_neither_read_nor_listed(tmp_path: Path) -> None:
    (tmp_path / "k").mkdir()
    for name in (".env", "k/id_rsa", "plain.txt"):
        (tmp_path / name).write_text("x")
    workspace = Workspace(tmp_path, secret_globs=(".env", "id_rsa*"))
    assert [entry.path for entry in workspace.files()] == ["plain.txt"]
    for path in (".env", "k/id_rsa"):
        with pytest.raises(ToolError, match="secrets"):
            workspace.read(path, MAX)
    workspace.close()


def test_a_new_file_gets_its_folders_and_a_replaced_one_keeps_its_mode(
    workspace: Workspace,
) -> None:
    assert workspace.write("x/y/z.sh", b"one", max_bytes=MAX)
    target = workspace.path / "x/y/z.sh"
    target.chmod(0o751)
    assert not workspace.write("x/y/z.sh", b"two", if_sha=sha_of(b"one"), max_bytes=MAX)
    assert target.read_bytes() == b"two"
    assert stat.S_IMODE(target.stat().st_mode) == 0o751


def test_a_stale_sha_is_answered_with_the_current_one(workspace: Workspace) -> None:
    with pytest.raises(ToolError, match=sha_of(b"inside\n")):
        workspace.write("a.txt", b"x", if_sha="0" * 12, max_bytes=MAX)
    with pytest.raises(ToolError, match="no sha"):
        workspace.write("new.txt", b"x", if_sha="0" * 12, max_bytes=MAX)
    assert (workspace.path / "a.txt").read_text() == "inside\n"


def test_a_read_only_workspace_refuses_writes(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, writable=False)
    with pytest.raises(ToolError, match="read-only"):
        workspace.write("a.txt", b"x", max_bytes=MAX)
    workspace.close()


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_disk_that_fails_leaves_the_old_file_and_no_other(
    workspace: Workspace, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(ToolError, match="disk is full"):
        workspace.write("a.txt", b"x" * 1000, max_bytes=MAX)
    monkeypatch.undo()
    assert (workspace.path / "a.txt").read_text() == "inside\n"
    assert sorted(os.listdir(workspace.path)) == ["a.txt", "sub"]


def test_what_permissions_forbid_is_said_and_changes_nothing(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "closed").write_text("x")
    (tmp_path / "closed").chmod(0o600)
    tmp_path.chmod(0o755)
    workspace = Workspace(tmp_path)
    os.seteuid(65534)
    try:
        with pytest.raises(ToolError, match="permissions"):
            workspace.read("closed", MAX)
        with pytest.raises(ToolError, match="permissions"):
            workspace.write("a.txt", b"new", max_bytes=MAX)
    finally:
        os.seteuid(0)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "closed"]
    workspace.close()


def test_a_walk_ends_in_folders_without_end(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(150):
        deep = deep / "d"
        deep.mkdir()
    (deep / "far").touch()
    (tmp_path / "near").touch()
    workspace = Workspace(tmp_path)
    assert [entry.path for entry in workspace.files()] == ["near"]
    workspace.close()


def test_walks_are_sorted_by_the_bytes_of_paths_and_follow_no_link(workspace: Workspace) -> None:
    for name in ("sub.txt", "sub-a", "é", "Z"):
        (workspace.path / name).write_text("")
    (workspace.path / "loop").symlink_to(".")
    paths = [entry.path for entry in workspace.files()]
    assert paths == sorted(paths, key=os.fsencode)
    assert paths == ["Z", "a.txt", "sub-a", "sub.txt", "sub/b.txt", "é"]


def test_a_name_cannot_forge_a_line() -> None:
    assert printable("a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    assert printable(os.fsdecode(b"caf\xe9")) == "caf\\xe9"


@contextmanager
def swapping(root: Path) -> Iterator[None]:
    """Keep exchanging a real folder and a link that leads out, as fast as possible."""
    (root / "real").mkdir()
    (root / "real" / "secret.txt").write_text("inside")
    (root / "out").symlink_to("..")
    (root / "name").symlink_to("real")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for target in ("real", ".."):
                os.symlink(target, root / "next")
                os.replace(root / "next", root / "name")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def race(
    opener: beneath.Opener | None, tmp_path: Path, tries: int, *, exercised: int = 0
) -> tuple[int, int]:
    """Read and write through a name that is being swapped: -> times it was inside, leaks.

    At least so many tries, and up to fifty times as many until it was inside often enough: how many
    that takes is the scheduler's choice.
    """
    (tmp_path / "secret.txt").write_text("SECRET")
    root = tmp_path / "ws"
    root.mkdir()
    workspace = Workspace(root, opener=opener)
    inside = leaks = 0
    with swapping(root):
        for number in range(50 * tries):
            if number >= tries and inside >= exercised:
                break
            try:
                if number % 10:
                    data = workspace.read("name/secret.txt", MAX).data
                else:
                    workspace.write("name/secret.txt", b"inside", max_bytes=MAX)
                    data = b"inside"
            except ToolError:
                continue
            inside += data == b"inside"
            leaks += data == b"SECRET"
    workspace.close()
    leaks += (tmp_path / "secret.txt").read_text() != "SECRET"
    return inside, leaks


def test_no_read_or_write_leaks_while_a_link_is_swapped(tmp_path: Path) -> None:
    if not has_openat2(tmp_path):
        pytest.skip("this kernel or container refuses openat2")
    inside, leaks = race(beneath.openat2, tmp_path, 3_000, exercised=100)
    assert leaks == 0
    assert inside >= 100, "the race was not exercised"


@pytest.mark.slow
@pytest.mark.parametrize("opener", [beneath.openat2, beneath.walk])
def test_no_leak_in_a_hundred_thousand_tries(opener: beneath.Opener, tmp_path: Path) -> None:
    inside, leaks = race(opener, tmp_path, 100_000)
    assert leaks == 0


@pytest.mark.slow
def test_a_full_disk_leaves_files_whole(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "t", str(tmp_path)], check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        workspace = Workspace(tmp_path)
        workspace.write("a.txt", b"old", max_bytes=MAX)
        with pytest.raises(ToolError, match="disk is full"):
            workspace.write("a.txt", b"x" * 500_000, max_bytes=MAX)
        assert workspace.read("a.txt", MAX).data == b"old"
        assert os.listdir(tmp_path) == ["a.txt"]
        workspace.close()
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


WRITER = """
import sys
from pathlib import Path
from k2tools.workspace import Workspace
workspace = Workspace(Path(sys.argv[1]))
print("ready", flush=True)
for number in range(10**9):
    letter = b"ab"[number % 2 : number % 2 + 1]
    workspace.write("file", letter * 300_000, max_bytes=10**6)
"""


@pytest.mark.slow
def test_kill_9_in_the_middle_of_writing_leaves_old_or_new(tmp_path: Path) -> None:
    for number in range(20):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.01 + 0.003 * number)  # somewhere in the stream of writes
            process.kill()
        data = (tmp_path / "file").read_bytes()
        assert data in (b"a" * 300_000, b"b" * 300_000)
