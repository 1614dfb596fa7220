"""The parts of the sandbox one by one."""

import errno
import os
import platform
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from k2tools.sandbox import bubblewrap, ladder, owner, seccomp
from k2tools.sandbox.inside import values
from k2tools.sandbox.jail import Jail
from k2tools.sandbox.kernel import Printed
from k2tools.sandbox.limits import Limits
from k2tools.sandbox.process import SandboxError
from k2tools.sandbox.reach import closed
from k2tools.sandbox.runtime import Runtime, environment, within
from k2tools.sandbox.watchdog import Usage, Watchdog, measure, private_memory
from tests.k2tools import canaries
from tests.k2tools.tiers import ANY_TIER, TIERS, WITH_LANDLOCK

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
ALLOWED = {"x86_64": {"read": 0, "getpid": 39}, "aarch64": {"read": 63, "getpid": 172}}
EPERM, ENOSYS = seccomp.ERRNO | errno.EPERM, seccomp.ERRNO | errno.ENOSYS


def verdict(program: bytes, machine: str, number: int, *arguments: int) -> int:
    """Run a filter as the kernel would: program, system call -> its verdict."""
    words = [number, seccomp.ARCHITECTURES.get(machine, 0), 0, 0]
    for value in (*arguments, *[0] * (6 - len(arguments))):
        words += [value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF]
    steps = list(struct.iter_unpack("<HBBI", program))
    at = held = 0
    while True:
        code, if_true, if_false, value = steps[at]
        at += 1
        if code == seccomp.LOAD:
            held = words[value // 4]
        elif code == seccomp.AND:
            held &= value
        elif code == seccomp.JUMP:
            at += value
        elif code == seccomp.RETURN:
            return int(value)
        else:
            tests = {
                seccomp.JUMP_EQUAL: held == value,
                seccomp.JUMP_AT_LEAST: held >= value,
                seccomp.JUMP_SET: bool(held & value),
            }
            at += if_true if tests[code] else if_false


@pytest.mark.parametrize("machine", list(seccomp.ARCHITECTURES))
@pytest.mark.parametrize("beside", [True, False])
def test_the_filter_refuses_each_forbidden_call_and_lets_others_pass(
    machine: str, beside: bool
) -> None:
    column = list(seccomp.ARCHITECTURES).index(machine)
    program = seccomp.program(beside_host_files=beside, machine=machine)
    for numbers in seccomp.FORBIDDEN.values():
        if numbers[column] >= 0:
            assert verdict(program, machine, numbers[column]) == EPERM
    for numbers in seccomp.FORBIDDEN_BESIDE_HOST_FILES.values():
        if numbers[column] >= 0:
            wanted = EPERM if beside else seccomp.ALLOW
            assert verdict(program, machine, numbers[column]) == wanted
    for number in ALLOWED[machine].values():
        assert verdict(program, machine, number) == seccomp.ALLOW
    assert verdict(program, machine, seccomp.CLONE3[column]) == ENOSYS


@pytest.mark.parametrize("machine", list(seccomp.ARCHITECTURES))
def test_the_filter_reads_arguments_where_they_decide(machine: str) -> None:
    column = list(seccomp.ARCHITECTURES).index(machine)
    program = seccomp.program(beside_host_files=False, machine=machine)

    def answer(numbers: tuple[int, ...], *arguments: int) -> int:
        return verdict(program, machine, numbers[column], *arguments)

    assert answer(seccomp.CLONE, 0x10000000) == EPERM  # CLONE_NEWUSER
    assert answer(seccomp.CLONE, 0x003D0F00) == seccomp.ALLOW  # a thread
    assert answer(seccomp.IOCTL, 0, seccomp.TIOCSTI) == EPERM
    assert answer(seccomp.IOCTL, 0, 0x5401) == seccomp.ALLOW
    assert answer(seccomp.FCNTL, 0, seccomp.F_SETOWN) == EPERM
    assert answer(seccomp.FCNTL, 0, 1) == seccomp.ALLOW
    assert answer(seccomp.SOCKETPAIR, 1, 1 | 0o2000000) == seccomp.ALLOW  # a stream
    assert answer(seccomp.SOCKETPAIR, 1, 2) == EPERM  # datagrams
    assert answer(seccomp.ONLY_SELF["prlimit64"], 0) == seccomp.ALLOW
    assert answer(seccomp.ONLY_SELF["prlimit64"], 1234) == EPERM
    assert answer(seccomp.MODE_ARGUMENT["fchmod"], 3, 0o4755) == EPERM
    assert answer(seccomp.MODE_ARGUMENT["fchmod"], 3, 0o755) == seccomp.ALLOW
    assert answer(seccomp.MODE_ARGUMENT["openat"], 3, 0, 0, 0o6000) == EPERM


def test_the_filter_kills_foreign_architectures_and_closes_the_second_door() -> None:
    program = seccomp.program(beside_host_files=False, machine="x86_64")
    assert verdict(program, "i386", 0) == seccomp.KILL_PROCESS
    assert verdict(program, "x86_64", 0x40000000 | 41) == ENOSYS


def test_a_machine_without_a_filter_is_refused() -> None:
    with pytest.raises(OSError, match="no system call filter for riscv64"):
        seccomp.program(beside_host_files=False, machine="riscv64")


def test_output_keeps_head_and_tail_of_any_flood() -> None:
    printed = Printed(1_000)
    for number in range(10_000):
        printed.add(b"%06d\n" % number)
    text = printed.text()
    assert text.startswith("000000\n")
    assert text.endswith("009999\n")
    assert len(text) <= 1_010
    assert printed.dropped_bytes >= 70_000 - 1_100


def test_short_output_is_kept_whole() -> None:
    printed = Printed(1_000)
    printed.add(b"a" * 400)
    printed.add(b"b" * 300)
    assert printed.text() == "a" * 400 + "b" * 300
    assert printed.dropped_bytes == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        ("a\n", "'a\\n'"),
        (2**20000 % 10**4400 > 0, "True"),
        ({"b": 1, "a": 2}, "{'b': 1, 'a': 2}"),
        (object, "<class 'object'>"),
    ],
)
def test_values_read_as_at_a_prompt(value: object, text: str) -> None:
    assert values.shown(value) == text


def test_addresses_are_left_out_and_long_containers_cut() -> None:
    assert values.shown(object()) == "<object object>"
    assert values.shown(list(range(5_000))).endswith("999, ...]")
    assert values.shown(["word " * 10] * 5).count("\n") == 4


@LINUX
def test_measuring_counts_blocks_and_names_without_following_links(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "up").symlink_to("/usr")
    usage = measure(str(tmp_path), 1_000)
    assert usage.files == 3
    assert 100_000 <= usage.bytes < 200_000
    assert measure("/usr/lib", 10).files < 5_000  # it stops early


@LINUX
def test_private_memory_of_this_process_is_counted() -> None:
    assert private_memory([os.getpid(), 2**22 + 1]) > 2**20


@LINUX
@pytest.mark.anyio
async def test_growth_is_measured_from_the_start(tmp_path: Path) -> None:
    (tmp_path / "before").write_bytes(b"x" * 2**20)
    watchdog = Watchdog(str(tmp_path), Limits(workspace_bytes=2**20, workspace_files=2))
    await watchdog.note_base()
    assert watchdog._excess(Usage(2**20, 1)) == ""
    assert "grew by 3 MiB" in watchdog._excess(Usage(2**22, 1))
    assert "more than 2 files" in watchdog._excess(Usage(2**20, 9))


@LINUX
def test_the_first_closed_folder_on_the_way_is_found(tmp_path: Path) -> None:
    inner = tmp_path / "private" / "inner"
    inner.mkdir(parents=True)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(0o755)
    (tmp_path / "private").chmod(0o700)
    stranger = owner.SERVICE_ID
    assert closed(str(inner), stranger, stranger) == str(tmp_path / "private")
    assert closed(str(inner), os.stat(tmp_path / "private").st_uid, stranger) == ""


@LINUX
def test_the_environment_of_a_sandbox_holds_nothing_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECRET", "x")
    assert "SECRET" not in environment(sys.executable)


def test_within_compares_whole_names() -> None:
    assert within("/usr/lib", ("/usr",))
    assert not within("/usrlocal", ("/usr",))


@LINUX
def test_an_environment_in_the_workspace_is_bound_again_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = str(tmp_path / ".venv")
    monkeypatch.setattr(Jail, "runtime", Runtime(sys.executable, (inside,)))
    options = bubblewrap._folders(Jail("bubblewrap", tmp_path))
    assert options[-3:] == ["--ro-bind", inside, "/ws/.venv"]
    with pytest.raises(SandboxError, match="lies inside the workspace"):
        Jail("landlock", tmp_path)._rules()


@LINUX
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_hands_its_workspace_over_but_nothing_with_a_second_name(tmp_path: Path) -> None:
    workspace = tmp_path / "ws"
    (workspace / "d").mkdir(parents=True)
    (workspace / "d" / "a").write_text("x")
    (tmp_path / "precious").write_text("x")
    os.link(tmp_path / "precious", workspace / "second")
    (workspace / "link").symlink_to(tmp_path / "precious")
    owner.hand_over(workspace)
    assert workspace.stat().st_uid == (workspace / "d" / "a").stat().st_uid == owner.SERVICE_ID
    assert (tmp_path / "precious").stat().st_uid == 0
    assert (workspace / "link").lstat().st_uid == owner.SERVICE_ID


@LINUX
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("folder", ["/", "/usr/lib", "/root", "/etc"])
def test_root_does_not_hand_the_system_over(folder: str) -> None:
    with pytest.raises(SandboxError, match="serve a folder of its own"):
        owner.hand_over(Path(folder))


@pytest.mark.anyio
async def test_other_systems_are_told_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder.sys, "platform", "darwin")
    with pytest.raises(SandboxError) as refusal:
        await ladder.choose(Jail("none", Path.cwd()))
    assert "it needs Linux, this is darwin" in str(refusal.value)
    assert "--gateway URL" in str(refusal.value)


@pytest.mark.anyio
@pytest.mark.parametrize("tier", TIERS)
async def test_a_tier_that_does_not_hold_is_not_offered(
    tier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with canaries.workspace() as workspace:
        assert (await ladder.tried(Jail("none", workspace), tier, "")).works
        monkeypatch.setattr(
            seccomp, "program", lambda **_: struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000)
        )
        rung = await ladder.tried(Jail("none", workspace), tier, "")
    assert not rung.works
    assert rung.reason.startswith("it does not hold: ")


@pytest.mark.anyio
@pytest.mark.skipif(not WITH_LANDLOCK, reason="no Landlock of version 6")
async def test_where_namespaces_are_denied_the_next_tier_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    denied = "bwrap: No permissions to create new namespace"
    fake = tmp_path / "bwrap"
    fake.write_text(f"#!/bin/sh\necho '{denied}' >&2\nexit 1\n")
    fake.chmod(0o755)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda name: str(fake))
    bubblewrap.version.cache_clear()
    with canaries.workspace() as workspace:
        jail = Jail("none", workspace)
        assert (await ladder.choose(jail)).tier == "landlock"
        assert (await ladder.tried(jail, "bubblewrap", "")).reason == denied
    bubblewrap.version.cache_clear()


@ANY_TIER
@pytest.mark.anyio
async def test_an_interpreter_that_is_none_gives_a_reason() -> None:
    with canaries.workspace() as workspace:
        jail = Jail("none", workspace, python="/bin/false")
        for rung in (await ladder.survey(jail))[:2]:
            assert not rung.works
            assert rung.reason


def test_this_machine_has_a_filter_or_says_so() -> None:
    if platform.machine() in seccomp.ARCHITECTURES:
        assert seccomp.program(beside_host_files=True)
