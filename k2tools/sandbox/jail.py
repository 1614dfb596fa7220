"""Start a program in a tier of the sandbox."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from k2tools.sandbox import bubblewrap, landlock, owner, seccomp
from k2tools.sandbox.inside.start import BOOT
from k2tools.sandbox.limits import Limits
from k2tools.sandbox.process import Inmate, SandboxError, in_memory, popen
from k2tools.sandbox.runtime import (
    INSIDE,
    PLACES,
    SYSTEM,
    SYSTEM_FILES,
    Runtime,
    environment,
    runtime,
    within,
)

Tier = Literal["bubblewrap", "landlock", "none"]
LAUNCH = (
    "import sys, types; p = types.ModuleType('k2_sandbox'); p.__path__ = [sys.argv.pop(1)]; "
    "sys.modules['k2_sandbox'] = p; from k2_sandbox import launcher; launcher.main()"
)
Identity = tuple[int, int]
Descriptors = tuple[int, ...]


@dataclass(frozen=True)
class Jail:
    """How to confine a program: the tier, the workspace, the interpreter, the limits."""

    tier: Tier
    workspace: Path
    python: str = sys.executable
    writable: bool = True
    limits: Limits = field(default_factory=Limits)

    @property
    def runtime(self) -> Runtime:
        return runtime(self.python)

    def with_limits(self, **changed: int) -> "Jail":
        return replace(self, limits=replace(self.limits, **changed))

    def start(
        self, module: str, arguments: Mapping[str, Any], inside_fds: Descriptors = ()
    ) -> Inmate:
        """Run a module of `inside` in the jail: name, its arguments, descriptors -> Inmate.

        Called from a thread that lives as long as the sandbox should: the kernel ends tier 1 with
        the thread that started it.
        """
        identity = owner.sandbox_owner(self.workspace)
        rlimits = self.limits.rlimits()
        if self.tier != "bubblewrap":  # counted over all processes of the user, not ours alone
            rlimits["RLIMIT_NPROC"] += owner.threads_of(identity[0])
        order = {"rlimits": rlimits, "module": module, "arguments": dict(arguments)}
        command = [self.python, "-s", "-P", "-B", "-c", BOOT, INSIDE, json.dumps(order)]
        start = self._start_bubblewrap if self.tier == "bubblewrap" else self._start_supervised
        return start(command, identity, inside_fds)

    def _start_bubblewrap(
        self, command: list[str], identity: Identity, inside_fds: Descriptors
    ) -> Inmate:
        with bubblewrap.command(self) as (options, own_fds):
            line, fds = [*options, *command], (*own_fds, *inside_fds)
            if os.geteuid() != 0:
                return Inmate(*popen(line, fds))
            order = {"supervised": False, "command": line, "environment": {}}
            return Inmate(*self._launch(order, identity, fds))

    def _start_supervised(
        self, command: list[str], identity: Identity, inside_fds: Descriptors
    ) -> Inmate:
        confined = self.tier == "landlock"
        rules = self._rules() if confined else None
        home = tempfile.mkdtemp(prefix="k2tools-")
        hanging, lifeline = os.pipe2(os.O_CLOEXEC)
        order = {
            "supervised": True,
            "workspace": os.fspath(self.workspace),
            "home": home,
            "lifeline": hanging,
            "inside_fds": inside_fds,
            "rules": rules and {**rules, home: landlock.WRITE},
            "filter": seccomp.program(beside_host_files=True).hex() if confined else "",
            "command": command,
            "environment": environment(self.python) | dict.fromkeys(PLACES, home),
        }
        try:
            os.chown(home, *identity)
            started = self._launch(order, identity, (hanging, *inside_fds))
        except BaseException:
            os.close(lifeline)
            shutil.rmtree(home)
            raise
        finally:
            os.close(hanging)
        return Inmate(*started, lifeline, home)

    def _launch(
        self, order: Mapping[str, Any], identity: Identity, fds: Descriptors
    ) -> tuple[subprocess.Popen[bytes], int]:
        """Start the launcher with an order, which it reads from a descriptor."""
        needed = [*self.runtime.folders, os.fspath(self.workspace)]
        order = {**order, "folders": needed, "uid": identity[0], "gid": identity[1]}
        launcher = [sys.executable, "-I", "-S", "-c", LAUNCH, os.path.dirname(__file__)]
        with in_memory(json.dumps(order).encode()) as paper:
            return popen([*launcher, str(paper)], (paper, *fds))

    def _rules(self) -> dict[str, int]:
        """List what Landlock leaves open: path -> rights."""
        own = [f for f in self.runtime.folders if within(f, {os.fspath(self.workspace)})]
        if own:
            raise SandboxError(
                f"the Python environment {own[0]} lies inside the workspace, where model-written "
                "code could change it; move it out, or install bubblewrap"
            )
        readable = (*SYSTEM, *SYSTEM_FILES, *self.runtime.folders)
        readable = (*readable, "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/dev/zero")
        rules = dict.fromkeys((*readable, "/dev/urandom"), landlock.READ)
        rules["/dev/null"] = landlock.READ | landlock.WRITE_FILE
        rules[os.fspath(self.workspace)] = landlock.WRITE if self.writable else landlock.READ
        return rules
