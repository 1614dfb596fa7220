"""Which files a Python interpreter needs to run: what a sandbox shows read-only."""

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

from k2tools.sandbox.process import SandboxError

SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/nix/store")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/fonts")
PLACES = ("HOME", "TMPDIR", "MPLCONFIGDIR")  # variables that name the temporary directory
INSIDE = str(Path(__file__).parent / "inside")
ASK = "import sys, json; print(json.dumps([sys.prefix, sys.base_prefix, sys.exec_prefix]))"


class Runtime(NamedTuple):
    """An interpreter and the folders it needs beyond the system's."""

    python: str
    folders: tuple[str, ...]


@cache
def runtime(python: str) -> Runtime:
    """Ask an interpreter where it lives: path -> Runtime."""
    try:
        answer = subprocess.run(
            [python, "-s", "-P", "-c", ASK], capture_output=True, timeout=20, check=True, text=True
        )
        prefixes = {*json.loads(answer.stdout)}
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise SandboxError(f"{python} does not answer as Python 3.11 or later: {error}") from None
    real = {os.path.realpath(p) for p in prefixes} | {os.path.dirname(os.path.realpath(python))}
    folders = sorted(p for p in prefixes | real | {INSIDE} if not within(p, SYSTEM))
    return Runtime(python, tuple(p for p in folders if not within(p, set(folders) - {p})))


def within(path: str, folders: tuple[str, ...] | set[str]) -> bool:
    """Say whether a path is one of the folders or below one."""
    return any(path == folder or path.startswith(folder + "/") for folder in folders)


def environment(python: str) -> dict[str, str]:
    """Write the whole environment of a sandbox: nothing of the server's own."""
    folder = os.path.dirname(python)
    return {
        "PATH": f"{folder}:/usr/local/bin:/usr/bin:/bin",
        "USER": "sandbox",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",
        "MPLBACKEND": "module://k2_figures",
        # a second thread made batches of small products 60 times slower, and threads count as
        # processes
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
