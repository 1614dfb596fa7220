"""Checks of a driver, each with a name: what a right driver keeps and a broken one loses.

A check drives one task with one simulated model, in process, and returns "" or what is wrong.
mutants.py breaks the driver line by line; every mutant must fail a check named in advance.
"""

import random
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from conformance.agent.attempt import Attempt, attempt
from conformance.agent.driver import Driver
from conformance.agent.families import chase, ledger, needle
from conformance.agent.families.twins import pair
from conformance.agent.limits import PRESETS
from conformance.agent.messages import Model, Reply, Request, reasoning_of
from conformance.agent.misbehaving import Amnesiac, Leaky, Looper, Malformed, Silent, ThinkOnly
from conformance.agent.mock import StrictEndpoint
from conformance.agent.prompt_checks import c6_prompts
from conformance.agent.resume_checks import s7_resume
from conformance.agent.run import Options
from conformance.agent.simulated import Oracle, noisy
from conformance.agent.tasks import Task, write_world

Drive = Callable[..., Driver]
Check = Callable[[Drive], str]
SMALL = PRESETS["search"]


def _attempt(drive: Drive, task: Task, model: Model, options: Options | None = None) -> Attempt:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "world")
        write_world(task.files, root)
        return attempt(task, model, root=root, options=options or Options(), driver=drive)


def _strict(
    drive: Drive, task: Task, brain: Model, *clauses: str, dialect: str = "reasoning_content"
) -> str:
    """Drive a task against the strict endpoint: no breach of these clauses, and a pass."""
    endpoint = StrictEndpoint(brain, dialect)
    verdict = _attempt(drive, task, endpoint, Options(native_ids="C3" in clauses)).verdict
    breached = [b for b in endpoint.breaches if b.rule.client_check in clauses]
    if breached:
        return f"{breached[0].rule.id}: {breached[0].detail}"
    return "" if verdict.passed else f"not solved: {verdict.reason or verdict.process_reason}"


def _twins(n: int = 8) -> Task:
    return pair(chase.make("left", n), chase.make("right", n + 2))


def c1_reasoning(drive: Drive) -> str:
    """Reasoning goes back byte for byte, the empty string too."""
    task = chase.make("reasoning", 12)
    return _strict(drive, task, Silent(Oracle(task.policy)), "C1")


def c1_dialect(drive: Drive) -> str:
    """Reasoning goes back under the name it came with."""
    task = chase.make("dialect", 10)
    return _strict(drive, task, Oracle(task.policy), "C1", dialect="reasoning")


def c2_answers(drive: Drive) -> str:
    """Every call is answered once, in order, with its own result."""
    return _strict(drive, _twins(), Oracle(_twins().policy), "C2")


def c3_ids(drive: Drive) -> str:
    """Ids stay as they came, or take K2's form over the whole run when asked."""
    task = _twins()
    brain = Oracle(task.policy)
    plain = StrictEndpoint(brain)
    _attempt(drive, task, plain)
    found = [b for b in plain.breaches if b.rule.client_check == "C3"]
    if found:
        return f"{found[0].rule.id}: {found[0].detail}"
    return _strict(drive, task, _foreign_ids(brain), "C3")


def _foreign_ids(brain: Model) -> Model:
    def spoken(request: Request) -> Reply:
        reply = brain(request)
        calls = [replace(c, id=f"call_{random.Random(c.id).randrange(10**9)}") for c in reply.calls]
        return replace(reply, calls=tuple(calls))

    return spoken


def c4_parameters(drive: Drive) -> str:
    """Parameters are compatible with thinking."""
    task = chase.make("parameters", 10)
    return _strict(drive, task, Oracle(task.policy), "C4")


def c5_think_only(drive: Drive) -> str:
    """A think-only reply is asked again and enters no history."""
    task = chase.make("think", 10)
    endpoint = StrictEndpoint(ThinkOnly(Oracle(task.policy), 2))
    found = _attempt(drive, task, endpoint)
    if not found.verdict.passed:
        return f"not solved: {found.verdict.reason}"
    empty = [m for m in found.run.history if m["role"] == "assistant" and not m.get("tool_calls")]
    return "" if len(empty) == 1 else f"{len(empty) - 1} think-only replies in the history"


def c5_leaks(drive: Drive) -> str:
    """A leaked call is counted always and executed only when that was asked for."""
    task = chase.make("leak", 10)
    for where in ("reasoning", "content"):
        brain = Leaky(Oracle(task.policy), 4, where)
        silent = _attempt(drive, task, brain)
        if len(silent.run.calls) != 3 or not silent.run.spent.leaks:
            return f"{where}: {len(silent.run.calls)} calls executed unasked, 3 expected"
        asked = _attempt(drive, task, brain, Options(recover_leaks=True))
        if where == "content" and not asked.verdict.passed:
            return f"{where}: not solved though recovery was asked for"
    return ""


def c5_malformed(drive: Drive) -> str:
    """A bad call is answered with an error the model can use, and the history stays valid."""
    task = chase.make("malformed", 12)
    return _strict(drive, task, Malformed(Oracle(task.policy)), "C1", "C2")


def c7_hidden(drive: Drive) -> str:
    """What was hidden can be read again; reasoning and unread results are never hidden."""
    task = needle.make("hidden", 60, pad=900)
    policy = needle.NeedlePolicy(remembers=False)
    limits = replace(SMALL, window=12_000, reasoning_per_step=0)
    endpoint = StrictEndpoint(Amnesiac(policy))
    small = replace(limits, window=limits.window + limits.max_tokens)
    found = _attempt(drive, task, endpoint, Options(limits=small))
    hidden = [m for m in endpoint.bodies[-1]["messages"] if "hidden to save" in str(m["content"])]
    if not hidden:
        return "nothing was hidden"
    if any(m["role"] != "tool" for m in hidden):
        return "something else than an output was hidden"
    return "" if found.verdict.passed else f"not solved: {found.verdict.reason}"


def c7_whole(drive: Drive) -> str:
    """Visible results are whole, the last three always, and only the view is edited."""
    task = chase.make("whole", 40, pad=900)
    limits = replace(SMALL, window=6_000 + SMALL.max_tokens)
    endpoint = StrictEndpoint(Oracle(task.policy))
    run = _attempt(drive, task, endpoint, Options(limits=limits)).run
    full = [m for m in run.history if m["role"] == "tool"]
    results = [call.result.text for call in run.calls]
    if [m["content"] for m in full] != results:
        return "the history does not keep every result whole"
    for body in endpoint.bodies:
        seen = [m["content"] for m in body["messages"] if m["role"] == "tool"]
        if seen[-3:] != results[: len(seen)][-3:]:
            return f"one of the last three results is not whole after {len(seen)} calls"
        bad = [i for i, t in enumerate(seen) if t != results[i] and "hidden to save" not in t]
        if bad:
            return f"result {bad[0]} was changed without a word"
    return "" if run.hidden else "nothing was hidden"


def c7_drift(drive: Drive) -> str:
    """Each observation belongs to the call before it: balances are right at every index."""
    task = ledger.make("drift", 20)
    verdict = _attempt(drive, task, Oracle(task.policy)).verdict
    return "" if verdict.passed and all(verdict.by_index) else verdict.reason or "wrong balances"


def d4_steps(drive: Drive) -> str:
    """No budget is exceeded by more than one step."""
    task = chase.make("steps", 30)
    options = Options(limits=replace(SMALL, steps=10))
    run = _attempt(drive, task, Oracle(task.policy), options).run
    if run.status != "max_steps" or len(run.calls) != 10:
        return f"{len(run.calls)} calls of 10, status {run.status}"
    tokens = Options(limits=replace(SMALL, total_tokens=5_000))
    run = _attempt(drive, task, Oracle(task.policy), tokens).run
    used = run.spent.prompt_tokens + run.spent.completion_tokens
    over = used - 5_000 - run.spent.largest_prompt - 500
    return "" if run.status == "budget" and over < 0 else f"{used} tokens, {run.status}"


def d12_loop(drive: Drive) -> str:
    """A model that repeats itself is reminded, and stopped at 12."""
    task = chase.make("loop", 30)
    path = task.milestones[0].value
    run = _attempt(drive, task, Looper("read_file", {"path": path})).run
    reminded = sum("in a row" in m["content"] for m in run.history if m["role"] == "tool")
    right = run.status == "loop" and len(run.calls) == 11 and reminded == 3
    return "" if right else f"{run.status} after {len(run.calls)} calls, {reminded} reminders"


def d44_verdict(drive: Drive) -> str:
    """The same calls without any reasoning lead to the same verdict."""
    task = chase.make("verdict", 10)
    one, two = (_attempt(drive, task, noisy(task.policy, "v", 0.2)) for _ in range(2))
    for message in two.run.history:
        if reasoning_of(message) is not None:
            message.pop("reasoning_content", None)
    return "" if one.verdict == two.verdict else "two equal runs have two verdicts"


CHECKS: dict[str, Check] = {
    "C1 reasoning": c1_reasoning,
    "C1 dialect": c1_dialect,
    "C2 answers": c2_answers,
    "C3 ids": c3_ids,
    "C4 parameters": c4_parameters,
    "C5 think-only": c5_think_only,
    "C5 leaks": c5_leaks,
    "C5 malformed": c5_malformed,
    "C6 prompts": c6_prompts,
    "C7 hidden": c7_hidden,
    "C7 whole": c7_whole,
    "C7 drift": c7_drift,
    "D4 budgets": d4_steps,
    "D12 loop": d12_loop,
    "D44 verdict": d44_verdict,
    "S7 resume": s7_resume,
}


def failures(drive: Drive) -> dict[str, str]:
    """Run every check on a driver: driver -> the checks that failed, with what is wrong."""
    found = {name: _safely(check, drive) for name, check in CHECKS.items()}
    return {name: wrong for name, wrong in found.items() if wrong}


def _safely(check: Check, drive: Drive) -> str:
    try:
        return check(drive)
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        return f"the driver broke: {error!r}"
