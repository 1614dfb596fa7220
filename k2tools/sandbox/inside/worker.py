"""The session inside the sandbox: one cell after another, variables kept.

Cells arrive on one pipe and outcomes leave on another; printed text goes to the third, which is
standard output and error. A byte on the fourth interrupts the cell; its end ends the process.
"""

import importlib
import os
import signal
import sys
import threading
import warnings
from contextlib import suppress
from typing import Any

from . import bridge, cell


def main(orders: int, outcomes: int, interrupts: int, preload: list[str]) -> None:
    """Serve cells until the server goes away."""
    for fd in (orders, outcomes, interrupts):
        os.set_inheritable(fd, False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="replace", buffering=1)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="replace", buffering=1)
    sys.path.insert(0, "")
    sys.path.append(os.path.join(os.path.dirname(__file__), "importable"))
    link = bridge.Bridge(orders, outcomes)
    bridge.install(link)
    for name in preload:
        with suppress(ImportError), warnings.catch_warnings(action="ignore"):
            importlib.import_module(name)
    threading.Thread(target=watch, args=(interrupts,), daemon=True).start()
    # That thread is ours and holds no lock: nothing that code which forks must hear of.
    warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # between cells nothing is there to interrupt
    cells = cell.Cells()
    link.outcome({"kind": "ready"})
    while True:
        order = link.next_cell()
        link.outcome({"kind": "done", "id": order["id"], **run(cells, order["code"])})


def run(cells: cell.Cells, code: str) -> dict[str, Any]:
    """Run one cell that a signal may interrupt: code -> what it ended with."""
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        outcome = cells.run(code)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:  # it struck between the cell and the line after it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        outcome = {"value": "", "error": "KeyboardInterrupt"}
    with suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    return outcome


def watch(interrupts: int) -> None:
    """Turn each byte into SIGINT of the main thread, and the end of the pipe into the end."""
    while os.read(interrupts, 1):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    os._exit(0)
