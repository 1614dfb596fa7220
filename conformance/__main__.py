"""The command `k2conf`: put an engine to the specification, and say what differs.

Exit codes: 0 ok, 1 regression, 2 stale baseline or wrong input, 3 harness error, 4 inconclusive.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence

from k2ref.errors import InputError

# modules with `add_commands(subparsers)`; each command sets `run`, a function options -> exit code
COMMANDS = (
    "conformance.agent.commands",
    "conformance.api.commands",
    "conformance.bisect",
    "conformance.commands",
    "conformance.export",
    "conformance.mutants",
    "conformance.report.commands",
    "conformance.repro.commands",
    "conformance.vectors",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line: arguments -> exit code."""
    parser = argparse.ArgumentParser(
        prog="k2conf", description="Does an engine compute Kimi K2 Thinking?"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        importlib.import_module(module).add_commands(commands)
    options = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return int(run(options))
    except (InputError, OSError) as error:
        print(f"k2conf: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
