"""What one sandbox may use."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Ceilings of one sandbox; the kernel enforces some, the watchdog the rest."""

    address_bytes: int = 2 << 30  # RLIMIT_AS, per process
    memory_bytes: int = 2 << 30  # private memory of all processes together: watchdog
    processes: int = 128  # RLIMIT_NPROC
    file_bytes: int = 256 << 20  # RLIMIT_FSIZE, per file
    open_files: int = 256
    cpu_s: int = 3600  # RLIMIT_CPU, per process over its whole life
    temporary_bytes: int = 256 << 20  # the private temporary directory
    workspace_bytes: int = 1 << 30  # growth of the workspace since the start: watchdog
    workspace_files: int = 50_000  # likewise

    def rlimits(self) -> dict[str, int]:
        """Name the kernel limits as the `resource` module spells them."""
        return {
            "RLIMIT_AS": self.address_bytes,
            "RLIMIT_FSIZE": self.file_bytes,
            "RLIMIT_NOFILE": self.open_files,
            "RLIMIT_CPU": self.cpu_s,
            "RLIMIT_NPROC": self.processes,
            "RLIMIT_CORE": 0,
        }
