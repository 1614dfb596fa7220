"""Whom a sandbox runs as: never root, and somebody who may write the workspace."""

import os
from contextlib import suppress
from pathlib import Path

# Where nobody has an account: above ordinary users, below the 16-bit `nobody`.
SERVICE_ID = 65187


def sandbox_owner(workspace: Path) -> tuple[int, int]:
    """Choose the user of a sandbox: workspace -> uid, gid."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    status = os.stat(workspace)
    uid = status.st_uid or SERVICE_ID
    return uid, status.st_gid or uid


def threads_of(uid: int) -> int:
    """Count the threads of a user, as RLIMIT_NPROC does: uid -> count."""
    count = 0
    for entry in os.scandir("/proc"):
        with suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                count += os.stat(f"{entry.path}/task").st_nlink - 2
    return count
