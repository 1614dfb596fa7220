"""The workspace: the only door to the user's files, for every tool.

Paths are relative, with forward slashes; nothing outside is reached, also while somebody swaps
directories for links. Only regular files are opened. Writes are whole or not at all.
"""

import errno
import hashlib
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from k2tools.beneath import Directory, Opener, Root
from k2tools.globs import matcher
from k2tools.results import ToolError, shown

SHA_CHARS = 12  # of the hexadecimal SHA-256 that a model is shown and may give back
TEMPORARY = ".k2tmp"  # ends the name of a file that is being written
MAX_DEPTH = 100  # folders within folders that a walk enters
UNLISTED = frozenset({".git", ".hg", ".svn", "__pycache__", "node_modules"})
SUGGESTED_FROM_FILES = 2_000  # looked at for the nearest name
ELSEWHERE = "; list_files shows them, and open reads the ids of search and of earlier results"
RULE = "Paths are relative to the workspace, with / between names and no '..'"


class File(NamedTuple):
    """One reading of a file: its bytes and what a replacement must keep."""

    data: bytes
    mode: int

    @property
    def sha(self) -> str:
        return sha_of(self.data)


class Entry(NamedTuple):
    """One regular file of the workspace."""

    path: str
    size: int
    mtime_ns: int


def sha_of(data: bytes) -> str:
    """Hash bytes as `if_sha` wants them: data -> 12 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()[:SHA_CHARS]


def printable(path: str) -> str:
    """Write a path so that no name can forge a line: control and undecodable bytes escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Workspace:
    """One directory, read-only or read-write, with names that stay unread."""

    def __init__(
        self,
        root: Path,
        *,
        writable: bool = True,
        secret_globs: tuple[str, ...] = (),
        only: frozenset[str] = frozenset(),
        opener: Opener | None = None,
        by_path: bool = False,
    ) -> None:
        self.path = root
        self.writable = writable
        self.secret_globs = secret_globs
        self.only = only  # names at the top that exist here; none: everything does
        self._root = Root(root, opener, by_path=by_path)
        self.lock = threading.RLock()  # one writer at a time: read, compare, replace

    def close(self) -> None:
        self._root.close()

    def checked(self, path: str) -> str:
        """Check a path by the rules that need no disk: path -> path without './' and '//'."""
        if not path or "\0" in path:
            raise ToolError(f"the path {shown(path)} is empty or holds NUL. {RULE}")
        if path.startswith("/") or path[1:2] == ":" or ("\\" in path and os.sep == "\\"):
            raise ToolError(f"{shown(path)} is absolute. {RULE}; list_files shows them")
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise ToolError(f"{shown(path)} leads outside. {RULE}; list_files shows them")
        if self.secret(path):
            raise ToolError(f"{shown(path)} is on the operator's list of secrets and stays closed")
        if not parts:
            raise ToolError(f"{shown(path)} names the workspace itself, not a file in it")
        path = "/".join(parts)
        if self.only and path not in self.only:
            raise ToolError(
                f"{shown(path)} is none of the files given, {', '.join(sorted(self.only))}"
            )
        return path

    def secret(self, path: str) -> bool:
        """Say whether any name on the path is on the list of secrets."""
        return any(fnmatch(n, glob) for n in path.split("/") for glob in self.secret_globs)

    def open(self, path: str) -> int:
        """Open a regular file for reading: path -> descriptor that the caller closes."""
        path = self.checked(path)
        with refusing(path):
            try:
                fd = self._root.open(path, os.O_RDONLY)
            except FileNotFoundError:
                raise ToolError(self._missing(path)) from None
            try:
                _require_regular(path, os.fstat(fd))
            except BaseException:
                os.close(fd)
                raise
            return fd

    def _missing(self, path: str) -> str:
        """Say that a file is not there, with the names that come nearest."""
        names = [printable(entry.path) for entry in islice(self.files(), SUGGESTED_FROM_FILES)]
        wanted = path.rpartition("/")[2]
        close = [name for name in names if name.rpartition("/")[2] == wanted]
        close = (close or get_close_matches(path, names, 3, 0.6))[:3]
        hint = f"; did you mean {' or '.join(close)}?" if close else ELSEWHERE
        return f"{printable(path)} does not exist. {RULE}{hint}"

    def read(self, path: str, max_bytes: int) -> File:
        """Read a whole file: path, cap -> File."""
        with os.fdopen(self.open(path), "rb") as handle, refusing(path):
            status = os.fstat(handle.fileno())
            if status.st_size > max_bytes:
                raise ToolError(
                    f"{printable(path)} has {status.st_size} bytes, the limit is {max_bytes}; "
                    "use python or grep on it"
                )
            data = handle.read(max_bytes + 1)
            if len(data) > max_bytes:
                raise ToolError(f"{printable(path)} grew past {max_bytes} bytes while being read")
            return File(data, stat.S_IMODE(status.st_mode))

    def write(self, path: str, data: bytes, *, if_sha: str = "", max_bytes: int) -> bool:
        """Create or replace a file in one step, its mode kept: -> whether it is new.

        Another process can still write between the comparison with `if_sha` and the rename.
        """
        path = self.checked(path)
        if not self.writable:
            raise ToolError(f"the workspace is read-only, so {shown(path)} cannot be written")
        if len(data) > max_bytes:
            raise ToolError(f"{len(data)} bytes for {shown(path)}, the limit is {max_bytes}")
        folder, _, name = path.rpartition("/")
        with (
            self.lock,
            refusing(path),
            self._root.directory(folder, create=True) as directory,
        ):
            mode = self._replaced_mode(directory, name, path, if_sha)
            _replace(directory, name, data, mode=mode)
            return mode is None

    def _replaced_mode(self, directory: Directory, name: str, path: str, if_sha: str) -> int | None:
        """Check what is about to be replaced: -> its mode, or None for a new file."""
        try:
            status = directory.stat(name)
        except FileNotFoundError:
            if if_sha:
                raise ToolError(
                    f"{path} does not exist, so it has no sha; leave if_sha out"
                ) from None
            return None
        if stat.S_ISLNK(status.st_mode):
            raise ToolError(f"{path} is a symbolic link; write to the file it names instead")
        _require_regular(path, status)
        if status.st_nlink > 1:
            raise ToolError(f"{path} has {status.st_nlink} names (hard links); write a new file")
        if if_sha:
            with os.fdopen(directory.open(name, os.O_RDONLY), "rb") as handle:
                self.require_sha(path, handle.read(), if_sha)
        return stat.S_IMODE(status.st_mode)

    def require_sha(self, path: str, data: bytes, if_sha: str) -> None:
        """Refuse a change that was written for other contents."""
        now = hashlib.sha256(data).hexdigest()
        if len(if_sha) < SHA_CHARS or not now.startswith(if_sha.lower()):
            raise ToolError(
                f"{printable(path)} has sha {now[:SHA_CHARS]}, not {shown(if_sha)}: it changed "
                "since; read_file it again and repeat the change"
            )

    def files(self, glob: str = "**/*", *, max_files: int = 200_000) -> Iterator[Entry]:
        """Walk the regular files that match, sorted by the bytes of their paths.

        Links, secrets and version-control folders are passed over (the latter unless named).
        """
        matches = matcher(glob)
        unlisted = {name for name in UNLISTED if name not in glob.split("/")}
        with self._root.directory("") as top:
            for seen, entry in enumerate(self._walk(top, "", unlisted)):
                if seen == max_files:
                    raise ToolError(
                        f"the workspace has more than {max_files} files; name a folder in the glob"
                    )
                if matches(entry.path):
                    yield entry

    def _walk(self, directory: Directory, prefix: str, unlisted: set[str]) -> Iterator[Entry]:
        names = sorted(directory.names(), key=lambda n: os.fsencode(n[0] + "/" * n[1]))
        for name, is_directory in names:
            path = prefix + name
            if self.only and path not in self.only:
                continue
            if name in unlisted or name.endswith(TEMPORARY) or self.secret(name):
                continue
            with suppress(OSError):  # removed or closed to us since it was listed
                if is_directory:
                    if prefix.count("/") < MAX_DEPTH:
                        yield from self._walk_child(directory, name, path, unlisted)
                    continue
                status = directory.stat(name)
                if stat.S_ISREG(status.st_mode):
                    yield Entry(path, status.st_size, status.st_mtime_ns)

    def _walk_child(
        self, directory: Directory, name: str, path: str, unlisted: set[str]
    ) -> Iterator[Entry]:
        child = directory.child(name)
        try:
            yield from self._walk(child, path + "/", unlisted)
        finally:
            child.close()


def _require_regular(path: str, status: os.stat_result) -> None:
    kinds = {
        stat.S_IFDIR: "a directory; list_files shows what is in it",
        stat.S_IFIFO: "a named pipe; only regular files can be used",
        stat.S_IFSOCK: "a socket; only regular files can be used",
        stat.S_IFCHR: "a device; only regular files can be used",
        stat.S_IFBLK: "a device; only regular files can be used",
    }
    if not stat.S_ISREG(status.st_mode):
        raise ToolError(f"{printable(path)} is {kinds.get(stat.S_IFMT(status.st_mode), 'no file')}")


def _replace(directory: Directory, name: str, data: bytes, *, mode: int | None) -> None:
    """Write beside the target, flush, then rename over it: all of it or nothing."""
    temporary = f".{secrets.token_hex(8)}{TEMPORARY}"
    fd = directory.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        with os.fdopen(fd, "wb") as handle:
            handle.write(data)
            handle.flush()
            directory.adopt(handle.fileno())
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(handle.fileno(), mode)
            os.fsync(handle.fileno())
        directory.replace(temporary, name)
    except BaseException:
        with suppress(OSError):
            directory.unlink(temporary)
        raise
    directory.sync()


REASONS = {
    errno.EXDEV: f"leads outside the workspace. {RULE}",
    errno.ELOOP: "goes through a symbolic link that is not followed. Use the path it stands for",
    errno.EACCES: "is closed to the server by its permissions",
    errno.EPERM: "is closed to the server by its permissions",
    errno.EROFS: "lies on a read-only file system",
    errno.ENOSPC: "was not written: the disk is full. Remove something first; nothing changed",
    errno.EDQUOT: "was not written: the disk quota is used up. Remove something first",
    errno.EFBIG: "was not written: it passes the file size limit",
    errno.ENAMETOOLONG: "has a name longer than the file system allows (usually 255 bytes)",
    errno.ENXIO: "is a socket or a device; only regular files can be used",
    errno.ENOTDIR: "goes through a file or a link as if it were a directory; see list_files",
    errno.EISDIR: "is a directory; list_files shows what is in it",
}


@contextmanager
def refusing(path: str) -> Iterator[None]:
    """Turn the system's errors about a path into sentences for the model."""
    try:
        yield
    except FileNotFoundError:
        raise ToolError(
            f"{printable(path)} does not exist. {RULE}; list_files shows them"
        ) from None
    except OSError as error:
        reason = REASONS.get(error.errno or 0, f"could not be used: {error.strerror}")
        raise ToolError(f"{printable(path)} {reason}") from None
