"""Commands that check: calibrate, mutants, server, client, route."""

import argparse
import tempfile
from pathlib import Path

from conformance.agent import workbench
from conformance.agent.command_runs import model_of
from conformance.results import Result
from k2ref.errors import InputError


def run_calibrate(given: argparse.Namespace) -> int:
    from conformance.agent.calibration import all_calibrations

    found = all_calibrations(given.tasks)
    for each in found:
        word = "equal" if each.exact else "DIFFERENT"
        print(f"{word:<10}{each.name}: {each.rate:.3f}, closed form {each.expected:.3f} "
              f"({each.sigmas:+.1f} sigma)")  # fmt: skip
    return 0 if all(each.exact for each in found) else 1


def run_mutants(given: argparse.Namespace) -> int:
    from conformance.agent.kills import kill_table

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

    if workbench.is_url(given.server):
        raise InputError("the checks give a server its world: give a command with {world}, no URL")
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

    return _print_checks(client_checks.check_command(given.command, given.n, strict=given.strict))
