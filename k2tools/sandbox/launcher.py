"""The supervisor of tiers 2 and 4: a process that starts the sandbox and outlives all of it.

It adopts every orphan (subreaper), so a daemon inside cannot get away. When its child ends, or the
lifeline to the server breaks (also by SIGKILL of the server), it kills what is left, in rounds,
until nothing is, and removes the temporary directory.
"""

import ctypes
import json
import os
import select
import shutil
import signal
import struct
import sys
import time
from contextlib import suppress
from typing import Any

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
ROUND_S = 0.001

_libc = ctypes.CDLL("kernel32" if sys.platform == "win32" else None, use_errno=True)


def main() -> None:
    """Run one sandbox to its end: -c … FD of a JSON order."""
    with os.fdopen(int(sys.argv[1]), "rb") as order_file:
        order = json.load(order_file)
    os.umask(0o022)
    if not order["supervised"]:
        become(order)
        os.execve(order["command"][0], order["command"], order["environment"])
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        become(order)
        child = start(order)
        prctl(PR_SET_DUMPABLE, 0)
        status = supervise(child, order["lifeline"])
    finally:
        end_descendants()
        shutil.rmtree(order["home"], ignore_errors=True)
    os._exit(status)


def become(order: dict[str, Any]) -> None:
    """Drop from root to an ordinary user for good; nothing to do for anybody else."""
    uid, gid = order["uid"], order["gid"]
    if os.geteuid() == 0:
        from k2_sandbox import reach  # type: ignore[import-not-found]

        reach.open_the_way(order["folders"], uid, gid)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    if os.geteuid() == 0:
        raise PermissionError("the sandbox never runs as root")


def start(order: dict[str, Any]) -> int:
    """Fork the sandbox: order -> process id."""
    supervisor = os.getpid()
    child = os.fork()
    if child:
        for fd in (0, 1, 2, *order["inside_fds"]):
            os.close(fd)  # the sandbox must be the only holder, so that its end shows
        return child
    try:
        enter(order, supervisor)
    except BaseException as error:
        os.write(2, f"sandbox: {error}\n".encode())
    finally:
        os._exit(126)


def enter(order: dict[str, Any], supervisor: int) -> None:
    """Give up every right that the order does not leave, then become the program."""
    os.setsid()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        return
    os.close(order["lifeline"])
    os.chdir(order["workspace"])
    if order["rules"] is not None:
        from k2_sandbox import landlock

        landlock.restrict(order["rules"])
    if order["filter"]:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        install_filter(bytes.fromhex(order["filter"]))
    os.execve(order["command"][0], order["command"], order["environment"])


def install_filter(program: bytes) -> None:
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(header))


def supervise(child: int, lifeline: int) -> int:
    """Reap until the child ends or the lifeline breaks: -> exit status, 128 + signal as in sh."""
    waking, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    poll.register(waking, select.POLLIN)
    poll.register(lifeline, select.POLLIN)
    while True:
        for pid, status in reaped():
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
        if any(fd == lifeline for fd, _ in poll.poll()):
            return 128 + signal.SIGKILL
        with suppress(BlockingIOError):
            os.read(waking, 4096)


def reaped() -> list[tuple[int, int]]:
    """Collect the children that have ended: -> (process id, status) of each."""
    ended = []
    with suppress(ChildProcessError):
        while (pair := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append(pair)
    return ended


def end_descendants() -> None:
    """Kill everything below this process; orphans land here, so rounds reach them all."""
    while pids := descendants(os.getpid()):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        reaped()
        time.sleep(ROUND_S)


def descendants(root: int) -> list[int]:
    """List the processes below one, nearest first."""
    found: list[int] = []
    level = [root]
    while level:
        level = [child for pid in level for child in children(pid)]
        found += level
    return found


def children(pid: int) -> list[int]:
    """List the direct children of a process, those of all its threads."""
    found: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as file:
                found += map(int, file.read().split())
    return found


def prctl(option: int, *arguments: Any) -> None:
    if _libc.prctl(option, *arguments, *([0] * (4 - len(arguments)))) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")
