"""Root's last act before it drops to an ordinary user: let that user walk to what it needs.

An interpreter below /root, or a workspace in a private folder, is out of reach for anybody else.
In a mount namespace of its own, the closed folder on the way is covered by an empty one that holds
nothing but the way. Nothing outside this process and its children sees it.
"""

import ctypes
import os
import sys

CLONE_NEWNS = 0x20000
MS_BIND, MS_REC, MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18

_libc = ctypes.CDLL("kernel32" if sys.platform == "win32" else None, use_errno=True)


def open_the_way(folders: list[str], uid: int, gid: int) -> None:
    """Make folders reachable for a user, where they are not: paths, uid, gid."""
    blocked = {folder: barrier for folder in folders if (barrier := closed(folder, uid, gid))}
    if not blocked:
        return
    _checked(_libc.unshare(CLONE_NEWNS), f"{next(iter(blocked))} cannot be reached by uid {uid}")
    _mount("none", "/", None, MS_REC | MS_PRIVATE, None)
    held = {folder: os.open(folder, os.O_PATH) for folder in blocked}
    for barrier in sorted(set(blocked.values())):
        _mount("k2tools", barrier, "tmpfs", 0, "mode=0755,size=1m")
    for folder, fd in held.items():
        os.makedirs(folder, exist_ok=True)
        _mount(f"/proc/self/fd/{fd}", folder, None, MS_BIND | MS_REC, None)
        os.close(fd)


def closed(folder: str, uid: int, gid: int) -> str:
    """Find the first folder on the way that a user may not enter: -> its path, or ""."""
    path = ""
    for part in folder.strip("/").split("/")[:-1]:
        path = f"{path}/{part}"
        status = os.stat(path)
        shift = 6 if status.st_uid == uid else 3 if status.st_gid == gid else 0
        if not status.st_mode >> shift & 1:
            return path
    return ""


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None) -> None:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    done = _libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])
    _checked(done, f"mounting {target}")


def _checked(value: int, what: str) -> None:
    if value < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
