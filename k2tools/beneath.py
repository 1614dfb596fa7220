"""Directories held open: a path is resolved beneath one of them, and nothing leads out of it.

A check of the resolved path before the open loses the race against whoever swaps a directory for
a link in between. Here the kernel resolves and opens in one step (`openat2`, RESOLVE_BENEATH), or
each component is opened without following links. Windows has neither; there each component is
checked and then opened, which a concurrent local process can still race (`RACE_FREE` says so).
"""

import ctypes
import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

RESOLVE_NO_MAGICLINKS, RESOLVE_BENEATH = 0x02, 0x08
SYS_OPENAT2 = 437  # the same number on every architecture
CLOEXEC = getattr(os, "O_CLOEXEC", 0)
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
DIRECTORY = getattr(os, "O_DIRECTORY", 0)
ALWAYS = CLOEXEC | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_NONBLOCK", 0)
BINARY = getattr(os, "O_BINARY", 0)
HAS_DESCRIPTORS = os.open in os.supports_dir_fd and bool(NOFOLLOW and DIRECTORY)
RACE_FREE = HAS_DESCRIPTORS


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def openat2(directory_fd: int, path: str, flags: int) -> int:
    """Open beneath a directory, links included as long as they stay: fd, path -> descriptor."""
    how = _OpenHow(flags | ALWAYS, 0, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
    libc = ctypes.CDLL(None, use_errno=True)
    for _ in range(16):  # EAGAIN: something was renamed while the kernel looked
        fd = libc.syscall(
            SYS_OPENAT2, directory_fd, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how)
        )
        if fd >= 0:
            return int(fd)
        if ctypes.get_errno() != errno.EAGAIN:
            break
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)


def walk(directory_fd: int, path: str, flags: int) -> int:
    """Open component by component, following no link at all: fd, path -> descriptor."""
    *parents, last = path.split("/")
    current = os.dup(directory_fd)
    try:
        for name in parents:
            deeper = os.open(name, os.O_RDONLY | DIRECTORY | NOFOLLOW | ALWAYS, dir_fd=current)
            os.close(current)
            current = deeper
        return os.open(last, flags | NOFOLLOW | ALWAYS, dir_fd=current)
    finally:
        os.close(current)


Opener = Callable[[int, str, int], int]


def best_opener(root_fd: int) -> Opener:
    """Choose openat2 where the kernel and the container's filter allow it, else the walk."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.close(openat2(root_fd, ".", os.O_RDONLY | DIRECTORY))
            return openat2
    return walk


class Directory:
    """A directory held by its descriptor; names in it are single components."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def open(self, name: str, flags: int, mode: int = 0o666) -> int:
        return os.open(name, flags | NOFOLLOW | ALWAYS | BINARY, mode, dir_fd=self.fd)

    def mkdir(self, name: str) -> None:
        os.mkdir(name, dir_fd=self.fd)
        if os.geteuid() == 0:
            child = self.child(name)
            self.adopt(child.fd)
            child.close()

    def adopt(self, fd: int) -> None:
        """Give a new entry to whom this folder belongs: what root makes, python may change."""
        if os.geteuid() == 0:
            status = os.fstat(self.fd)
            os.fchown(fd, status.st_uid, status.st_gid)

    def stat(self, name: str) -> os.stat_result:
        return os.stat(name, dir_fd=self.fd, follow_symlinks=False)

    def unlink(self, name: str) -> None:
        os.unlink(name, dir_fd=self.fd)

    def replace(self, old: str, new: str) -> None:
        os.replace(old, new, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def child(self, name: str) -> "Directory":
        return Directory(self.open(name, os.O_RDONLY | DIRECTORY))

    def names(self) -> list[tuple[str, bool]]:
        """List the names here, with whether each is a directory (a link is none)."""
        with os.scandir(self.fd) as entries:
            return [(e.name, e.is_dir(follow_symlinks=False)) for e in entries]

    def sync(self) -> None:
        os.fsync(self.fd)

    def close(self) -> None:
        os.close(self.fd)


class PathDirectory(Directory):
    """The same by path, for systems without directory descriptors."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _at(self, name: str) -> str:
        found = self.path / name
        with suppress(FileNotFoundError):
            if found.is_symlink() or _is_junction(found):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
        return str(found)

    def open(self, name: str, flags: int, mode: int = 0o666) -> int:
        return os.open(self._at(name), flags | ALWAYS | BINARY, mode)

    def mkdir(self, name: str) -> None:
        os.mkdir(self._at(name))

    def adopt(self, fd: int) -> None:
        pass

    def stat(self, name: str) -> os.stat_result:
        return os.lstat(self.path / name)

    def unlink(self, name: str) -> None:
        os.unlink(self.path / name)

    def replace(self, old: str, new: str) -> None:
        os.replace(self._at(old), self._at(new))

    def child(self, name: str) -> "PathDirectory":
        found = Path(self._at(name))
        if not stat.S_ISDIR(os.lstat(found).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
        return PathDirectory(found)

    def names(self) -> list[tuple[str, bool]]:
        with os.scandir(self.path) as entries:
            return [(e.name, e.is_dir(follow_symlinks=False)) for e in entries]

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


def _is_junction(path: Path) -> bool:
    return bool(getattr(path, "is_junction", lambda: False)())  # Python 3.12, Windows


class Root:
    """The directory that nothing leaves."""

    def __init__(self, path: Path, opener: Opener | None = None, *, by_path: bool = False) -> None:
        self.by_path = by_path or not HAS_DESCRIPTORS
        if self.by_path:
            self._top: Directory = PathDirectory(path.resolve(strict=True))
            return
        self._top = Directory(os.open(path, os.O_RDONLY | DIRECTORY | CLOEXEC))
        self.opener = opener or best_opener(self._top.fd)

    def open(self, path: str, flags: int) -> int:
        """Open what a relative path names: path -> descriptor."""
        if not self.by_path:
            return self.opener(self._top.fd, path, flags)
        parent, _, name = path.rpartition("/")
        with self.directory(parent) as directory:
            return directory.open(name, flags)

    @contextmanager
    def directory(self, path: str, *, create: bool = False) -> Iterator[Directory]:
        """Hold a directory open; "" is the root. Missing ones are made only on request."""
        current = self._open_directory("")
        try:
            parts = path.split("/") if path else []
            for depth, name in enumerate(parts, 1):
                if create:
                    with suppress(FileExistsError):
                        current.mkdir(name)
                deeper = self._open_directory("/".join(parts[:depth]), current)
                current.close()
                current = deeper
            yield current
        finally:
            current.close()

    def _open_directory(self, path: str, parent: Directory | None = None) -> Directory:
        if self.by_path:
            return parent.child(path.rpartition("/")[2]) if parent else self._top
        return Directory(self.opener(self._top.fd, path or ".", os.O_RDONLY | DIRECTORY))

    def close(self) -> None:
        self._top.close()
