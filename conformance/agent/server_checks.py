"""S1 to S7: what a tool server must keep for a run of 300 calls.

Each check names its clause. A check that needs the server's log or a restart is skipped, and says
so, when the server gives neither.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from conformance.agent.families import chase
from conformance.agent.server_call_checks import s1_schemas, s3_errors, s4_limits
from conformance.agent.server_run_checks import s2_determinism, s5_refs, s6_soak, s7_log
from conformance.agent.server_subject import Subject
from conformance.agent.tasks import write_world
from conformance.results import Result as CheckResult
from conformance.results import Verdict

LEVEL = "L7"
CHECKS: dict[str, Callable[[Subject, int], str | None]] = {
    "S1": s1_schemas,
    "S2": s2_determinism,
    "S3": s3_errors,
    "S4": s4_limits,
    "S5": s5_refs,
    "S6": s6_soak,
    "S7": s7_log,
}


def check(server: str, n: int) -> list[CheckResult]:
    """Check a server: its name or command, calls of the soak -> one result per clause."""
    return [_checked(name, server, n) for name in CHECKS]


def _checked(name: str, server: str, n: int) -> CheckResult:
    clause = " ".join((CHECKS[name].__doc__ or "").split())
    with tempfile.TemporaryDirectory(prefix="k2conf-") as folder:
        task = chase.make(f"server-{name}", max(16, n))
        subject = Subject(server, Path(folder).resolve(), task)
        write_world(task.files, subject.world)
        try:
            said = CHECKS[name](subject, n)
        except Exception as error:  # a server may fail in any way; the kit goes on
            return CheckResult(name, f"agent:server-{name}", LEVEL, Verdict.ERRORED, repr(error))
    if said is None:
        text = f"{clause} Skipped: the server gives no log"
        return CheckResult(name, f"agent:server-{name}", LEVEL, Verdict.SKIPPED, text)
    verdict = Verdict.FAIL if said else Verdict.PASS
    message = f"{clause} {said}".strip()
    return CheckResult(name, f"agent:server-{name}", LEVEL, verdict, message)
