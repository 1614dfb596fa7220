"""`python -m conformance.agent`: the commands of `k2conf agent`."""

import argparse
import sys

from conformance.agent.commands import fill


def main() -> int:
    """Run one command: -> exit code."""
    parser = argparse.ArgumentParser("python -m conformance.agent", description=__doc__)
    fill(parser)
    given = parser.parse_args()
    try:
        return int(given.run(given))
    except (ValueError, LookupError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
