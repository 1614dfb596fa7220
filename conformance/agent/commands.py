"""`k2conf agent`: run long tasks, read the traces, and check server, client and endpoint.

What one command alone needs (an HTTP server, statistics) is imported when it runs.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from conformance.agent import atif, graph, trace, workbench
from conformance.agent.attempt import MODIFIERS, Attempt, attempt, modified
from conformance.agent.families import FAMILIES, make
from conformance.agent.heavy import TRAJECTORIES, fuse, trajectories
from conformance.agent.limits import PRESETS, read_prices
from conformance.agent.messages import Model
from conformance.agent.misbehaving import Router
from conformance.agent.run import Options
from conformance.agent.server_log import read as read_log
from conformance.agent.tasks import Task, write_world
from conformance.results import Result
from k2ref.errors import InputError

Run = Callable[[argparse.Namespace], int]


def add_commands(subparsers: Any) -> None:
    """Add `agent` and its own commands to the kit's command line."""
    top = subparsers.add_parser("agent", help="long tool runs: driver, tasks, verdicts (L7)")
    fill(top)


def fill(top: argparse.ArgumentParser) -> None:
    """Add the commands to a parser."""
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Run, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        return made

    one = command("run", run_one, "run one task and judge it")
    _task_options(one)
    one.add_argument("--resume", action="store_true", help="take up the record in --out")
    one.add_argument("--out", type=Path, default=Path("agent-run"), help="world, record, verdict")
    many = command("heavy", run_heavy, "run several trajectories and make one answer of them")
    _task_options(many)
    many.add_argument("--count", type=int, default=TRAJECTORIES)
    many.add_argument("--aggregate", choices=("vote", "verify", "agent"), default="vote")
    many.add_argument("--out", type=Path, default=Path("agent-heavy"))
    grid = command("sweep", run_sweep, "run a family at several lengths: CSV and plots")
    _task_options(grid)
    grid.add_argument("--lengths", default="10,30,100,200,300")
    grid.add_argument("--tasks", type=int, default=10, help="tasks per length")
    grid.add_argument("--out", type=Path, default=Path("agent-sweep"))
    pair = command("compare", run_compare, "compare two sweeps on the same tasks (McNemar)")
    pair.add_argument("first", type=Path, help="runs.csv")
    pair.add_argument("second", type=Path, help="runs.csv")
    front = command("front", run_front, "settings that no other beats in success and tokens")
    front.add_argument("runs", type=Path, nargs="+", help="runs.csv of each setting")
    view = command("show", run_show, "show a record as text")
    view.add_argument("record", type=Path)
    view.add_argument("--width", type=int, default=100)
    view.add_argument("--no-reasoning", action="store_true")
    out = command("export", run_export, "write a record as ATIF or as a graph")
    out.add_argument("record", type=Path)
    out.add_argument("--format", choices=("atif", "graph", "mermaid"), default="atif")
    out.add_argument("--withhold-reasoning", action="store_true")
    check = command("calibrate", run_calibrate, "simulated models against direct simulation")
    check.add_argument("--tasks", type=int, default=40)
    command("mutants", run_mutants, "broken drivers, each caught by a named check")
    server = command("server", run_server, "check a tool server (S1-S7)")
    server.add_argument("--server", default="k2tools", help=SERVER_HELP)
    server.add_argument("-n", type=int, default=300)
    probes = command("route", run_route, "which tool is chosen for requests that one can serve")
    _model_options(probes)
    probes.add_argument("--server", default="k2tools", help=SERVER_HELP)
    client = command("client", run_client, "check an agent client against the strict endpoint")
    client.add_argument("command", help="shell words; {url}, {world} and {prompt} are filled in")
    client.add_argument("-n", type=int, default=300)


SERVER_HELP = "k2tools | small | URL | a command with {world}, {state} and {run}"


def _model_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("--base-url", default="", help="an OpenAI-compatible endpoint, …/v1")
    made.add_argument("--model", default="", help="the endpoint's name of the model")
    made.add_argument("--api-key-env", default="K2CONF_API_KEY", metavar="NAME")
    made.add_argument("--no-stream", action="store_true")
    made.add_argument("--extra", default="", metavar="JSON", help="more fields of each request")
    made.add_argument("--simulate", default="", metavar="MODEL", help=workbench.usage())


def _task_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("family", choices=FAMILIES)
    made.add_argument("-n", type=int, default=30, help="calls the task needs")
    made.add_argument("--seed", default="1")
    made.add_argument("--modifier", action="append", default=[], choices=MODIFIERS)
    _model_options(made)
    made.add_argument("--server", default="k2tools", help=SERVER_HELP)
    made.add_argument("--server-log", type=Path, help="run folder of a server given by URL")
    made.add_argument("--preset", choices=PRESETS, default="search", help="steps x reasoning")
    for name, kind in (("steps", int), ("total-tokens", int), ("seconds", float), ("money", float)):
        made.add_argument(f"--{name}", type=kind, default=None)
    made.add_argument("--window", type=int, default=None, help="context tokens")
    made.add_argument("--keep-last", type=int, default=3, help="outputs never hidden")
    made.add_argument("--native-ids", action="store_true", help="rename ids to functions.NAME:N")
    made.add_argument("--recover-leaks", action="store_true", help="execute calls leaked as text")
    made.add_argument("--redact-reasoning", action="store_true", help="keep none on disk")
    made.add_argument("--prices", type=Path, help="dated price file (TOML)")


def options_of(given: argparse.Namespace, task: Task, index: int = 0) -> Options:
    """Turn flags into options."""
    names = ("steps", "total_tokens", "seconds", "money", "window")
    changed = {n: getattr(given, n) for n in names if getattr(given, n) is not None}
    return Options(
        limits=replace(PRESETS[given.preset], **changed),
        keep_last=given.keep_last,
        native_ids=given.native_ids,
        recover_leaks=given.recover_leaks,
        redact_reasoning=given.redact_reasoning,
        prices=read_prices(given.prices) if given.prices else None,
        run_id=workbench.run_name(task, index),
    )


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


def attempt_in(given: argparse.Namespace, task: Task, folder: Path, index: int = 0) -> Attempt:
    """Attempt a task in a folder of its own, or take up the attempt that lies there."""
    world, state, record = folder / "world", folder / "state", folder / "turns.jsonl"
    if not getattr(given, "resume", False):
        if record.exists():
            raise InputError(f"{record} exists; --resume takes it up, another --out starts anew")
        write_world(task.files, world)
    options, model = options_of(given, task, index), model_of(given, task)
    with workbench.tools(given.server, world, state, options.run_id) as (box, own_log):
        log = given.server_log or own_log
        found = attempt(
            task,
            model,
            toolbox=box,
            root=world,
            options=options,
            record=record,
            server_log=read_log(log) if log and log.exists() else None,
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
    print("  spent      " + trace.spent_line(vars(found.run.spent)))
    print(f"  trace      k2conf agent show {given.out / 'turns.jsonl'}")
    return 0 if verdict.passed else 1


def run_heavy(given: argparse.Namespace) -> int:
    task = task_of(given)

    def one(index: int) -> Attempt:
        seeded = replace(task, seed=f"{task.seed}/{index}") if given.simulate else task
        return attempt_in(given, seeded, given.out / str(index + 1), index)

    attempts = trajectories(one, given.count)
    model, folder = model_of(given, task), given.out / "fusion"
    heavy = fuse(task, attempts, given.aggregate, model=model, folder=folder)
    print(f"{task.name}: {'RIGHT' if heavy.right else 'WRONG'} by {given.aggregate}")
    print(f"  single     {sum(heavy.solved)} of {given.count} right")
    print(f"  pass@{given.count}     {heavy.pass_at_k} (an upper bound, not a result)")
    print(f"  pass^{given.count}     {heavy.pass_hat_k}")
    return 0 if heavy.right else 1


def run_sweep(given: argparse.Namespace) -> int:
    from conformance.agent import sweep

    lengths = [int(part) for part in given.lengths.split(",")]
    tasks = [task_of(given, f"{given.seed}-{i}", n) for n in lengths for i in range(given.tasks)]
    found = sweep.run(tasks, lambda task: attempt_in(given, task, given.out / task.name))
    name = given.simulate or given.model
    note = sweep.INSTRUMENT if given.simulate else f"{given.base_url}, {given.server}"
    found.write(given.out, f"{given.family}: {name}", note)
    print("\n".join(found.summary()))
    print(f"rows and plots in {given.out}")
    return 0


def run_compare(given: argparse.Namespace) -> int:
    from conformance.agent import sweep
    from conformance.agent.scaling import compare

    first, second = (
        {t.task: t.solved for t in sweep.read(path.read_text(encoding="utf-8")).trials}
        for path in (given.first, given.second)
    )
    found = compare(first, second)
    print(f"both {found.both}, only first {found.only_first}, only second {found.only_second}, "
          f"neither {found.neither}; McNemar exact p = {found.p_value:.4g}")  # fmt: skip
    return 0


def run_front(given: argparse.Namespace) -> int:
    from conformance.agent import sweep
    from conformance.agent.scaling import pareto

    rows = {}
    for path in given.runs:
        trials = sweep.read(path.read_text(encoding="utf-8")).trials
        solved, tokens = sum(t.solved for t in trials), sum(t.tokens for t in trials)
        rows[str(path)] = (solved / len(trials), tokens / len(trials))
    best = pareto(rows)
    for name, (share, cost) in sorted(rows.items(), key=lambda row: row[1][1]):
        print(f"{'front' if name in best else '':<6}{share:.2f}{cost:>12.0f} tokens  {name}")
    return 0


def run_show(given: argparse.Namespace) -> int:
    shown = trace.read(given.record)
    lines = trace.view(shown, width=given.width, reasoning=not given.no_reasoning)
    print("\n".join(lines))
    return 0


def run_export(given: argparse.Namespace) -> int:
    found = trace.read(given.record)
    if given.format == "mermaid":
        print(graph.of(found).mermaid(), end="")
        return 0
    kept = not given.withhold_reasoning
    made = (
        graph.of(found).as_dict()
        if given.format == "graph"
        else atif.export(found, withhold_reasoning=not kept)
    )
    json.dump(made, sys.stdout, ensure_ascii=False, indent=1)
    print()
    return 0


def run_calibrate(given: argparse.Namespace) -> int:
    from conformance.agent.calibration import all_calibrations

    found = all_calibrations(given.tasks)
    for each in found:
        word = "equal" if each.exact else "DIFFERENT"
        print(f"{word:<10}{each.name}: {each.rate:.3f}, closed form {each.expected:.3f} "
              f"({each.sigmas:+.1f} sigma)")  # fmt: skip
    return 0 if all(each.exact for each in found) else 1


def run_mutants(given: argparse.Namespace) -> int:
    from conformance.agent.mutants import kill_table

    rows = kill_table()
    for row in rows:
        print(f"{'killed' if row.killed else 'ALIVE':<7}{row.mutant.check:<15}{row.mutant.name}"
              + (f"  ({row.mutant.seen_in})" if row.mutant.seen_in else ""))  # fmt: skip
    print(f"{sum(row.killed for row in rows)} of {len(rows)} killed")
    return 0 if all(row.killed for row in rows) else 1


def _print_checks(checks: list[Result]) -> int:
    for each in checks:
        print(f"{each.case:<4}{each.verdict:<9}{each.message}")
    return 1 if any(each.verdict.failed for each in checks) else 0


def run_server(given: argparse.Namespace) -> int:
    from conformance.agent import server_checks

    return _print_checks(server_checks.check(given.server, given.n))


def run_route(given: argparse.Namespace) -> int:
    from conformance.agent.routing import route

    model = model_of(given)
    with tempfile.TemporaryDirectory(prefix="k2conf-") as folder:
        world, state = Path(folder, "world"), Path(folder, "state")
        world.mkdir()
        with workbench.tools(given.server, world, state, "route") as (box, _):
            routed = route(model, box.tools())
    for each in routed:
        chosen = each.chosen or "none"
        print(f"{'right' if each.right else 'wrong':<6}{chosen:<16}{each.probe.request}")
    print(f"{sum(each.right for each in routed)} of {len(routed)} routed rightly")
    return 0 if all(each.right for each in routed) else 1


def run_client(given: argparse.Namespace) -> int:
    from conformance.agent import client_checks

    return _print_checks(client_checks.check_command(given.command, given.n))
