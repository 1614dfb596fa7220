"""Who calls: a principal in a run, with its refs, its budget and its pace.

Runs are named by the caller or made per principal; they are never keyed by the connection, so a
client that reconnects for every call loses nothing.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import anyio

from k2tools.keys import Keys
from k2tools.results import ToolError, shown
from k2tools.runlog import RunLog
from k2tools.settings import Settings

RUN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
RUN_NAMES = "run names are up to 64 of A-Z a-z 0-9 _ -"
UNGUESSABLE_CHARS = 22  # of base64: 128 bits


class Session:
    """One principal's run: refs in order of arrival, budget, pace, log."""

    def __init__(
        self,
        settings: Settings,
        principal: str,
        log: RunLog,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.principal, self.log = principal, log
        self.limiter = anyio.CapacityLimiter(settings.parallel_calls)
        self._settings, self._clock = settings, clock
        self._last_ref = log.last_ref
        self.running = 0  # calls under way
        self.keys = Keys(log.folder)
        self._tokens, self._filled_s = float(settings.rate_burst_calls), clock()

    def arrive(self) -> str:
        """Take the next ref for a call that has arrived; `leave` follows it."""
        self.running += 1
        self._last_ref += 1
        return f"r{self._last_ref}"

    def leave(self) -> None:
        self.running -= 1

    def step(self) -> str:
        """Say how far the budget is used, when there is one: " · step 17/300"."""
        budget = self._settings.budget_calls
        return f" · step {self._last_ref}/{budget}" if budget else ""

    def charge(self) -> None:
        """Count a call against budget and pace; refuse it when either is used up."""
        budget = self._settings.budget_calls
        if budget and self._last_ref > budget:
            raise ToolError(f"the budget of {budget} calls is used up: answer with what you have")
        now, rate = self._clock(), self._settings.rate_calls_per_s
        self._tokens += (now - self._filled_s) * rate
        self._tokens = min(self._tokens, self._settings.rate_burst_calls)
        self._filled_s = now
        if self._tokens < 1:
            raise ToolError(f"more than {rate:.0f} calls per second: wait a second and repeat it")
        self._tokens -= 1

    def result(self, ref: str) -> str | None:
        """Read an earlier result of this run in full: ref -> text, or None when it is no ref."""
        if not re.fullmatch(r"r[1-9][0-9]*", ref):
            return None
        body = self.log.body(ref)
        if body is None and self._settings.redact_log:
            raise ToolError(f"the operator keeps no results, so {ref} cannot be read; call again")
        if body is None:
            last = f"r1 to r{self._last_ref}" if self._last_ref else "none yet"
            raise ToolError(f"no result {shown(ref)} in this run; there are {last}")
        return body


class Sessions:
    """The open sessions of a server, by (principal, run)."""

    def __init__(self, settings: Settings, on_new: Callable[[Path], None] = lambda _: None) -> None:
        if settings.run and not RUN_NAME.fullmatch(settings.run):
            raise ValueError(f"{RUN_NAMES}, got --run {shown(settings.run)}")
        self._settings, self._on_new = settings, on_new
        self._open: dict[tuple[str, str], Session] = {}
        self._default_run = settings.run or new_run()

    def get(self, principal: str, run: str = "", *, authenticated: bool = True) -> Session:
        """Find or start the session of a principal in a run."""
        if run and not RUN_NAME.fullmatch(run):
            raise ToolError(f"{RUN_NAMES}, got {shown(run)}")
        if run and not authenticated and len(run) < UNGUESSABLE_CHARS:
            raise ToolError(f"without a token a run name needs {UNGUESSABLE_CHARS} characters")
        run = run or self._default_run
        session = self._open.pop((principal, run), None)
        if session is None:
            session = self._started(principal, self._folder(principal, run))
        self._open[principal, run] = session
        self._close_idle(keep=session)
        return session

    def _started(self, principal: str, folder: Path) -> Session:
        log = RunLog(folder, redact=self._settings.redact_log)
        try:
            if not log.last_ref:
                self._on_new(folder)
            return Session(self._settings, principal, log)
        except BaseException:
            log.close()
            raise

    def _close_idle(self, keep: Session) -> None:
        """Close the longest unused runs beyond the limit; they resume from their logs."""
        for key, session in list(self._open.items()):
            if len(self._open) <= self._settings.max_http_sessions:
                return
            if not session.running and session is not keep:
                self._open.pop(key).log.close()

    def _folder(self, principal: str, run: str) -> Path:
        runs = self._settings.state / "runs"
        if principal == LOCAL:
            return runs / run
        return runs / f"{hashlib.sha256(principal.encode()).hexdigest()[:16]}.{run}"

    def close(self) -> None:
        for session in self._open.values():
            session.log.close()
        self._open.clear()


LOCAL = "local"  # the principal of stdio and of loopback without a token


def new_run() -> str:
    """Name a run: its day for people, 128 random bits against guessing."""
    return f"{time.strftime('%Y%m%d')}-{secrets.token_urlsafe(16)}"
