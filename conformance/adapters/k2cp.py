"""The protocol k2cp/1: an engine in any language, one JSON line per question, arrays in files.

    {"cmd": "hello", "protocol": "k2cp/1"}
        {"result": {"name": …, "version": …, "precision": "f32", "ops": [names], "forward": bool}}
    {"cmd": "op", "op": "rms_norm", "args": {"eps": 1e-6}, "inputs": FILE, "outputs": FILE}
        {"result": {}}                    after writing `out_TD` to the safetensors file `outputs`
    {"cmd": "load", "directory": DIR}
        {"result": {}}
    {"cmd": "forward", "inputs": FILE, "outputs": FILE, "taps": [names]}
        {"result": {}}                    inputs ids_T, position_T; outputs logits_TW and the taps
        with "cache": NAME, where hello said "cache": true, after what that name has seen before
    {"cmd": "bye"}
        {"result": {}}

Instead of a result: {"skipped": {"reason": …}} or {"errored": {"message": …}}. Operations, their
arguments and the names of their results are those of `k2ref.oracle`.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import inspect
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from conformance.adapters.lines import LineProcess
from conformance.adapters.messages import flatten, read_arrays, result_of, write_arrays
from conformance.compare import find_precision
from conformance.engine import EngineError, Info, NotOffered, Runner
from k2ref import oracle
from k2ref.errors import InputError
from k2ref.trace import Trace, ignore

PROTOCOL = "k2cp/1"


class SubprocessEngine:
    """An engine behind a command, and the runner of the checkpoint it was given last."""

    def __init__(self, command: str, *, timeout_s: float = 60.0) -> None:
        """Start it and ask what it offers: command -> engine.

        Raises:
            EngineError: it does not start, or it does not speak the protocol.
        """
        self._lines = LineProcess(shlex.split(command), timeout_s=timeout_s)
        self._folder = tempfile.TemporaryDirectory(prefix="k2cp-")
        self._count = 0
        self._directory: str | None = None
        try:
            self._hello = _check_hello(self._ask({"cmd": "hello", "protocol": PROTOCOL}))
        except BaseException:
            self._end()
            raise
        self.info = Info(
            str(self._hello["name"]), str(self._hello["version"]), str(self._hello["precision"])
        )

    def operation(self, name: str) -> Callable[..., Any] | None:
        """Find an operation: name -> function, None where hello did not name it."""
        return functools.partial(self._operate, name) if name in self._hello["ops"] else None

    def load(self, directory: Path) -> Runner | None:
        """Give it a checkpoint: directory -> itself, None where hello said no forward."""
        if not self._hello.get("forward"):
            return None
        self._directory = str(directory)
        self._ask({"cmd": "load", "directory": self._directory})
        return self

    def new_cache(self) -> str | None:
        """Name an empty cache: -> name, None where hello offered none."""
        self._count += 1
        return f"cache-{self._count}" if self._hello.get("cache") else None

    def forward(
        self,
        ids_T: np.ndarray,
        position_T: np.ndarray | None = None,
        *,
        cache: str | None = None,
        trace: Trace = ignore,
    ) -> np.ndarray:
        """Run tokens through the loaded checkpoint: ids_T, position_T -> logits_TW."""
        self._revive()
        position_T = np.arange(len(ids_T)) if position_T is None else position_T
        arrays = {"ids_T": np.asarray(ids_T, np.int64), "position_T": position_T.astype(np.int64)}
        taps = list(self._hello.get("taps", []))
        message = {"cmd": "forward", "taps": taps} | ({"cache": cache} if cache else {})
        found = self._exchange(message, arrays)
        if "logits_TW" not in found:
            raise EngineError(
                f"forward must return logits_TW, found {', '.join(found) or 'nothing'}"
            )
        for name in found:
            if name != "logits_TW":
                trace(name, found[name])
        return found["logits_TW"]

    def close(self) -> None:
        """Say goodbye and end the process."""
        with contextlib.suppress(EngineError, NotOffered):
            if self._lines.running:
                self._ask({"cmd": "bye"})
        self._end()

    def _end(self) -> None:
        self._lines.close()
        self._folder.cleanup()

    def _operate(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(getattr(oracle, operation)).bind(*args, **kwargs)
        bound.apply_defaults()
        arrays, scalars = flatten(dict(bound.arguments), "")
        found = self._exchange({"cmd": "op", "op": operation, "args": scalars}, arrays)
        return result_of(operation, found)

    def _exchange(
        self, message: dict[str, Any], arrays: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        self._count += 1
        base = Path(self._folder.name) / str(self._count)
        inputs, outputs = base.with_suffix(".in"), base.with_suffix(".out")
        write_arrays(inputs, arrays)
        try:
            self._ask({**message, "inputs": str(inputs), "outputs": str(outputs)})
            return read_arrays(outputs)
        finally:
            for path in (inputs, outputs):
                path.unlink(missing_ok=True)

    def _revive(self) -> None:
        """Load the checkpoint again where the process had to be started again."""
        if self._lines.running or self._directory is None:
            return
        self._ask({"cmd": "load", "directory": self._directory})

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        answer = self._lines.ask(message)
        if isinstance(skipped := answer.get("skipped"), dict):
            raise NotOffered(str(skipped.get("reason", "no reason given")))
        if isinstance(errored := answer.get("errored"), dict):
            raise EngineError(f"it says: {errored.get('message', 'no message given')}")
        if not isinstance(result := answer.get("result"), dict):
            raise EngineError(
                f"the answer to {message['cmd']} must have result, skipped or errored, "
                f"found {', '.join(answer) or 'nothing'}"
            )
        return result


def open_stdio(address: str, *, precision: str | None = None) -> SubprocessEngine:
    """Start an engine: command -> engine. It declares its precision itself.

    Raises:
        InputError: it does not start or greet.
    """
    try:
        engine = SubprocessEngine(address)
    except EngineError as error:
        raise InputError(f"stdio:{address}: {error}") from None
    if precision is not None:
        engine.info = dataclasses.replace(engine.info, precision=find_precision(precision).name)
    return engine


def open_kt(address: str, *, precision: str | None = None) -> SubprocessEngine:
    """Start the client of kt-kernel: empty address -> engine."""
    if importlib.util.find_spec("kt_kernel") is None:
        raise InputError("kt: needs kt-kernel: python -m pip install --no-deps kt-kernel")
    return open_stdio(f"{sys.executable} -m conformance.adapters.kt_client", precision=precision)


def _check_hello(info: dict[str, Any]) -> dict[str, Any]:
    if missing := [key for key in ("name", "version", "precision", "ops") if key not in info]:
        raise EngineError(f"hello must say {', '.join(missing)}")
    try:
        find_precision(str(info["precision"]))
    except InputError as error:
        raise EngineError(f"hello: {error}") from None
    if unknown := sorted(set(info["ops"]) - set(oracle.OPERATIONS)):
        raise EngineError(f"there is no operation {', '.join(unknown)}; see k2ref.oracle")
    return info
