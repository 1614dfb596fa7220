"""The escape battery: every attempt fails in every tier, and succeeds where nothing stops it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from k2tools.sandbox import ladder
from k2tools.sandbox.inside import attempts
from k2tools.sandbox.inside.start import BOOT
from k2tools.sandbox.jail import Jail, Tier
from k2tools.sandbox.runtime import INSIDE
from k2tools.sandbox.watchdog import Watchdog
from tests.k2tools import canaries
from tests.k2tools.canaries import MIB, Host
from tests.k2tools.tiers import TIERS, jail_of

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="Linux only")]

# What comes back as open although nothing was reached: the host's observation decides.
HOST_DECIDES = {"host_shared_memory", "outlive"}
# No kernel limit stops these: the watchdog must. The temporary directory has a size in tier 1.
WATCHED = {"workspace_bytes", "workspace_files", "memory_of_many", "private_temporary_files"}
SMALL = {"workspace_bytes": 64 * MIB, "workspace_files": 500}
UNLIMITED = {
    "address_bytes": 1 << 46,
    "memory_bytes": 1 << 46,
    "processes": 1 << 16,
    "file_bytes": 1 << 46,
    "temporary_bytes": 1 << 46,
    "workspace_bytes": 1 << 46,
    "workspace_files": 1 << 30,
}
# Refused to any ordinary user by the kernel itself; tried as root in the last test instead.
ROOT_ONLY = {
    "read_shadow",
    "core_pattern",
    "mount",
    "block_device",
    "change_root",
    "plant_in_environment",
    "files_on_the_root",
}
# Nothing to reach unless the launcher were broken; each has a test of its own below.
NEEDS_A_FAULT = {"inherited_descriptors", "type_into_terminal"}


async def tried(jail: Jail, name: str, host: Host, **facts: Any) -> tuple[str, str, str]:
    """Run one attempt under the watchdog: -> outcome, detail, the watchdog's word."""
    watchdog = Watchdog(str(jail.workspace), jail.limits)
    await watchdog.note_base()
    inmate = jail.start("attempts", {"names": [name], "facts": host.facts(**facts)})
    pieces: list[bytes] = []
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(watchdog.watch, lambda: {inmate})
            with anyio.fail_after(30):
                await inmate.drain(pieces.append)
            group.cancel_scope.cancel()
    finally:
        await inmate.end()
    answers, said = ladder.parsed(b"".join(pieces))
    outcome, what = answers.get(name, ("killed", said))
    return outcome, what, watchdog.reasons.get(inmate, "")


@pytest.mark.parametrize("name", list(attempts.ATTEMPTS))
@pytest.mark.parametrize("tier", TIERS)
async def test_nothing_gets_out(tier: Tier, name: str) -> None:
    with canaries.workspace() as workspace, canaries.host(workspace) as host:
        jail = jail_of(tier, workspace).with_limits(**SMALL)
        if name == "memory_of_many":
            jail = jail.with_limits(memory_bytes=128 * MIB)
        outcome, what, reason = await tried(jail, name, host)
        assert host.harm() == []
        if name in WATCHED and not (tier == "bubblewrap" and name == "private_temporary_files"):
            assert outcome == "killed", what
            assert reason
        elif name not in HOST_DECIDES:
            assert outcome == "blocked", what


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(attempts.ATTEMPTS) - ROOT_ONLY - NEEDS_A_FAULT))
async def test_each_attempt_succeeds_without_a_sandbox(name: str) -> None:
    with canaries.workspace() as workspace, canaries.host(workspace) as host:
        jail = jail_of("none", workspace).with_limits(**UNLIMITED)
        outcome, what, _ = await tried(jail, name, host, hold_s=0.5)
        if name == "outlive":  # the supervisor is there in every tier
            assert outcome == "open"
        else:
            assert outcome == "open" or host.harm(), what


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to see that root would get through")
@pytest.mark.parametrize("name", sorted(ROOT_ONLY))
async def test_what_only_root_could_do_succeeds_as_root(name: str) -> None:
    with canaries.workspace() as workspace, canaries.host(workspace) as host:
        order = {"rlimits": {}, "module": "attempts", "arguments": {}}
        order["arguments"] = {"names": [name], "facts": host.facts()}
        inside = [sys.executable, "-c", BOOT, INSIDE, attempts.json.dumps(order)]
        private = ["unshare", "--mount", "--propagation", "private"]
        done = subprocess.run(
            [*private, *inside], cwd=workspace, capture_output=True, check=True, timeout=120
        )
        answers, _ = ladder.parsed(done.stdout)
        assert answers[name][0] == "open", answers
        if name == "plant_in_environment":
            os.unlink(os.path.join(os.path.dirname(os.__file__), "planted.pth"))


@pytest.mark.parametrize("tier", TIERS)
async def test_an_inherited_descriptor_would_be_seen(tier: Tier) -> None:
    with canaries.workspace() as workspace, canaries.host(workspace) as host:
        jail = jail_of(tier, workspace)
        with open(os.devnull) as leak:
            arguments = {"names": ["inherited_descriptors"], "facts": host.facts()}
            inmate = jail.start("attempts", arguments, (leak.fileno(),))
        pieces: list[bytes] = []
        await inmate.drain(pieces.append)
        await inmate.end()
        answers, _ = ladder.parsed(b"".join(pieces))
        assert answers["inherited_descriptors"] == ("open", "['/dev/null']")


TIOCSTI = Path("/proc/sys/dev/tty/legacy_tiocsti")  # missing in kernels that always allow it
ATTACH = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.skipif(
    TIOCSTI.exists() and TIOCSTI.read_text().strip() == "0", reason="the kernel refuses it to all"
)
async def test_a_terminal_would_be_typed_into() -> None:
    order = {"rlimits": {}, "module": "attempts"}
    order["arguments"] = {"names": ["type_into_terminal"], "facts": {}}
    inside = [sys.executable, "-c", BOOT, INSIDE, attempts.json.dumps(order)]
    master, slave = os.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", ATTACH, *inside],
            stdin=slave,
            start_new_session=True,
            capture_output=True,
            check=True,
            timeout=60,
        )
    finally:
        os.close(master)
        os.close(slave)
    answers, _ = ladder.parsed(done.stdout)
    assert answers["type_into_terminal"][0] == "open"
