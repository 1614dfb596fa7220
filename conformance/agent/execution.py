"""From the calls that a model wrote to their results, also across a stop.

A call that may have been sent before a stop is sent again only where that cannot execute it twice:
when it only reads, or when its server remembers it by its key (k2tools/keys.py). The key is made of
the run's own nonce and the call's number, so it is the same after a stop and in no other run.
"""

import difflib
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from conformance.agent.messages import BadArguments, Call, unwrapped
from conformance.agent.run import Options
from conformance.agent.toolbox import LOST, Result, Tool, Toolbox, ToolCall
from k2ref.errors import InputError

TOLD = Result(f"the result was lost in a restart: {LOST}", True, fault="lost")
Execution = ToolCall | Result  # something to execute, or the error that answers it


def wait(seconds: float) -> None:
    """Sleep, and say why."""
    print(f"waiting {seconds:.0f} s: the call that was sent last may still run", file=sys.stderr)
    time.sleep(seconds)


@dataclass
class Executor:
    """Executes the calls of one run on a toolbox."""

    toolbox: Toolbox
    options: Options
    nonce: str  # makes the keys of the calls this run's own
    pause: Callable[[float], None] = wait
    offered: dict[str, Tool] = field(default_factory=dict)
    sent_to: str = ""  # the memory that got the last turn before a stop
    stopped_s: float = 0.0  # since then

    def offer(self) -> list[Tool]:
        """List the tools, and know them from now on."""
        tools = self.toolbox.tools()
        self.offered = {tool.name: tool for tool in tools}
        return tools

    @property
    def memory(self) -> str:
        """Name what remembers the keys of calls, "" when nothing does."""
        return next((tool.memory for tool in self.offered.values() if tool.memory), "")

    def prepare(self, number: int, call: Call) -> Execution:
        """Turn a call into something to execute, or into the error that answers it."""
        if call.name not in self.offered:
            near = difflib.get_close_matches(call.name, self.offered, 3, 0.3) or list(self.offered)
            return Result(f"no tool is called {call.name!r}. Tools: {', '.join(near)}.", True)
        try:
            args = unwrapped(call).parsed()
        except BadArguments as error:
            wanted = self.offered[call.name].schema.get("required", [])
            return Result(f"{error}. Send one JSON object with the keys {wanted}.", True)
        key = self.key(number) if self.offered[call.name].memory else ""
        return ToolCall(call.name, args, _hash(f"{self.options.run_id}:{number}"), key)

    def key(self, number: int) -> str:
        """Give the key under which a call is sent, and sent again."""
        return _hash(f"{self.nonce}:{number}")

    def results(self, executions: Sequence[Execution], *, resumed: bool) -> list[Result]:
        """Execute the calls of one turn; in a resumed one, those that may be sent again."""
        known = {
            i: e if isinstance(e, Result) else self.lost(e)
            for i, e in enumerate(executions)
            if isinstance(e, Result) or resumed
        }
        ready = {i: result for i, result in known.items() if result is not None}
        calls = [e for i, e in enumerate(executions) if i not in ready]
        sent = [call for call in calls if isinstance(call, ToolCall)]
        answers = zip(sent, self.toolbox.call_all(sent), strict=True)
        fresh = (self.forgotten(c) if r.fault == "lost" else r for c, r in answers)
        return [ready[i] if i in ready else next(fresh) for i in range(len(executions))]

    def lost(self, call: ToolCall) -> Result | None:
        """Say what became of a call sent before a stop; None means that it may be sent again.

        A call that writes, to a server without a memory, may have taken effect or still run: the
        model looks at the world once the call has surely ended.
        """
        tool = self.offered[call.name]
        if tool.read_only or (call.key and tool.memory == self.sent_to):
            return None
        if self.options.lost == "ask":
            raise _asked(call)
        if self.stopped_s < self.options.call_limit_s:
            self.pause(self.options.call_limit_s - self.stopped_s)
            self.stopped_s = self.options.call_limit_s
        return None if self.options.lost == "repeat" else TOLD

    def forgotten(self, call: ToolCall) -> Result:
        """Decide on a call whose server stopped while it ran, and cannot know what it did."""
        if self.options.lost == "ask":
            raise _asked(call)
        if self.options.lost == "tell":
            return TOLD
        again = self.toolbox.call_all([call._replace(key=_hash(call.key))])[0]
        return TOLD if again.fault == "lost" else again


def _asked(call: ToolCall) -> InputError:
    return InputError(
        f"whether {call.name}({json.dumps(call.args)[:200]}) was executed before the stop cannot "
        "be known. Look at the world, then resume with --lost repeat to execute it, or with "
        "--lost tell to let the model find out"
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
