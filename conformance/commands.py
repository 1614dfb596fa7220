"""The commands `list`, `smoke` and `run`."""

import argparse
import importlib
import sys
from datetime import date
from pathlib import Path
from typing import Any

from conformance.api.commands import add_endpoint_options
from conformance.baseline import Exit, exit_code, load_baseline, stale
from conformance.engine import Namespace, open_engine
from conformance.failures import save_failures
from conformance.results import Run, Verdict, save_run
from conformance.spec import LEVELS, find_requirement, requirements, vectors_id
from conformance.suite import Plan, line, run_suite, smoke, summary
from k2ref import oracle
from k2ref.errors import InputError

# option of `run` -> module:function(path, run) that writes it, and its help
OUTPUTS: dict[str, tuple[str, str]] = {
    "badge": ("conformance.report.exchange:write_badge", "a badge, as .svg or .json"),
    "ctrf": ("conformance.report.exchange:write_ctrf", "a CTRF 1.0.0 report"),
    "junit": ("conformance.report.exchange:write_junit", "JUnit XML"),
    "report": ("conformance.report.page:write_html", "one HTML page with figures"),
}


def add_commands(commands: Any) -> None:
    """Add the commands of this module: subparsers."""
    listed = commands.add_parser("list", help="the requirements, their levels and sources")
    listed.set_defaults(run=run_list)
    tried = commands.add_parser("smoke", help="is the harness broken, or the engine?")
    _add_engine(tried)
    tried.set_defaults(run=run_smoke)
    judged = commands.add_parser("run", help="put an engine to the specification")
    _add_engine(judged)
    judged.add_argument("--level", action="append", metavar="L0..L7", help="may be repeated")
    judged.add_argument(
        "--only", action="append", default=[], metavar="ID", help="case, requirement or operation"
    )
    judged.add_argument("--known", type=Path, metavar="FILE", help="known failures (TOML)")
    judged.add_argument("--seed", type=int, help="of the fresh inputs; drawn anew without it")
    judged.add_argument(
        "--profile",
        choices=("nano", "kernel", "wide"),
        default="nano",
        help="the model of levels L3 and L4; wide: single operations of the published width alone",
    )
    judged.add_argument("--checkpoint", type=Path, metavar="DIR", help="instead of a profile")
    judged.add_argument("--properties", action="store_true", help="laws without a reference too")
    judged.add_argument("--vectors", type=Path, metavar="DIR", help="these vectors, nothing else")
    judged.add_argument(
        "--save-failures", type=Path, metavar="DIR", help="failing inputs as new vectors"
    )
    judged.add_argument("--results", type=Path, metavar="OUT.jsonl", help="every result, as data")
    for name, (_, help_) in OUTPUTS.items():
        judged.add_argument(f"--{name}", type=Path, metavar="OUT", help=help_)
    add_endpoint_options(judged)
    judged.set_defaults(run=run_run)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "engine", help="module:NAME, https://…/v1, or another scheme with its address"
    )
    parser.add_argument("--precision", choices=("f64", "f32", "bf16"), help="declared precision")


def run_list(options: argparse.Namespace) -> int:
    """Print every requirement: options -> exit code."""
    for r in requirements().values():
        print(f"{r.level}  {r.id:<30} {r.must}")
    return Exit.OK


def run_smoke(options: argparse.Namespace) -> int:
    """Try the reference first, then the engine: options -> exit code."""
    ours = list(smoke(Namespace(oracle, name="k2ref.oracle")))
    if any(r.verdict is not Verdict.PASS for r in ours):
        print(
            "the harness is broken: the reference fails its own cases", *map(line, ours), sep="\n"
        )
        return Exit.HARNESS
    engine = open_engine(options.engine, precision=options.precision)
    try:
        results = list(smoke(engine))
    finally:
        engine.close()
    print("the harness works", *map(line, results), sep="\n")
    return exit_code(results, [], today=date.today())


def run_run(options: argparse.Namespace) -> int:
    """Run the suite, print and write the results: options -> exit code."""
    if options.engine.startswith(("http://", "https://")) and ",checkpoint=" not in options.engine:
        return _run_endpoint(options)
    plan = _plan(options)
    known = load_baseline(options.known) if options.known else []
    engine = open_engine(options.engine, precision=options.precision)
    try:
        run = run_suite(engine, plan)
        saved = save_failures(options.save_failures, engine, run) if options.save_failures else []
    finally:
        engine.close()
    if not run.results:
        raise InputError(f"nothing is called {', '.join(plan.only)}; `k2conf list` lists ids")
    print(f"{run.engine['name']} {run.engine['version']}, {run.engine['precision']}, ", end="")
    print(f"vectors {vectors_id()[:12]}, seed {run.seed}")
    for result in run.results:
        print(line(result))
    for sentence in stale(known, run.results, today=date.today()):
        print(f"stale: {sentence}", file=sys.stderr)
    print(*saved, summary(run), sep="\n")
    write_outputs(options, run)
    return exit_code(run.results, known, today=date.today())


def _run_endpoint(options: argparse.Namespace) -> int:
    from conformance.api.run import judge_endpoint  # a part of the kit that few runs need

    known = load_baseline(options.known) if options.known else []
    run = judge_endpoint(options)
    if run is None:
        return Exit.OK
    for sentence in stale(known, run.results, today=date.today()):
        print(f"stale: {sentence}", file=sys.stderr)
    print(summary(run))
    write_outputs(options, run)
    return exit_code(run.results, known, today=date.today())


def _plan(options: argparse.Namespace) -> Plan:
    levels = frozenset(options.level or LEVELS)
    if unknown := levels - set(LEVELS):
        raise InputError(f"level must be one of {', '.join(LEVELS)}, got {', '.join(unknown)}")
    for id_ in options.only:
        if ":" in id_:
            find_requirement(id_)
    if options.save_failures and options.save_failures.exists():
        raise InputError(f"{options.save_failures} exists already; give a new folder")
    if options.vectors and not list(options.vectors.glob("*.json")):
        raise InputError(f"{options.vectors}: no vectors there")
    return Plan(
        levels=levels,
        only=tuple(options.only),
        seed=options.seed,
        profile=options.profile,
        checkpoint=options.checkpoint,
        properties=options.properties,
        vectors=options.vectors,
    )


def write_outputs(options: argparse.Namespace, run: Run) -> None:
    """Write a run in every form that was asked for: options, run."""
    if options.results:
        save_run(options.results, run)
    for name, (address, _) in OUTPUTS.items():
        if path := getattr(options, name):
            module, _, function = address.partition(":")
            getattr(importlib.import_module(module), function)(path, run)
