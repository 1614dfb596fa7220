"""The commands `report`, `badge` and `diff`: stored runs, shown again."""

import argparse
from pathlib import Path
from typing import Any

from conformance.baseline import Exit
from conformance.report.exchange import badge, write_badge, write_ctrf, write_junit
from conformance.report.page import page, read_matrix
from conformance.results import Result, Run, Verdict, load_run
from k2ref.errors import InputError

MOVED = 2.0  # factor by which a noise figure must move to be told


def add_commands(commands: Any) -> None:
    """Add the commands: subparsers."""
    shown = commands.add_parser("report", help="a page, JUnit or CTRF from a stored run")
    shown.add_argument("results", type=Path, help="what `run --results` wrote")
    shown.add_argument("--html", type=Path, metavar="OUT.html")
    shown.add_argument("--matrix", type=Path, metavar="FILE", help="what `mutants --json` wrote")
    shown.add_argument("--junit", type=Path, metavar="OUT.xml")
    shown.add_argument("--ctrf", type=Path, metavar="OUT.json")
    shown.set_defaults(run=run_report)
    summed = commands.add_parser("badge", help="one line, as SVG or as JSON for badge services")
    summed.add_argument("results", type=Path, help="what `run --results` wrote")
    summed.add_argument("out", type=Path, nargs="?", metavar="OUT.svg|OUT.json")
    summed.set_defaults(run=run_badge)
    compared = commands.add_parser("diff", help="what changed from one run to another")
    compared.add_argument("before", type=Path)
    compared.add_argument("after", type=Path)
    compared.set_defaults(run=run_diff)


def run_report(options: argparse.Namespace) -> int:
    """Write what was asked for: options -> exit code."""
    run = load_run(options.results)
    if not (options.html or options.junit or options.ctrf):
        raise InputError("say what to write: --html, --junit or --ctrf with a file")
    matrix = read_matrix(options.matrix) if options.matrix else None
    if options.html:
        options.html.write_text(page(run, matrix), encoding="utf-8")
    if options.junit:
        write_junit(options.junit, run)
    if options.ctrf:
        write_ctrf(options.ctrf, run)
    return Exit.OK


def run_badge(options: argparse.Namespace) -> int:
    """Print or write a badge: options -> exit code."""
    run = load_run(options.results)
    if options.out:
        write_badge(options.out, run)
    else:
        print(badge(run)[0])
    return Exit.OK


def run_diff(options: argparse.Namespace) -> int:
    """Print what changed: options -> exit code, 1 where a case got worse."""
    before, after = load_run(options.before), load_run(options.after)
    if before.vectors_id != after.vectors_id:
        print("the two runs used different vectors: limits may have changed with them")
    changes = differences(before, after)
    print(*(words for _, words in changes), sep="\n")
    worse = sum(grew for grew, _ in changes)
    print(f"{len(changes)} differences, {worse} for the worse")
    return Exit.REGRESSION if worse else Exit.OK


def differences(before: Run, after: Run) -> list[tuple[bool, str]]:
    """Compare two runs case by case: before, after -> (worse, sentence) for each difference."""
    old, new = _by_case(before), _by_case(after)
    changes = [(False, f"{case}: no longer run") for case in old.keys() - new.keys()]
    changes += [
        (new[c].verdict.failed, f"{c}: new, {new[c].verdict.value}") for c in new.keys() - old
    ]
    for case in sorted(old.keys() & new.keys()):
        if change := _change(old[case], new[case]):
            changes.append(change)
    return sorted(changes, key=lambda change: (not change[0], change[1]))


def _by_case(run: Run) -> dict[str, Result]:
    """Index results by a name that does not hold the seed of the fresh inputs: run -> results."""
    return {r.case.partition("@")[0] + ("@fresh" if "@" in r.case else ""): r for r in run.results}


def _change(old: Result, new: Result) -> tuple[bool, str] | None:
    if old.verdict is not new.verdict:
        words = f"{new.case}: {old.verdict.value} -> {new.verdict.value}"
        worse = new.verdict.failed and not old.verdict.failed
        lost = old.verdict is Verdict.PASS and new.verdict is Verdict.SKIPPED
        return worse or lost, f"{words}  {new.message}".rstrip()
    if old.tau and new.tau and "@" not in new.case:
        factor = new.tau / old.tau
        if not 1 / MOVED <= factor <= MOVED:
            return False, f"{new.case}: {old.tau:.3g} -> {new.tau:.3g} sigma"
    return None
