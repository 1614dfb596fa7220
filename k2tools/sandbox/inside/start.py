"""The first code in the sandbox: set the limits, then run one module of this package."""

import importlib
import json
import sys
from contextlib import suppress

with suppress(ImportError):  # Windows imports this module and runs none of it
    import resource

# Run as `python -c BOOT DIRECTORY ORDER`: this folder becomes the package `k2_inside`.
BOOT = (
    "import sys, types; p = types.ModuleType('k2_inside'); p.__path__ = [sys.argv[1]]; "
    "sys.modules['k2_inside'] = p; from k2_inside import start; start.main()"
)


def main() -> None:
    order = json.loads(sys.argv[2])
    for name, value in order["rlimits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    importlib.import_module(f"k2_inside.{order['module']}").main(**order["arguments"])
