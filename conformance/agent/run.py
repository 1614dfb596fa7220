"""What a run is made of: its options, its calls, its end."""

from dataclasses import dataclass, field
from typing import Any, Literal

from conformance.agent.limits import PRESETS, Limits, Prices, Spent
from conformance.agent.messages import Call, Message
from conformance.agent.toolbox import Result, ref_of

Status = Literal[
    "done", "unsolvable", "max_steps", "budget", "loop", "overflow", "provider_error", "running"
]

SIMULATED = "simulated "  # begins the name of a model that is none


@dataclass(frozen=True)
class Options:
    """How a run is driven; the limits are in `limits`."""

    limits: Limits = PRESETS["search"]
    keep_last: int = 3
    output_chars: int = 0  # of one result; 0 takes what the server gives
    native_ids: bool = False
    recover_leaks: bool = False
    redact_reasoning: bool = False
    temperature: float = 1.0
    prices: Prices | None = None
    run_id: str = "run"
    model: str = ""  # its name, for the record
    lost: Literal["tell", "ask", "repeat"] = "tell"  # a writing call that may have been executed
    call_limit_s: float = 0.0  # so long a call may go on when its driver is gone


@dataclass(frozen=True)
class CallRecord:
    """One call as it was sent and answered."""

    step: int
    call: Call
    trace_id: str
    args: dict[str, Any] | None
    result: Result

    @property
    def ref(self) -> str:
        return ref_of(self.result.text)

    @property
    def is_lost(self) -> bool:
        """Tell whether nobody knows if the call was executed."""
        return self.result.fault == "lost"


@dataclass
class Run:
    """Everything a verdict may look at."""

    status: Status = "running"
    answer: str = ""
    detail: str = ""
    history: list[Message] = field(default_factory=list)
    calls: list[CallRecord] = field(default_factory=list)
    spent: Spent = field(default_factory=Spent)
    hidden: set[int] = field(default_factory=set)


DEFAULTS = Options()
