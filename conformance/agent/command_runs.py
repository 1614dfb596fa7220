"""Commands that run tasks: run, heavy, sweep."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from conformance.agent import axes, trace, workbench
from conformance.agent.attempt import Attempt, attempt, modified
from conformance.agent.families import make
from conformance.agent.heavy import Reader, fuse, total, trajectories, voted
from conformance.agent.limits import PRESETS, read_prices
from conformance.agent.messages import Model
from conformance.agent.misbehaving import Router
from conformance.agent.record import begun
from conformance.agent.run import SIMULATED, Options
from conformance.agent.tasks import Task, write_world
from k2ref.errors import InputError


def options_of(given: argparse.Namespace, task: Task, index: int = 0) -> Options:
    """Turn flags into options."""
    names = ("steps", "total_tokens", "seconds", "money", "window")
    changed = {n: getattr(given, n) for n in names if getattr(given, n) is not None}
    if given.reasoning is not None:
        changed["reasoning_per_step"] = given.reasoning
    return Options(
        limits=replace(PRESETS[given.preset], **changed),
        keep_last=given.keep_last,
        output_chars=given.output,
        native_ids=given.native_ids,
        recover_leaks=given.recover_leaks,
        redact_reasoning=given.redact_reasoning,
        prices=read_prices(given.prices) if given.prices else None,
        run_id=workbench.run_name(task, index),
        model=name_of(given),
        lost=given.lost,
        call_limit_s=0.0 if given.server == "small" else given.call_limit,
    )


def name_of(given: argparse.Namespace) -> str:
    """Name the model as records and plots do."""
    return SIMULATED + given.simulate if given.simulate else given.model


def model_of(given: argparse.Namespace, task: Task | None = None) -> Model:
    """Choose the model: an endpoint, or a simulated one."""
    if bool(given.base_url) == bool(given.simulate):
        raise InputError("name a model: --base-url URL --model NAME, or --simulate oracle")
    if given.simulate == "router":
        return Router()
    if given.simulate and task is not None:
        return workbench.simulated(given.simulate, task)
    if given.simulate:
        raise InputError("only --simulate router works without a task")
    stream = not given.no_stream
    return workbench.endpoint(
        given.base_url, given.model, given.api_key_env, stream=stream, extra=given.extra
    )


def task_of(given: argparse.Namespace, seed: str = "", n: int = 0) -> Task:
    """Make the task that the flags name."""
    return modified(make(given.family, seed or given.seed, n or given.n), given.modifier)


def attempt_in(
    given: argparse.Namespace,
    task: Task,
    folder: Path,
    index: int = 0,
    *,
    shared: Path | None = None,  # a world that lies there already
) -> Attempt:
    """Attempt a task in a folder of its own, or take up the attempt that lies there."""
    world, state, record = shared or folder / "world", folder / "state", folder / "turns.jsonl"
    if begun(record) and not given.resume:
        raise InputError(f"{record} exists; --resume takes it up, another --out starts anew")
    if not begun(record) and not shared:
        write_world(task.files, world, again=given.resume)
    options, model = options_of(given, task, index), model_of(given, task)
    with workbench.tools(given.server, world, state, options.run_id) as (box, _):
        found = attempt(
            task,
            model,
            toolbox=box,
            root=world,
            options=options,
            record=record,
            sync=not given.simulate,  # a simulated turn costs nothing to repeat
        )
    text = json.dumps(found.verdict.as_dict(), indent=1) + "\n"
    (folder / "verdict.json").write_text(text, encoding="utf-8")
    return found


def run_one(given: argparse.Namespace) -> int:
    task = task_of(given)
    found = attempt_in(given, task, given.out)
    verdict = found.verdict
    print(f"{task.name}: {'PASS' if verdict.passed else 'FAIL'} ({verdict.status})")
    for name, value in (
        ("outcome", verdict.reason or "right"),
        ("process", verdict.process_reason or "every milestone, in order"),
        ("efficiency", f"{verdict.efficiency:.2f} of {task.needed_calls} needed calls"),
        ("safety", ", ".join(verdict.safety) or "no minefield"),
    ):
        print(f"  {name:<11}{value}")
    for call in found.run.calls:
        if call.is_lost:
            print(f"  unknown    {call.call.name}({call.call.arguments[:80]}): executed or not, "
                  "nobody knows; the model was told")  # fmt: skip
    print("  spent      " + trace.spent_line(vars(found.run.spent)))
    print(f"  trace      k2conf agent show {given.out / 'turns.jsonl'}")
    return 0 if verdict.passed else 1


def trajectories_in(
    given: argparse.Namespace, task: Task, folder: Path, count: int
) -> list[Attempt]:
    """Attempt a task several times, each in a folder of its own.

    Simulated trajectories differ by their seed, those of an endpoint by its temperature.
    """

    shared = _shared_world(given, task, folder) if workbench.is_url(given.server) else None

    def one(index: int) -> Attempt:
        seeded = replace(task, seed=f"{task.seed}/{index}") if given.simulate else task
        return attempt_in(given, seeded, folder / str(index + 1), index, shared=shared)

    return trajectories(one, count)


def _shared_world(given: argparse.Namespace, task: Task, folder: Path) -> Path:
    """Write the one world of a server given by URL: right for tasks that only read it."""
    if {"edit_file", "write_file"} & set(task.tools):
        raise InputError(
            f"trajectories of {task.family} write, and would share the world behind {given.server}"
            "; give a command with {world}, which starts a server for each"
        )
    if not any(begun(record) for record in folder.glob("*/turns.jsonl")):
        write_world(task.files, folder / "world", again=given.resume)
    return folder / "world"


def run_heavy(given: argparse.Namespace) -> int:
    task = task_of(given)
    attempts = trajectories_in(given, task, given.out, given.count)
    heavy = fuse(
        task,
        attempts,
        given.aggregate,
        model=Reader(given.count) if given.simulate else model_of(given, task),
        folder=given.out / "fusion",
        options=options_of(given, task, given.count),
    )
    print(f"{task.name}: {'RIGHT' if heavy.right else 'WRONG'} by {given.aggregate}")
    print(f"  single     {sum(heavy.solved)} of {given.count} right")
    print(f"  pass@{given.count}     {heavy.pass_at_k} (an upper bound, not a result)")
    print(f"  pass^{given.count}     {heavy.pass_hat_k}")
    print("  spent      " + trace.spent_line(vars(total(attempts))))
    return 0 if heavy.right else 1


def run_sweep(given: argparse.Namespace) -> int:
    from conformance.agent import sweep

    if workbench.is_url(given.server):
        raise InputError("a sweep has many worlds: give a command with {world}, not a URL")
    lengths = [int(part) for part in given.lengths.split(",")]
    tasks = [task_of(given, f"{given.seed}-{i}", n) for n in lengths for i in range(given.tasks)]
    rows = [
        sweep.row_of(task, attempt, name_of(given), name)
        for setting in axes.grid(given.vary)
        for task in tasks
        for name, attempt in _settled(given, task, setting)
    ]
    found = sweep.Sweep(tuple(rows))
    found.write(given.out, f"{given.family}: {name_of(given)}")
    print("\n".join(found.summary()))
    print(f"rows and plots in {given.out}")
    return 0


def _settled(
    given: argparse.Namespace, task: Task, setting: axes.Setting
) -> Iterator[tuple[str, Attempt]]:
    """Attempt a task under a setting: -> the setting's name and the attempt that stands for it."""
    flags = argparse.Namespace(**{**vars(given), **setting.flags})
    folder = given.out / task.name / setting.name(1).replace(" ", ",")
    if max(setting.heavy) == 1:
        yield setting.name(1), attempt_in(flags, task, folder)
        return
    attempts = trajectories_in(flags, task, folder, max(setting.heavy))
    for count in setting.heavy:
        yield setting.name(count), voted(attempts[:count])
