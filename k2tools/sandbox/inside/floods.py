"""Attempts to use more than a sandbox may: files, memory, processes, time after the end."""

import mmap
import os
import time
from contextlib import suppress
from typing import Any

MIB = 1 << 20
PIECE = 64 * MIB
LIFE_S = 20.0  # of what an attempt leaves behind


def fill(folder: str, total: int) -> int:
    """Take real space in pieces: folder, bytes -> bytes taken."""
    for number in range(total // PIECE):
        with open(os.path.join(folder, f"fill{number}"), "wb") as file:
            file.write(bytes(PIECE))
    return total


def one_large_file(facts: dict[str, Any]) -> Any:
    with open("large", "wb") as file:
        file.truncate(1536 * MIB)
    return True


def host_temporary_files(facts: dict[str, Any]) -> Any:
    return fill("/tmp", facts["flood_bytes"])


def shared_memory_files(facts: dict[str, Any]) -> Any:
    return fill("/dev/shm", facts["flood_bytes"])


def files_on_the_root(facts: dict[str, Any]) -> Any:
    taken = []
    for folder in ("/", "/dev", "/etc", "/run", "/var"):
        with suppress(OSError):
            os.mkdir(f"{folder}/k2tools-fill")
            taken.append(folder)
            os.rmdir(f"{folder}/k2tools-fill")
    return taken


def files_in_memory(facts: dict[str, Any]) -> Any:
    for number in range(facts["flood_bytes"] // PIECE):
        os.write(os.memfd_create(f"fill{number}"), bytes(PIECE))
    return facts["flood_bytes"]


def workspace_bytes(facts: dict[str, Any]) -> Any:
    return held(facts, fill(".", facts["flood_bytes"]))


def workspace_files(facts: dict[str, Any]) -> Any:
    for number in range(facts["flood_files"]):
        with open(f"small{number}", "wb"):
            pass
    return held(facts, facts["flood_files"])


def private_temporary_files(facts: dict[str, Any]) -> Any:
    return held(facts, fill(os.environ["TMPDIR"], facts["flood_bytes"]))


def memory_of_one(facts: dict[str, Any]) -> Any:
    return len(mmap.mmap(-1, 3 << 30))


def memory_of_many(facts: dict[str, Any]) -> Any:
    """Take a little memory in each of many processes."""
    share = facts["flood_bytes"] // 8
    for _ in range(8):
        if not os.fork():
            block = mmap.mmap(-1, share)
            block.write(b"x" * share)
            time.sleep(facts["hold_s"])
            os._exit(0)
    return held(facts, facts["flood_bytes"])


def many_processes(facts: dict[str, Any]) -> Any:
    """Fork without end: reaches something only past the limit that was asked for."""
    pids: list[int] = []
    with suppress(OSError):
        while len(pids) < facts["flood_processes"]:
            pid = os.fork()
            if not pid:
                time.sleep(LIFE_S)
                os._exit(0)
            pids.append(pid)
    for pid in pids:
        os.kill(pid, 9)
    return len(pids) >= facts["flood_processes"]


def held(facts: dict[str, Any], reached: int) -> int:
    """Keep what was taken until somebody ends this process."""
    time.sleep(facts["hold_s"])
    return reached


def tick(path: str) -> None:
    """Write on until killed."""
    with open(path, "ab", buffering=0) as file:
        end_s = time.monotonic() + LIFE_S
        while time.monotonic() < end_s:
            file.write(b".")
            time.sleep(0.01)
