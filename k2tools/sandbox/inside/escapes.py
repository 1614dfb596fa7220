"""The ways out of a sandbox, one function each: it returns what it reached, or raises OSError."""

import ctypes
import errno
import os
import platform
import signal
import socket
import struct
import sys
from contextlib import suppress
from typing import Any

from . import floods

with suppress(ImportError):  # Windows imports this module and runs none of it
    import fcntl
    import resource

Facts = dict[str, Any]

_libc = ctypes.CDLL("kernel32" if sys.platform == "win32" else None, use_errno=True)


def system_call(number: int, *arguments: int) -> int:
    """Make a system call by number. Raises OSError."""
    value: int = _libc.syscall(number, *map(ctypes.c_long, arguments))
    if value < 0:
        raise OSError(ctypes.get_errno(), "system call")
    return value


def content(path: str) -> str:
    with open(path, "rb") as file:
        return file.read(4096).decode("utf-8", "replace")


# files


def read_shadow(facts: Facts) -> Any:
    return content("/etc/shadow")


def read_secret(facts: Facts) -> Any:
    return content(facts["secret"])


def write_outside(facts: Facts) -> Any:
    with open(os.path.join(facts["outside"], "written"), "w") as file:
        return file.write("x")


def list_outside(facts: Facts) -> Any:
    return os.path.basename(facts["secret"]) in os.listdir(facts["outside"])


def read_through_symlink(facts: Facts) -> Any:
    os.symlink(facts["secret"], "soft")
    return content("soft")


def read_through_hard_link(facts: Facts) -> Any:
    os.link(facts["secret"], "hard")
    return content("hard")


def plant_in_environment(facts: Facts) -> Any:
    path = os.path.join(os.path.dirname(os.__file__), "planted.pth")
    with open(path, "w") as file:
        return file.write("import os\n")


def change_mode_outside(facts: Facts) -> Any:
    os.chmod(facts["secret"], 0o666)
    return os.stat(facts["secret"]).st_mode & 0o777 == 0o666


def change_times_outside(facts: Facts) -> Any:
    os.utime(facts["secret"], (1, 1))
    return os.stat(facts["secret"]).st_mtime == 1


def tag_outside(facts: Facts) -> Any:
    os.setxattr(facts["secret"], "user.k2tools", b"x")
    return True


def leave_set_uid_program(facts: Facts) -> Any:
    with open("program", "w"):
        pass
    os.chmod("program", 0o4755)
    return os.stat("program").st_mode & 0o4000


def host_shared_memory(facts: Facts) -> Any:
    """Leave a file there; the host decides whether it came through."""
    with open(os.path.join("/dev/shm", facts["token"]), "w") as file:
        return file.write("x")


# network


def tcp(facts: Facts) -> Any:
    return socket.create_connection(("127.0.0.1", facts["tcp_port"]), 1)


def udp(facts: Facts) -> Any:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        return sender.sendto(b"x", ("127.0.0.1", facts["udp_port"]))


def abstract_socket(facts: Facts) -> Any:
    with socket.socket(socket.AF_UNIX) as link:
        link.connect("\0" + facts["token"])
        return True


def path_socket(facts: Facts) -> Any:
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(facts["stream_path"])
        return True


def datagram_pair(facts: Facts) -> Any:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        return one.sendto(b"x", facts["datagram_path"])


def special_sockets(facts: Facts) -> Any:
    kinds = {"netlink": (16, 3, 0), "packet": (17, 3, 0), "vsock": (40, 1, 0), "alg": (38, 5, 0)}
    opened = []
    for name, kind in (kinds | {"raw": (2, 3, 1)}).items():
        with suppress(OSError), socket.socket(*kind):
            opened.append(name)
    return opened


def route_outside(facts: Facts) -> Any:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # TEST-NET; connecting UDP sends nothing
        return probe.getsockname()


def resolve(facts: Facts) -> Any:
    return socket.getaddrinfo("localhost", 1)


# processes


def signal_victim(facts: Facts) -> Any:
    os.kill(facts["victim"], signal.SIGTERM)
    return True


def see_by_signal(facts: Facts) -> Any:
    os.kill(facts["victim"], 0)
    return True


def signal_by_descriptor_owner(facts: Facts) -> Any:
    reading, writing = socket.socketpair()
    fcntl.fcntl(reading, fcntl.F_SETOWN, facts["victim"])
    fcntl.fcntl(reading, 10, signal.SIGTERM)  # F_SETSIG
    fcntl.fcntl(reading, fcntl.F_SETFL, fcntl.fcntl(reading, fcntl.F_GETFL) | os.O_ASYNC)
    return writing.send(b"x")


def trace(facts: Facts) -> Any:
    if _libc.ptrace(16, facts["victim"], None, None) < 0:  # PTRACE_ATTACH
        raise OSError(ctypes.get_errno(), "ptrace")
    return True


def victim_environment(facts: Facts) -> Any:
    return facts["marker"][::-1] in content(f"/proc/{facts['victim']}/environ")


def victim_memory(facts: Facts) -> Any:
    return os.open(f"/proc/{facts['victim']}/mem", os.O_RDWR)


def limit_victim(facts: Facts) -> Any:
    resource.prlimit(facts["victim"], resource.RLIMIT_NOFILE, (7, 7))
    return True


def slow_victim(facts: Facts) -> Any:
    os.setpriority(os.PRIO_PROCESS, facts["victim"], 19)
    return True


def host_processes(facts: Facts) -> Any:
    return str(facts["victim"]) in os.listdir("/proc") and content(f"/proc/{facts['victim']}/comm")


def server_secrets(facts: Facts) -> Any:
    marker = facts["marker"][::-1]
    found = [name for name, value in os.environ.items() if marker in value]
    for pid in {1, os.getppid(), facts["server"], *map(int, filter(str.isdigit, seen("/proc")))}:
        for file in ("environ", "cmdline"):
            with suppress(OSError):
                if marker in content(f"/proc/{pid}/{file}"):
                    found.append(f"{pid}/{file}")
    return found


def seen(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def inherited_descriptors(facts: Facts) -> Any:
    found = []
    for fd in range(3, 256):
        with suppress(OSError):
            kind = os.readlink(f"/proc/self/fd/{fd}")
            if os.fstat(fd) and "pipe:" not in kind:
                found.append(kind)
    return found


# the kernel


def core_pattern(facts: Facts) -> Any:
    return os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY)


def devices(facts: Facts) -> Any:
    opened = []
    names = ("mem", "kmem", "port", "kmsg", "kvm", "sda", "vda", "nvme0n1", "fuse", "net/tun")
    paths = ["/proc/sysrq-trigger", "/proc/kcore", *(f"/dev/{name}" for name in names)]
    for path in paths:
        with suppress(OSError):
            os.close(os.open(path, os.O_WRONLY if "sysrq" in path else os.O_RDONLY))
            opened.append(path)
    return opened


def mount(facts: Facts) -> Any:
    if _libc.mount(b"none", b".", b"tmpfs", 0, None) < 0:
        raise OSError(ctypes.get_errno(), "mount")
    return True


def new_namespace(facts: Facts) -> Any:
    if _libc.unshare(0x10000000 | 0x20000) < 0:  # CLONE_NEWUSER, CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "unshare")
    return True


def block_device(facts: Facts) -> Any:
    os.mknod("disk", 0o60600, os.makedev(8, 0))
    return True


def change_root(facts: Facts) -> Any:
    os.chroot(".")
    return True


def privileges(facts: Facts) -> Any:
    """Reach something when a lock is missing: no_new_privs, capabilities, the filter."""
    status = dict(line.split(":\t", 1) for line in content("/proc/self/status").splitlines())
    wanted = {"NoNewPrivs": "1", "CapEff": "0" * 16, "CapPrm": "0" * 16, "Seccomp": "2"}
    return {name: status.get(name) for name, value in wanted.items() if status.get(name) != value}


def kernel_interfaces(facts: Facts) -> Any:
    """Reach the system calls that only a filter keeps shut."""
    x86 = {"bpf": 321, "perf_event_open": 298, "keyctl": 250, "add_key": 248, "userfaultfd": 323}
    x86 |= {"init_module": 175, "open_by_handle_at": 304, "shmget": 29, "inotify_add_watch": 254}
    arm = {"bpf": 280, "perf_event_open": 241, "keyctl": 219, "add_key": 217, "userfaultfd": 282}
    arm |= {"init_module": 105, "open_by_handle_at": 265, "shmget": 194, "inotify_add_watch": 27}
    numbers = {"x86_64": x86, "aarch64": arm}[platform.machine()] | {"io_uring_setup": 425}
    reached = []
    for name, number in numbers.items():
        try:
            system_call(number, -1, -1, -1, -1, -1)
            reached.append(name)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOSYS, errno.EACCES):
                reached.append(name)  # the kernel looked at the arguments
    return reached


def type_into_terminal(facts: Facts) -> Any:
    for path in ("/dev/tty", "/dev/stdin"):
        with suppress(FileNotFoundError), open(path) as terminal:
            fcntl.ioctl(terminal, 0x5412, struct.pack("c", b"x"))
            return True
    return False


def outlive(facts: Facts) -> Any:
    """Leave a daemon behind that writes as long as it lives; the host decides whether it did."""
    if not os.fork():
        os.setsid()
        if not os.fork():
            os.closerange(3, 256)
            floods.tick(facts["ticks"])
        os._exit(0)
    return "a daemon"
