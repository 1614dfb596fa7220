"""C1 to C7: an agent client against the strict endpoint.

A client is a function that works on a prompt with the endpoint's URL and tools over a world, and
returns what it printed. The endpoint's brain is an oracle, so whatever goes wrong is the client.
"""

import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from conformance.agent.families import chase
from conformance.agent.families.twins import pair
from conformance.agent.messages import Message, Model
from conformance.agent.misbehaving import Leaky, Silent, ThinkOnly
from conformance.agent.mock import StrictEndpoint, serve
from conformance.agent.simulated import Oracle
from conformance.agent.tasks import Task, write_world
from conformance.results import Result, Verdict

Client = Callable[[str, str, Path], str]  # base URL, prompt, world -> output
TIMEOUT_S = 600.0
SHORT = 12


@dataclass
class Session:
    """One session: what the endpoint saw, and what the client printed."""

    endpoint: StrictEndpoint
    output: str
    task: Task

    @property
    def answered(self) -> bool:
        return self.task.answer.split("\n")[0] in self.output

    @property
    def last_messages(self) -> list[Message]:
        """Give the messages of the last request, none when none came."""
        return self.endpoint.bodies[-1]["messages"] if self.endpoint.bodies else []

    def breached(self, clause: str, *, severity: str = "") -> str:
        """Name the first breach of a clause."""
        found = [
            b
            for b in self.endpoint.breaches
            if b.rule.client_check == clause and severity in ("", b.rule.severity)
        ]
        return f"{found[0].rule.id}: {found[0].detail[:160]}" if found else ""


def session(
    client: Client,
    task: Task,
    brain: Model,
    *,
    plan: dict[int, int] | None = None,
    strict: bool = False,
) -> Session:
    """Let a client work on one task against a fresh endpoint."""
    endpoint = StrictEndpoint(brain, plan=plan or {}, strict=strict)
    with tempfile.TemporaryDirectory(prefix="k2conf-") as folder, serve(endpoint) as url:
        world = Path(folder).resolve() / "world"
        write_world(task.files, world)
        output = client(url, task.prompt, world)
    return Session(endpoint, output, task)


def check(client: Client, n: int, *, strict: bool = False) -> Iterator[Result]:
    """Check a client: client, calls of the long session, also what is in doubt -> results."""
    task = chase.make("client", n)
    long = session(client, task, Oracle(task.policy), strict=strict)
    short = chase.make("client-short", SHORT)
    silent = session(client, short, Silent(Oracle(short.policy)), strict=strict)
    twins = pair(chase.make("client-left", SHORT), chase.make("client-right", SHORT))
    parallel = session(client, twins, Oracle(twins.policy), strict=strict)
    sessions = [long, silent, parallel]
    yield _result(
        "C1", "reasoning comes back byte for byte, the empty string too", _first(sessions, "C1")
    )
    unanswered = "" if parallel.answered else "two parallel chains were not solved"
    yield _result(
        "C2", "every call is answered once, in order", _first(sessions, "C2") or unanswered
    )
    yield _ids(long)
    yield _result("C4", "parameters are compatible with thinking", _first(sessions, "C4"))
    yield _result("C5", "failures that pass and think-only replies are survived", _robust(client))
    said = "" if long.answered else "the answer is missing, "
    if said or long.endpoint.rejected:
        said += f"{len(long.endpoint.bodies)} requests, {long.endpoint.rejected} rejected"
    yield _result("C6", f"{n} calls in a row", said)
    yield _result("C7", "tool results reach the model whole and once", _seen(long))


def _first(sessions: list[Session], clause: str) -> str:
    return next((s.breached(clause) for s in sessions if s.breached(clause)), "")


def _ids(long: Session) -> Result:
    """Foreign ids are a warning, unless the endpoint is strict: many engines rename them."""
    if long.endpoint.strict:
        return _result("C3", "ids of calls keep K2's form", long.breached("C3"))
    result = _result("C3", "ids of calls keep K2's form", long.breached("C3", severity="error"))
    warned = long.breached("C3", severity="warning")
    if result.verdict is Verdict.PASS and warned:
        return replace(result, verdict=Verdict.LOOSE, message=f"{result.message} warning: {warned}")
    return result


def _robust(client: Client) -> str:
    task = chase.make("client-robust", SHORT)
    kinds: dict[str, tuple[Model, dict[int, int]]] = {
        "429 and 500": (Oracle(task.policy), {3: 429, 6: 500}),
        "a think-only reply": (ThinkOnly(Oracle(task.policy), 1), {}),
    }
    for name, (brain, plan) in kinds.items():
        if not session(client, task, brain, plan=plan).answered:
            return f"{name}: the task was not finished"
    leaked = session(client, task, Leaky(Oracle(task.policy), 4))
    calls = sum(len(m.get("tool_calls") or []) for m in leaked.last_messages)
    return "" if calls <= 3 else "a call leaked into reasoning was executed"


def _seen(long: Session) -> str:
    """Look for each file's first line in the result of its read: once, not twice, not lost."""
    if not long.endpoint.bodies:
        return f"no request came; the client printed {long.output[-200:]!r}"
    texts = [m["content"] for m in long.last_messages if m["role"] == "tool"]
    texts = [t if isinstance(t, str) else "".join(p.get("text", "") for p in t) for t in texts]
    for step, text in zip(long.task.milestones, texts, strict=False):
        line = long.task.files[step.value].splitlines()[1]
        if text.count(line) != 1 and "hidden to save context" not in text:
            return f"{step.value}: {line!r} comes {text.count(line)} times"
    return ""


def _result(name: str, clause: str, said: str) -> Result:
    verdict = Verdict.FAIL if said else Verdict.PASS
    return Result(name, f"agent:client-{name}", "L7", verdict, f"{clause}. {said}".strip())


def command_client(template: str) -> Client:
    """Make a client of a command; {url}, {world} and {prompt} are filled into its words."""

    def run(url: str, prompt: str, world: Path) -> str:
        values = {"{url}": url, "{world}": str(world), "{prompt}": prompt}
        words = [_filled(word, values) for word in shlex.split(template)]
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return done.stdout + done.stderr

    return run


def _filled(word: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word


def check_command(template: str, n: int, *, strict: bool) -> list[Result]:
    """Check the client that a command starts."""
    return list(check(command_client(template), n, strict=strict))
