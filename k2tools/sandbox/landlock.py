"""Landlock through its three system calls: a process gives up file, network and signal rights.

Numbers and structures: linux/landlock.h. Version 6 of the interface (Linux 6.12) is required, since
only from there signals and abstract sockets stay inside.
"""

import ctypes
import os
import stat
import struct
import sys

NEEDED_ABI = 6
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION = 1  # flag of CREATE_RULESET
PATH_BENEATH = 1
PR_SET_NO_NEW_PRIVS = 38

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_BLOCK, TRUNCATE, IOCTL_DEV = 1 << 6, 1 << 11, 1 << 14, 1 << 15
EVERY_FILE_RIGHT = (1 << 16) - 1
EVERY_NET_RIGHT = 0b11  # bind and connect TCP
EVERY_SCOPE = 0b11  # abstract unix sockets, signals
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
READ = EXECUTE | READ_FILE | READ_DIR
WRITE = EVERY_FILE_RIGHT & ~(MAKE_CHAR | MAKE_BLOCK | IOCTL_DEV)

_libc = ctypes.CDLL("kernel32" if sys.platform == "win32" else None, use_errno=True)


def abi() -> int:
    """Ask the kernel for its version of Landlock; 0 when there is none."""
    return max(_libc.syscall(CREATE_RULESET, None, 0, VERSION), 0)


def restrict(rules: dict[str, int]) -> None:
    """Give up everything but the rules, for this process and its children: path -> rights."""
    attributes = struct.pack("=QQQ", EVERY_FILE_RIGHT, EVERY_NET_RIGHT, EVERY_SCOPE)
    ruleset = _checked(_libc.syscall(CREATE_RULESET, attributes, len(attributes), 0))
    for path, rights in rules.items():
        _allow(ruleset, path, rights)
    _checked(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(_libc.syscall(RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        rights &= OF_FILES
    _checked(_libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, struct.pack("=Qi", rights, fd), 0))
    os.close(fd)


def _checked(value: int) -> int:
    if value < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"Landlock: {os.strerror(code)}")
    return value
