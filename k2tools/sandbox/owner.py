"""Whom a sandbox runs as: never root, and somebody who may write the workspace."""

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from k2tools.sandbox.process import SandboxError

# Where nobody has an account: above ordinary users, below the 16-bit `nobody`.
SERVICE_ID = 65187
PRECIOUS = tuple(map(Path, ("/usr", "/etc", "/proc", "/sys", "/dev", sys.prefix, sys.base_prefix)))


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


def would_hand_over(workspace: Path) -> bool:
    return sys.platform != "win32" and os.geteuid() == 0 and os.stat(workspace).st_uid == 0


def hand_over(workspace: Path) -> None:
    """Where root serves a folder of root's, give it to the user that Python runs as.

    Raises SandboxError where that would touch more than a workspace.
    """
    if not would_hand_over(workspace):
        return
    root = workspace.resolve()
    inside = [p for p in (*PRECIOUS, Path.home()) if root == p or root in p.parents]
    if inside or any(p in root.parents for p in PRECIOUS):
        raise SandboxError(
            f"the server runs as root and {root} belongs to the system; serve a folder of its own, "
            "or start the server as an ordinary user"
        )
    print(f"k2tools: runs as root, so {root} goes to uid {SERVICE_ID} for python", file=sys.stderr)
    device = os.stat(root).st_dev
    for _, folders, files, fd in os.fwalk(root):
        for name in (*folders, *files):
            _give(name, fd, device)
    os.chown(root, SERVICE_ID, SERVICE_ID)


def _give(name: str, folder: int, device: int) -> None:
    """Change the owner of one entry of root's, unless it is also known under another name."""
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    linked = status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode)
    if status.st_uid == 0 and status.st_dev == device and not linked:
        os.chown(name, SERVICE_ID, SERVICE_ID, dir_fd=folder, follow_symlinks=False)
