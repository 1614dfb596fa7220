"""What an engine is: anything that offers operations, or runs a checkpoint, or both.

In process an engine is a module or an object. It offers any subset of the functions of
`k2ref.oracle`, under their names and with their arguments, and may offer

    load(directory) -> model          a checkpoint in the published format
    model.forward(ids_T, position_T, *, trace=...) -> logits_TW

and, for the laws of what an engine remembers,

    model.new_cache() -> cache        model.forward(…, cache=cache) continues it
    cache.rows(layer) -> latent_SC, key_rope_SR
    model.forward_batch(list of ids_T, pad_id=…) -> list of logits_TW
    model.generate(ids_T, *, max_new, temperature, top_p, seed) -> ids

`trace(name, array)` may be called with any of the tensors of `spec/taps.toml`, in causal order. An
engine that offers every operation of the forward pass and no `load` is run through `k2ref.Model`.
Other attributes are read if present: `NAME`, `VERSION`, `PRECISION` (f64, f32, bf16),
`NUMERICS` (answers to open questions, name to answer).

What is not offered is a declared skip. What is offered and raises, hangs or answers in another
shape is an error of the engine, never of the kit.
"""

import importlib
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from conformance.compare import find_precision
from k2ref import oracle
from k2ref.checkpoint import Checkpoint
from k2ref.errors import InputError
from k2ref.model import Model
from k2ref.numerics import Numerics
from k2ref.trace import Trace, ignore

TIMEOUT_S = 120.0
FORWARD = (
    "angles",
    "attend_absorbed",
    "dense",
    "expert_ffn",
    "linear",
    "moe",
    "multiply",
    "rms_norm",
    "rotate",
    "route",
    "router_logits",
    "router_scores",
    "split_kv_b",
)


class EngineError(Exception):
    """The engine raised, died, hung, or answered what cannot be compared."""


class NotOffered(Exception):
    """The engine has no such operation or option: a declared skip, raised when it is asked."""


@dataclass(frozen=True)
class Info:
    """What an engine says about itself."""

    name: str
    version: str = "unknown"
    precision: str = "f32"
    numerics: Numerics = field(default_factory=Numerics)
    notes: dict[str, str] = field(default_factory=dict)
    """anything worth a line in the report"""

    def table(self) -> dict[str, Any]:
        """Give the header of a run: -> table."""
        return asdict(self)


class Runner(Protocol):
    """A checkpoint that an engine has loaded."""

    def forward(
        self, ids_T: np.ndarray, position_T: np.ndarray, *, trace: Trace = ignore
    ) -> np.ndarray:
        """Run tokens from an empty cache: ids_T, position_T -> logits_TW."""
        ...


class Engine(Protocol):
    """What the checks are put to. Adapters implement this; nothing inherits from it."""

    @property
    def info(self) -> Info: ...

    def operation(self, name: str) -> Callable[..., Any] | None:
        """Find an operation of the oracle: name -> function, None where it is not offered."""
        ...

    def load(self, directory: Path) -> Runner | None:
        """Load a checkpoint: directory -> Runner, None where the engine runs none."""
        ...

    def close(self) -> None:
        """Give back what the engine holds."""
        ...


class Namespace:
    """The adapter of an engine in this process: a module or an object."""

    def __init__(self, offered: Any, *, name: str = "", precision: str | None = None) -> None:
        self.offered = offered
        declared = str(precision or getattr(offered, "PRECISION", "f32"))
        answers = getattr(offered, "NUMERICS", {})
        self.info = Info(
            name=name or getattr(offered, "NAME", getattr(offered, "__name__", "engine")),
            version=str(getattr(offered, "VERSION", getattr(offered, "__version__", "unknown"))),
            precision=find_precision(declared).name,
            numerics=answers if isinstance(answers, Numerics) else Numerics(**answers),
        )

    def operation(self, name: str) -> Callable[..., Any] | None:
        """Find an operation: name -> function or None."""
        found = getattr(self.offered, name, None) if name in oracle.OPERATIONS else None
        return found if callable(found) else None

    def load(self, directory: Path) -> Runner | None:
        """Load a checkpoint with the engine's `load`, or run it through its operations."""
        if callable(load := getattr(self.offered, "load", None)):
            runner: Runner = load(directory)
            return runner
        if any(self.operation(name) is None for name in FORWARD):
            return None
        return Model(
            Checkpoint(directory),
            ops=self.offered,
            dtype=find_precision(self.info.precision).dtype,
            numerics=self.info.numerics,
        )

    def close(self) -> None:
        """Hold nothing."""


def open_module(address: str, *, precision: str | None = None) -> Engine:
    """Import an engine: module or module:ATTRIBUTE -> Engine."""
    module, _, attribute = address.partition(":")
    try:
        offered: Any = importlib.import_module(module)
        for part in filter(None, attribute.split(".")):
            offered = getattr(offered, part)
    except (ImportError, AttributeError) as error:
        raise InputError(f"no engine {address}: {error}") from None
    return Namespace(offered, name=address, precision=precision)


# how an engine is written on the command line -> module:function that opens it
OPENERS = {
    "dump": "conformance.adapters.dump:open_dump",
    "gguf": "conformance.adapters.llama:open_gguf",
    "hf": "conformance.adapters.hf:open_hf",
    "http": "conformance.adapters.openai:open_http",
    "https": "conformance.adapters.openai:open_https",
    "kt": "conformance.adapters.k2cp:open_kt",
    "mlx": "conformance.adapters.mlx:open_mlx",
    "module": "conformance.engine:open_module",
    "stdio": "conformance.adapters.k2cp:open_stdio",
}


def open_engine(text: str, *, precision: str | None = None) -> Engine:
    """Open an engine: SCHEME:ADDRESS, or the path of a module -> Engine."""
    scheme, _, address = text.partition(":")
    if scheme not in OPENERS:
        scheme, address = "module", text
    module, _, function = OPENERS[scheme].partition(":")
    opener: Callable[..., Engine] = getattr(importlib.import_module(module), function)
    return opener(address, precision=precision)


def attempt(
    function: Callable[..., Any], *args: Any, timeout_s: float = TIMEOUT_S, **kw: Any
) -> Any:
    """Call into an engine: function, arguments -> its answer.

    Raises:
        NotOffered: it says that it has no such option.
        EngineError: it raised, asked to leave the process, or gave no answer in time. A call that
        hangs is left behind in its thread.
    """
    outcome: dict[str, Any] = {}

    def call() -> None:
        try:
            outcome["answer"] = function(*args, **kw)
        except BaseException as error:  # SystemExit included: the engine's, not ours
            outcome["error"] = error

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise EngineError(f"no answer within {timeout_s:g} s")
    if error := outcome.get("error"):
        if isinstance(error, EngineError | NotOffered):
            raise error
        raise EngineError(f"{type(error).__name__}: {error}") from error
    return outcome["answer"]
