"""`k2conf agent`: run long tasks, read the traces, and check server, client and endpoint.

What one command alone needs (an HTTP server, statistics) is imported when it runs.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from conformance.agent import axes, command_checks, command_reports, command_runs, workbench
from conformance.agent.attempt import MODIFIERS
from conformance.agent.families import FAMILIES
from conformance.agent.heavy import TRAJECTORIES
from conformance.agent.limits import PRESETS

Run = Callable[[argparse.Namespace], int]


def add_commands(subparsers: Any) -> None:
    """Add `agent` and its own commands to the kit's command line."""
    top = subparsers.add_parser("agent", help="long tool runs: driver, tasks, verdicts (L7)")
    fill(top)


class Adder(Protocol):
    """Adds one command: name, what it runs, help -> its parser."""

    def __call__(self, name: str, run: Run, text: str) -> argparse.ArgumentParser: ...


def fill(top: argparse.ArgumentParser) -> None:
    """Add the commands to a parser."""
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Run, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        return made

    for add in (_add_runs, _add_reports, _add_checks):
        add(command)


def _add_runs(command: Adder) -> None:
    one = command("run", command_runs.run_one, "run one task and judge it")
    _task_options(one)
    one.add_argument("--out", type=Path, default=Path("agent-run"), help="world, record, verdict")
    many = command(
        "heavy", command_runs.run_heavy, "run several trajectories and make one answer of them"
    )
    _task_options(many)
    many.add_argument("--count", type=int, default=TRAJECTORIES)
    many.add_argument("--aggregate", choices=("vote", "verify", "agent"), default="vote")
    many.add_argument("--out", type=Path, default=Path("agent-heavy"))
    grid = command(
        "sweep", command_runs.run_sweep, "run a family at several lengths and settings: CSV, plots"
    )
    _task_options(grid)
    grid.add_argument("--lengths", default="10,30,100,200,300")
    grid.add_argument("--tasks", type=int, default=10, help="tasks per length")
    grid.add_argument("--vary", action="append", default=[], metavar="AXIS", help=axes.USAGE)
    grid.add_argument("--out", type=Path, default=Path("agent-sweep"))


def _add_reports(command: Adder) -> None:
    pair = command(
        "compare", command_reports.run_compare, "compare two sweeps on the same tasks (McNemar)"
    )
    pair.add_argument("first", type=Path, help="runs.csv")
    pair.add_argument("second", type=Path, help="runs.csv")
    front = command(
        "front", command_reports.run_front, "settings that no other beats in success and tokens"
    )
    front.add_argument("runs", type=Path, nargs="+", help="runs.csv of each setting")
    plot = command(
        "plot", command_reports.run_plot, "success by length of several sweeps in one SVG"
    )
    plot.add_argument("runs", type=Path, nargs="+", help="runs.csv of each sweep")
    plot.add_argument("--out", type=Path, default=Path("scaling.svg"))
    view = command("show", command_reports.run_show, "show a record as text")
    view.add_argument("record", type=Path)
    view.add_argument("--width", type=int, default=100)
    view.add_argument("--no-reasoning", action="store_true")
    out = command("export", command_reports.run_export, "write a record as ATIF or as a graph")
    out.add_argument("record", type=Path)
    out.add_argument("--format", choices=("atif", "graph", "mermaid"), default="atif")
    out.add_argument("--withhold-reasoning", action="store_true")


def _add_checks(command: Adder) -> None:
    check = command(
        "calibrate", command_checks.run_calibrate, "simulated models against direct simulation"
    )
    check.add_argument("--tasks", type=int, default=40)
    command("mutants", command_checks.run_mutants, "broken drivers, each caught by a named check")
    server = command("server", command_checks.run_server, "check a tool server (S1-S7)")
    server.add_argument("--server", default="k2tools", help=SERVER_HELP)
    server.add_argument("-n", type=int, default=300)
    probes = command(
        "route", command_checks.run_route, "which tool is chosen for requests that one can serve"
    )
    _model_options(probes)
    probes.add_argument("--server", default="k2tools", help=SERVER_HELP)
    client = command(
        "client", command_checks.run_client, "check an agent client against the strict endpoint"
    )
    client.add_argument("command", help="shell words; {url}, {world} and {prompt} are filled in")
    client.add_argument("-n", type=int, default=300)
    client.add_argument(
        "--strict", action="store_true", help="refuse what the sources leave in doubt, too"
    )


SERVER_HELP = (
    "k2tools | k2tools:http | small | URL of a server of OUT/world | "
    "a command with {world}, {state} and {run}"
)


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
    made.add_argument("--resume", action="store_true", help="take up the records in --out")
    made.add_argument(
        "--lost",
        choices=("tell", "ask", "repeat"),
        default="tell",
        help="on resume, a writing call that may have been executed: tell the model, ask you, "
        "or execute it",
    )
    made.add_argument(
        "--call-limit",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="that a call of this server may take; --resume lets the last one end, where the "
        "server does not remember its calls",
    )
    made.add_argument("--preset", choices=PRESETS, default="search", help="steps x reasoning")
    for name, kind in (("steps", int), ("total-tokens", int), ("seconds", float), ("money", float)):
        made.add_argument(f"--{name}", type=kind, default=None)
    made.add_argument("--reasoning", type=int, default=None, help="reasoning tokens of a step")
    made.add_argument("--window", type=int, default=None, help="context tokens")
    made.add_argument("--output", type=int, default=0, help="characters of a result, 0: whole")
    made.add_argument("--keep-last", type=int, default=3, help="outputs never hidden")
    made.add_argument("--native-ids", action="store_true", help="rename ids to functions.NAME:N")
    made.add_argument("--recover-leaks", action="store_true", help="execute calls leaked as text")
    made.add_argument("--redact-reasoning", action="store_true", help="keep none on disk")
    made.add_argument("--prices", type=Path, help="dated price file (TOML)")
