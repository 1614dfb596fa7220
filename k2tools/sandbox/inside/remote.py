"""The same cells in a kernel elsewhere, where the way out is the kernel's own `input`."""

import json
import os
import threading
from typing import Any

from . import bridge, cell


class InputBridge:
    """Calls of other tools as questions to whoever drives the kernel."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def call(self, tool: str, arguments: dict[str, Any]) -> Any:
        with self._lock, bridge.uninterrupted():
            reply = json.loads(input(json.dumps({"tool": tool, "args": arguments})))
        if "error" in reply:
            raise bridge.ToolError(reply["error"])
        return reply["data"]


class Remote:
    """The session in the kernel; `outcome` is read after each cell."""

    def __init__(self) -> None:
        os.environ["MPLBACKEND"] = "module://k2_figures"
        bridge.install(InputBridge())
        self._cells = cell.Cells()
        self.outcome = ""

    def run(self, code: str) -> None:
        self.outcome = json.dumps(self._cells.run(code))
