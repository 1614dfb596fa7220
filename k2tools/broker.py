"""`import k2` inside python: the other tools, on the account of the call that runs the code.

Each inner call goes the way of every call: validated, budgeted, rated, logged with its parent. What
comes out of the sandbox is a name and arguments; what goes in is data or a refusal, never an
exception of ours.
"""

from collections.abc import Mapping
from typing import Any

from k2tools.sandbox.kernel import Call
from k2tools.toolbox import Context


def broker(cx: Context, max_calls: int) -> Call:
    """Offer the other tools to one cell: the call it runs in, most inner calls -> function."""
    made = 0

    async def call(tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        nonlocal made
        made += 1
        if tool == "python":
            return {"error": "python cannot call itself; write the code here"}
        if made > max_calls:
            return {"error": f"a cell may make {max_calls} calls of k2; split the work"}
        outcome = await cx.call(tool, arguments)
        if outcome.is_error:
            return {"error": outcome.body}
        return {"data": outcome.body if outcome.data is None else outcome.data}

    return call
