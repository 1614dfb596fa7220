"""Which tier works here: tried, not guessed, by escapes that must fail."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from k2tools.sandbox import landlock, owner
from k2tools.sandbox.inside.attempts import QUICK
from k2tools.sandbox.jail import Jail, Tier
from k2tools.sandbox.process import SandboxError

TIERS: tuple[Tier, ...] = ("bubblewrap", "landlock")  # the best first
PROBE_S = 20.0
GET_A_TIER = (
    "install bubblewrap (apt-get install bubblewrap, dnf install bubblewrap), or run on Linux 6.12 "
    "or later, or name a Jupyter gateway with --gateway URL"
)


class Rung(NamedTuple):
    """One tier of the ladder, as tried here."""

    name: str
    works: bool
    reason: str  # why not
    remedy: str  # how to get it


async def survey(jail: Jail, gateway: str = "") -> list[Rung]:
    """Try every tier: a jail of any tier -> the rungs, best first."""
    rungs = [
        await tried(jail, "bubblewrap", "install it: apt-get install bubblewrap"),
        await tried(jail, "landlock", "run a Linux of 6.12 or later with Landlock switched on"),
    ]
    reason = "" if gateway else "none is configured"
    return [*rungs, Rung("gateway", bool(gateway), reason, "name one with --gateway URL")]


async def choose(jail: Jail) -> Jail:
    """Take the best tier that works. Raises SandboxError with the reasons and the way out."""
    refused = []
    for tier in TIERS:
        rung = await tried(jail, tier, "")
        if rung.works:
            return _in(jail, tier)
        refused.append(f"{tier}: {rung.reason}")
    raise SandboxError(f"no sandbox works here ({'; '.join(refused)}); {GET_A_TIER}")


async def tried(jail: Jail, tier: Tier, remedy: str) -> Rung:
    """Run the quick escapes in a tier: it works when each is refused."""
    reason = _missing(tier)
    if not reason:
        try:
            with anyio.fail_after(PROBE_S):
                reason = await _escaped(_in(jail, tier))
        except (SandboxError, OSError, TimeoutError) as error:
            reason = str(error) or "it did not answer"
    return Rung(tier, not reason, reason, remedy)


def _in(jail: Jail, tier: Tier) -> Jail:
    return Jail(tier, jail.workspace, jail.python, jail.writable, jail.limits)


def _missing(tier: Tier) -> str:
    if sys.platform != "linux":
        return f"it needs Linux, this is {sys.platform}"
    if tier == "landlock" and (abi := landlock.abi()) < landlock.NEEDED_ABI:
        return f"Landlock {landlock.NEEDED_ABI} is needed, this kernel has {abi or 'none'}"
    if tier == "bubblewrap" and shutil.which("bwrap") is None:
        return "bwrap is not installed"
    return ""


async def _escaped(jail: Jail) -> str:
    """Try to get out of a jail: -> what was reached, "" when nothing was."""
    async with canaries(jail.workspace) as facts:
        answers, said = await attempt(jail, list(QUICK), facts)
    reached = [f"{name} ({what})" for name, (outcome, what) in answers.items() if outcome == "open"]
    if reached:
        return f"it does not hold: {', '.join(reached)}"
    if answers.keys() != set(QUICK):
        return said.strip().rpartition("\n")[2] or "it did not answer"
    return ""


async def attempt(
    jail: Jail, names: list[str], facts: dict[str, Any]
) -> tuple[dict[str, tuple[str, str]], str]:
    """Run escape attempts in a jail: names, facts -> answers by name, what else was printed."""
    inmate = jail.start("attempts", {"names": names, "facts": facts})
    pieces: list[bytes] = []
    try:
        await inmate.drain(pieces.append)
    finally:
        await inmate.end()
    return parsed(b"".join(pieces))


def parsed(printed: bytes) -> tuple[dict[str, tuple[str, str]], str]:
    """Read what attempts printed: bytes -> answers by name, what else was printed."""
    answers, said = {}, []
    for line in printed.decode("utf-8", "replace").splitlines():
        try:
            answer = json.loads(line)
            answers[answer["name"]] = tuple(answer["answer"])
        except (ValueError, TypeError, KeyError):
            said.append(line)
    return answers, "\n".join(said)


@asynccontextmanager
async def canaries(workspace: Path) -> AsyncIterator[dict[str, Any]]:
    """Put out a file and a process, both owned by the user that the sandbox runs as."""
    uid, gid = owner.sandbox_owner(workspace)
    token, marker = secrets.token_hex(8), secrets.token_hex(8)
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        identity = {"user": uid, "group": gid, "extra_groups": []}
    outside = tempfile.mkdtemp(prefix="k2tools-")
    secret = os.path.join(outside, token)
    with open(secret, "w") as file:
        file.write(token)
    for path in (outside, secret):
        os.chown(path, uid, gid)
    marked = {"PATH": "/usr/bin:/bin", "MARKER": marker}
    victim = subprocess.Popen(  # ends with its input, so also with a server that is killed
        ["cat"], env=marked, stdin=subprocess.PIPE, start_new_session=True, **identity
    )
    try:
        yield {
            "secret": secret,
            "outside": outside,
            "token": token,
            "marker": marker[::-1],  # reversed, for the facts themselves are in sight
            "victim": victim.pid,
            "server": os.getpid(),
        }
    finally:
        victim.kill()
        victim.communicate()
        shutil.rmtree(outside, ignore_errors=True)
