"""Command line of `k2ref`."""


def main() -> int:
    """Run the command line: argv -> exit code."""
    return 0
