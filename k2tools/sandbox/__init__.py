"""The boundary around model-written Python: a ladder of tiers, probed at start, failing closed.

1  bubblewrap: own user, mount, process, network namespaces, read-only runtime, seccomp, rlimits.
2  landlock: Landlock, seccomp and rlimits under a supervisor, for a Linux without user namespaces.
3  gateway: a remote Jupyter kernel that the operator configured.
4  none: only after --unsafe-no-sandbox.

Covered in tiers 1 and 2: files outside the workspace, the network, other processes, the server's
secrets, memory, processes, time, and (by a watchdog, within a fraction of a second) bytes and files
in the workspace. Not covered: timing side channels, kernel bugs, and in tier 2 that names and sizes
of host files can be asked for (stat), that chmod and utime succeed without effect, and that
multiprocessing pools fail for want of /dev/shm.
"""
