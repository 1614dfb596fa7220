"""The system call filter of tiers 1 and 2, as a classic BPF program.

Everything is allowed but what reaches beyond the sandbox: sockets, namespaces, mounts, other
processes, kernel interfaces with a history. `clone3` is absent (ENOSYS: libc falls back to `clone`,
whose flags a filter can read). Numbers: the kernel's syscall tables; -1 where an architecture has
no such call.
"""

import errno
import platform
import struct
from collections.abc import Iterator
from functools import cache

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# name: (x86_64, aarch64)
FORBIDDEN = {
    # the network: socketpair stays, so that pipes and event loops work
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "ioprio_set": (251, 30),
    # namespaces and mounts
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "open_tree_attr": (467, 467),
    # kernel interfaces
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "mknod": (133, -1),
    "mknodat": (259, 33),
    "personality": (135, 92),
    "fanotify_init": (300, 262),
    "inotify_add_watch": (254, 27),  # tells who opens which file of the host
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "lookup_dcookie": (212, 18),
    "modify_ldt": (154, -1),
    # the machine
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "settimeofday": (164, 170),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "acct": (163, 89),
    "iopl": (172, -1),
    "ioperm": (173, -1),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    # memory that belongs to the user, not to the process, and that no rlimit counts
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
}
# Landlock does not govern these, and in tier 2 the host's files are in sight.
FORBIDDEN_BESIDE_HOST_FILES = {
    "chown": (92, -1),
    "fchown": (93, 55),
    "lchown": (94, -1),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "setxattrat": (463, 463),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}
# Pretended to succeed in tier 2, since copying a tree or unpacking an archive ends with them.
WITHOUT_EFFECT_BESIDE_HOST_FILES = {
    "chmod": (90, -1),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "utime": (132, -1),
    "utimes": (235, -1),
    "futimesat": (261, -1),
    "utimensat": (280, 88),
}
# Space is taken by writing only, at a speed that a watchdog can keep up with.
FALLOCATE = (285, 47)
CLONE, CLONE3, IOCTL, SOCKETPAIR, FCNTL = (56, 220), (435, 435), (16, 29), (53, 199), (72, 25)
# argument that must be 0 (the caller itself): a process of the same user could be harmed otherwise
ONLY_SELF = {
    "prlimit64": (302, 261, 0),
    "sched_setparam": (142, 118, 0),
    "sched_setscheduler": (144, 119, 0),
    "sched_setaffinity": (203, 122, 0),
    "sched_setattr": (314, 274, 0),
    "setpriority": (141, 140, 0),
    "setpriority of": (141, 140, 1),
}
# argument that holds a file mode: no set-uid or set-gid program is left behind
MODE_ARGUMENT = {
    "chmod": (90, -1, 1),
    "fchmod": (91, 52, 1),
    "fchmodat": (268, 53, 2),
    "fchmodat2": (452, 452, 2),
    "creat": (85, -1, 1),
    "open": (2, -1, 2),
    "openat": (257, 56, 3),
}
NEW_NAMESPACE = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
F_SETOWN, F_SETOWN_EX = 8, 15

LOAD, AND, RETURN = 0x20, 0x54, 0x06
JUMP, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_SET = 0x05, 0x15, 0x35, 0x45
ALLOW, KILL_PROCESS, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

Instruction = tuple[int, int, int, int]


def refuse(code: int) -> Instruction:
    return RETURN, 0, 0, ERRNO | code


def unless_equal(number: int, *block: Instruction) -> Iterator[Instruction]:
    """Run the block only for this system call; it must end in a return or reload the number."""
    if number >= 0:
        yield JUMP_EQUAL, 0, len(block), number
        yield from block


def argument(index: int) -> Instruction:
    """Load the low half of an argument; both architectures are little-endian."""
    return LOAD, 0, 0, ARGUMENTS + 8 * index


def inspect(number: int, index: int, *tests: tuple[int, int]) -> Iterator[Instruction]:
    """Refuse a call whose argument passes one of the tests, and carry on otherwise."""
    to_refusal = range(len(tests), 0, -1)
    yield from unless_equal(
        number,
        argument(index),
        *((code, jump, 0, value) for jump, (code, value) in zip(to_refusal, tests, strict=True)),
        (JUMP, 0, 0, 1),
        refuse(errno.EPERM),
        (LOAD, 0, 0, NUMBER),
    )


@cache
def program(*, beside_host_files: bool, machine: str = platform.machine()) -> bytes:
    """Assemble the filter for one architecture; tier 2 also guards the metadata of host files."""
    if machine not in ARCHITECTURES:
        raise OSError(f"no system call filter for {machine}; there is one for x86_64 and aarch64")
    return b"".join(struct.pack("<HBBI", *step) for step in steps(beside_host_files, machine))


def steps(beside_host_files: bool, machine: str) -> Iterator[Instruction]:
    column = list(ARCHITECTURES).index(machine)
    yield LOAD, 0, 0, ARCHITECTURE
    yield JUMP_EQUAL, 1, 0, ARCHITECTURES[machine]
    yield RETURN, 0, 0, KILL_PROCESS
    yield LOAD, 0, 0, NUMBER
    if machine == "x86_64":  # the x32 numbers are a second door to every call
        yield JUMP_AT_LEAST, 0, 1, 0x40000000
        yield refuse(errno.ENOSYS)
    yield from unless_equal(CLONE3[column], refuse(errno.ENOSYS))
    forbidden = FORBIDDEN | (FORBIDDEN_BESIDE_HOST_FILES if beside_host_files else {})
    for numbers in forbidden.values():
        yield from unless_equal(numbers[column], refuse(errno.EPERM))
    if beside_host_files:
        for numbers in WITHOUT_EFFECT_BESIDE_HOST_FILES.values():
            yield from unless_equal(numbers[column], refuse(0))
    yield from unless_equal(FALLOCATE[column], refuse(errno.EOPNOTSUPP))
    yield from inspected_calls(column)
    yield RETURN, 0, 0, ALLOW


def inspected_calls(column: int) -> Iterator[Instruction]:
    yield from inspect(CLONE[column], 0, (JUMP_SET, NEW_NAMESPACE))
    yield from inspect(IOCTL[column], 1, (JUMP_EQUAL, TIOCSTI), (JUMP_EQUAL, TIOCLINUX))
    yield from inspect(FCNTL[column], 1, (JUMP_EQUAL, F_SETOWN), (JUMP_EQUAL, F_SETOWN_EX))
    for *numbers, index in ONLY_SELF.values():
        yield from inspect(numbers[column], index, (JUMP_AT_LEAST, 1))
    for *numbers, index in MODE_ARGUMENT.values():
        yield from inspect(numbers[column], index, (JUMP_SET, 0o6000))
    # a datagram pair could still send to any path socket of the host: only streams connect no more
    yield from unless_equal(
        SOCKETPAIR[column],
        argument(1),
        (AND, 0, 0, 0xF),
        (JUMP_EQUAL, 2, 0, 1),
        (JUMP_EQUAL, 1, 0, 5),
        refuse(errno.EPERM),
        (LOAD, 0, 0, NUMBER),
    )
