"""What a sandbox must not reach, put out on the host, and what became of it."""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from k2tools.sandbox import owner

MIB = 1 << 20


class Host:
    """Canaries for one attempt: files, sockets, a process, all of the user of the sandbox."""

    def __init__(self, workspace: Path, stack: ExitStack) -> None:
        self.identity = owner.sandbox_owner(workspace)
        self.workspace = workspace
        self.token, self.marker = secrets.token_hex(8), secrets.token_hex(8)
        self.outside = Path(tempfile.mkdtemp(prefix="k2tools-canary-"))
        stack.callback(shutil.rmtree, self.outside, ignore_errors=True)
        self.secret = self.outside / self.token
        self.secret.write_text(self.token)
        self.links = [stack.enter_context(link) for link in self._sockets()]
        self.ports = [link.getsockname()[1] for link in self.links[:2]]
        for path in (self.outside, *self.outside.iterdir()):
            os.chown(path, *self.identity)
        self.secret.chmod(0o600)
        self.before = self.secret.stat()
        self.victim = self._start_victim()
        stack.callback(self._end_victim)
        self.burdens = self._burdens()
        os.environ["K2TOOLS_TEST_MARKER"] = self.marker
        stack.callback(os.environ.pop, "K2TOOLS_TEST_MARKER")
        self.ticks = workspace / "ticks"

    def facts(self, **more: Any) -> dict[str, Any]:
        return {
            "secret": str(self.secret),
            "outside": str(self.outside),
            "token": self.token,
            "marker": self.marker[::-1],
            "victim": self.victim.pid,
            "server": os.getpid(),
            "tcp_port": self.ports[0],
            "udp_port": self.ports[1],
            "stream_path": str(self.outside / "stream"),
            "datagram_path": str(self.outside / "datagram"),
            "ticks": "ticks",
            "flood_bytes": 512 * MIB,
            "flood_files": 2_000,
            "flood_processes": 1_500,
            "hold_s": 20.0,
            **more,
        }

    def harm(self) -> list[str]:
        """List what the attempt did to the host."""
        now = self.secret.stat()
        damage = {
            "wrote outside": (self.outside / "written").exists(),
            "changed the mode": now.st_mode != self.before.st_mode,
            "changed the times": now.st_mtime != self.before.st_mtime,
            "tagged the secret": bool(os.listxattr(self.secret)),
            "reached a socket": any(map(_hit, self.links)),
            "ended the victim": self.victim.poll() is not None,
            "stopped the victim": _state(self.victim.pid) not in ("S", "R", "D", ""),
            "limited the victim": self.victim.poll() is None and self._burdens() != self.burdens,
            "wrote shared memory": os.path.lexists(f"/dev/shm/{self.token}"),
            "left a set-uid program": self._set_uid(),
            "left a process": bool(processes_with(self.token)),
        }
        return [what for what, done in damage.items() if done]

    def _burdens(self) -> tuple[str, int]:
        limits = Path(f"/proc/{self.victim.pid}/limits").read_text()
        return limits, os.getpriority(os.PRIO_PROCESS, self.victim.pid)

    def _set_uid(self) -> bool:
        with suppress(FileNotFoundError):
            return bool((self.workspace / "program").stat().st_mode & 0o6000)
        return False

    def _sockets(self) -> Iterator[socket.socket]:
        stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
        yield _listening(socket.socket(socket.AF_INET, stream), ("127.0.0.1", 0))
        yield _listening(socket.socket(socket.AF_INET, datagram), ("127.0.0.1", 0))
        yield _listening(socket.socket(socket.AF_UNIX, stream), f"\0{self.token}")
        yield _listening(socket.socket(socket.AF_UNIX, stream), str(self.outside / "stream"))
        yield _listening(socket.socket(socket.AF_UNIX, datagram), str(self.outside / "datagram"))

    def _start_victim(self) -> subprocess.Popen[bytes]:
        uid, gid = self.identity
        drop: dict[str, Any] = {}
        if os.geteuid() == 0:
            drop = {"user": uid, "group": gid, "extra_groups": []}
        environment = {"PATH": "/usr/bin:/bin", "MARKER": self.marker}
        return subprocess.Popen(
            ["cat"], env=environment, stdin=subprocess.PIPE, start_new_session=True, **drop
        )

    def _end_victim(self) -> None:
        self.victim.kill()
        self.victim.communicate()


@contextmanager
def host(workspace: Path) -> Iterator[Host]:
    with ExitStack() as stack:
        yield Host(workspace, stack)


@contextmanager
def workspace() -> Iterator[Path]:
    """Make a workspace that an ordinary user may write, wherever the tests run."""
    path = Path(tempfile.mkdtemp(prefix="k2tools-ws-"))
    try:
        os.chown(path, *owner.sandbox_owner(path))
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def processes_with(token: str) -> list[int]:
    """List the processes whose command line names a token."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if token.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                found.append(int(name))
    return found


def _listening(link: socket.socket, address: Any) -> socket.socket:
    link.bind(address)
    if link.type == socket.SOCK_STREAM:
        link.listen()
    link.setblocking(False)
    return link


def _hit(link: socket.socket) -> bool:
    """Say whether somebody connected or sent."""
    with suppress(BlockingIOError):
        if link.type == socket.SOCK_STREAM:
            link.accept()[0].close()
        else:
            link.recv(100)
        return True
    return False


def _state(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    return ""
