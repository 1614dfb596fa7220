"""Processes that kill themselves with SIGKILL at one moment of one call, or hold the call.

`python killed.py MOMENT N driver|server WORDS...` runs `k2conf agent WORDS` or `k2tools WORDS` and
dies at the Nth edit: the server before the effect, between the effect and the log line, half-way
through that line, or after it; the driver before or after the turn is recorded, before, half-way
through or after the results are. A server that is `held` keeps the Nth edit running, and says so
in the file STATE/begun, until somebody asks for the same call again or for the same run.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

SERVER = ("before", "between", "torn log", "logged")
DRIVER = ("unrecorded", "unsent", "received", "torn record", "recorded")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Nth:
    """Calls an action at the Nth time that it is told of an event."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def around(owner: Any, name: str, before: Callable[..., None], after: Callable[..., None]) -> None:
    """Put something before and after a method."""
    method = getattr(owner, name)

    def changed(*args: Any, **more: Any) -> Any:
        before(*args, **more)
        result = method(*args, **more)
        after(*args, **more)
        return result

    setattr(owner, name, changed)


def nothing(*args: Any, **more: Any) -> None:
    return None


def break_server(moment: str, nth: Nth) -> None:
    from k2tools import runlog
    from k2tools.workspace import Workspace

    def at_log(log: runlog.RunLog, record: runlog.Record, body: str) -> None:
        if record.tool != "edit_file" or not nth():
            return
        if moment == "torn log":
            os.write(log._fd, b'{"args":{"path":')
        die()

    def at_write(*args: Any, **more: Any) -> None:
        if nth():
            die()

    match moment:
        case "before":
            around(Workspace, "write", at_write, nothing)
        case "logged":
            around(runlog.RunLog, "append", nothing, at_log)
        case _:
            around(runlog.RunLog, "append", at_log, nothing)


def hold(nth: Nth, state: Path) -> None:
    """Keep the Nth edit running until a second caller waits for it."""
    import anyio

    from k2tools import runlog
    from k2tools.dispatch import Dispatcher

    run, keyed, claim = Dispatcher._run, Dispatcher.keyed, runlog._claim

    async def held(self: Dispatcher, tool: Any, *args: Any, **more: Any) -> Any:
        if tool.name == "edit_file" and nth():
            (state / "begun").touch()
            while not (state / "asked").exists():
                await anyio.sleep(0.01)
        return await run(self, tool, *args, **more)

    def joined(self: Dispatcher, session: Any, key: str, *args: Any, **more: Any) -> Any:
        if (session, key) in self._pending:
            (state / "asked").touch()
        return keyed(self, session, key, *args, **more)

    def claimed(*args: Any) -> None:
        try:
            claim(*args)
        except runlog.InUse:
            (state / "asked").touch()
            raise

    Dispatcher._run, Dispatcher.keyed = held, joined  # type: ignore[method-assign]
    runlog._claim = claimed


def break_driver(moment: str, nth: Nth) -> None:
    from conformance.agent.mcp_tools import McpTools
    from conformance.agent.record import Record

    def edits(event: dict[str, Any]) -> bool:
        return "edit_file" in str(event.get("message", {}).get("tool_calls", ""))

    reached = False

    def at_write(record: Record, kind: str, **event: Any) -> None:
        nonlocal reached
        reached = reached or (kind == "turn" and edits(event) and nth())
        if not reached:
            return
        if kind == "turn" and moment == "unrecorded":
            die()
        if kind == "results" and moment == "torn record" and record._file is not None:
            record._file.write('{"kind": "results", "res')
            record._file.flush()
        if kind == "results" and moment in ("received", "torn record"):
            die()

    def at_written(record: Record, kind: str, **event: Any) -> None:
        if reached and kind == "results" and moment == "recorded":
            die()

    def at_sending(*args: Any) -> None:
        if reached and moment == "unsent":
            die()

    around(Record, "write", at_write, at_written)
    around(McpTools, "call_all", at_sending, nothing)


def main() -> int:
    moment, number, who, *words = sys.argv[1:]
    if who == "server":
        from k2tools.cli import main as serve

        if moment == "held":
            hold(Nth(int(number)), Path(words[words.index("--state") + 1]))
        else:
            break_server(moment, Nth(int(number)))
        return serve(words)
    from conformance.agent.__main__ import main as drive

    break_driver(moment, Nth(int(number)))
    sys.argv[1:] = words
    return drive()


if __name__ == "__main__":
    sys.exit(main())
