"""Tier 1: the options of bwrap."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from k2tools.sandbox import seccomp
from k2tools.sandbox.process import SandboxError, in_memory
from k2tools.sandbox.runtime import PLACES, SYSTEM, SYSTEM_FILES, environment, within

if TYPE_CHECKING:
    from k2tools.sandbox.jail import Jail

HOME = "/tmp"
WORKSPACE = "/ws"
ISOLATION = [
    "--unshare-all",
    "--unshare-user",
    "--die-with-parent",
    "--new-session",
    "--cap-drop",
    "ALL",
    "--hostname",
    "sandbox",
    "--uid",
    "1000",
    "--gid",
    "1000",
    "--clearenv",
]


@cache
def version(bwrap: str) -> tuple[int, ...]:
    text = subprocess.run([bwrap, "--version"], capture_output=True, timeout=10, text=True).stdout
    return tuple(map(int, re.findall(r"\d+", text)))


@contextmanager
def command(jail: "Jail") -> Iterator[tuple[list[str], tuple[int, ...]]]:
    """Write the command line up to the program: jail -> argv, descriptors to pass on.

    The options travel through a descriptor, since argv is readable inside.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise SandboxError("bwrap is not installed")
    filtering = seccomp.program(beside_host_files=False)
    with in_memory(filtering) as seccomp_fd:
        options = [*ISOLATION, *(["--disable-userns"] if version(bwrap) >= (0, 8) else [])]
        options += [*_system(), *_memory(jail), *_folders(jail), *_variables(jail)]
        # what is left of the root and of /dev are file systems in memory without a size
        options += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", WORKSPACE]
        options += ["--seccomp", str(seccomp_fd)]
        with in_memory(b"".join(os.fsencode(option) + b"\0" for option in options)) as paper:
            yield [bwrap, "--args", str(paper)], (seccomp_fd, paper)


def _memory(jail: "Jail") -> list[str]:
    """Mount what lives in memory, each with its size."""
    size = str(jail.limits.temporary_bytes)
    shared = ["--size", size, "--tmpfs", "/dev/shm"]
    return ["--proc", "/proc", "--dev", "/dev", *shared, "--size", size, "--tmpfs", HOME]


def _folders(jail: "Jail") -> list[str]:
    """Bind the environment, which may lie below HOME, and the workspace, which may hold it."""
    root = str(jail.workspace)
    options = []
    for folder in jail.runtime.folders:
        options += ["--ro-bind", folder, folder]
    options += ["--bind" if jail.writable else "--ro-bind", root, WORKSPACE]
    for folder in jail.runtime.folders:
        if within(folder, {root}):  # the second way to it must not be writable
            options += ["--ro-bind", folder, WORKSPACE + folder.removeprefix(root)]
    return options


def _variables(jail: "Jail") -> list[str]:
    places = dict.fromkeys(PLACES, HOME)
    pairs = (environment(jail.python) | places).items()
    return [word for name, value in pairs for word in ("--setenv", name, value)]


def _system() -> list[str]:
    """Show the system's programs and libraries as they are: merged into /usr or not."""
    options = []
    for path in SYSTEM:
        if os.path.islink(path):
            options += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            options += ["--ro-bind", path, path]
    for path in SYSTEM_FILES:
        options += ["--ro-bind-try", path, path]
    return options
