"""A wrong row of what an engine wrote as a file: where to read it, and what it should be."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from conformance.bisect import judge_taps
from conformance.checks.observe import Observed, observe
from conformance.compare import NMSE_LIMIT, TAU_LIMIT, find_precision, log_probabilities
from conformance.engine import Engine, NotOffered
from conformance.forcing import Forced, Reference, stage_noise
from conformance.profiles import Prompt, prompts
from conformance.repro.operation import HERE, fill
from conformance.repro.text import literal
from k2ref.errors import InputError


class Wrong(NamedTuple):
    """One tensor of one prompt that is wrong, what it should be, and how far each row may be."""

    prompt: Prompt
    tensor: str
    message: str
    found: np.ndarray
    expected: np.ndarray
    allowed: np.ndarray
    normalised: bool = False


def script(engine: Engine, address: str, case: str | None) -> str:
    """Write the file: engine, its address, prompt or none -> Python text."""
    wrong = _find(engine, case)
    error = np.sqrt(np.mean(np.square(wrong.found - np.float64(wrong.expected)), axis=-1))
    place = np.unravel_index(int(np.argmax(error / wrong.allowed)), error.shape)
    path = Path(address.partition(":")[2]).resolve() / "outputs"
    token = place[0]
    fields = {
        "title": f"{engine.info.name} {engine.info.version}: {wrong.tensor} differs.",
        "message": wrong.message,
        "file": repr(str(path / f"{wrong.prompt.name}.safetensors")),
        "tensor": repr(wrong.tensor),
        "row": repr([int(p) for p in place]),
        "ids": repr(wrong.prompt.ids_T[: token + 1].tolist()),
        "positions": repr(wrong.prompt.position_T[: token + 1].tolist()),
        "expected": literal(np.float64(wrong.expected[place])),
        "allowed": repr(float(wrong.allowed[place])),
        "normalised": repr(wrong.normalised),
    }
    return fill((HERE / "dumped.py.txt").read_text("utf-8"), fields)


def _find(engine: Engine, case: str | None) -> Wrong:
    checkpoint: Path = engine.checkpoint  # type: ignore[attr-defined]
    seed: int = engine.seed  # type: ignore[attr-defined]
    runner = engine.load(checkpoint)
    assert runner is not None
    for prompt in prompts(checkpoint, seed):
        if case and prompt.name not in case:
            continue
        try:
            observed = observe(runner, prompt, checkpoint)
        except NotOffered:
            continue
        taps = set(observed.taps) - {"logits"}
        look = _wrong_tap if taps else _wrong_logits
        if (wrong := look(engine, checkpoint, prompt, observed)) is not None:
            return wrong
    raise InputError(f"nothing that {engine.info.name} wrote is wrong" + (f": {case}" * bool(case)))


def _wrong_tap(
    engine: Engine, checkpoint: Path, prompt: Prompt, observed: Observed
) -> Wrong | None:
    first = judge_taps(engine, checkpoint, prompt, observed).first
    if first is None:
        return None
    reference = Reference(checkpoint, engine.info.numerics)
    where = prompt.ids_T, prompt.position_T
    expected = Forced(reference.model(), observed.taps).run(*where)[first.tap]
    found = observed.taps[first.tap].astype(np.float64)
    if first.tap.endswith(".experts"):
        expected, found = np.sort(expected, axis=-1), np.sort(found, axis=-1)
        allowed = np.full(len(expected), 2.0**-10)
    else:
        precision = find_precision(engine.info.precision)
        allowed = TAU_LIMIT * stage_noise(reference, *where, observed.taps, precision)[first.tap]
    message = first.agreement.message
    return Wrong(prompt, first.tap, message, found, expected, np.maximum(allowed, 1e-300))


def _wrong_logits(
    engine: Engine, checkpoint: Path, prompt: Prompt, observed: Observed
) -> Wrong | None:
    """Judge logits by themselves, where no other tensor was written; in float32 only."""
    if find_precision(engine.info.precision).store > 2.0**-20:
        raise InputError("logits of a low precision are graded, not judged; write tensors as well")
    model = Reference(checkpoint, engine.info.numerics).model()
    expected = model.forward(prompt.ids_T, prompt.position_T)
    found = observed.logits_TW.astype(np.float64)
    if observed.normalised:
        expected, found = log_probabilities(expected), log_probabilities(found)
    allowed_T = NMSE_LIMIT**0.5 * np.sqrt(np.mean(np.square(expected), axis=-1))
    error_T = np.sqrt(np.mean(np.square(found - expected), axis=-1))
    if (error_T <= allowed_T).all():
        return None
    message = "no other tensor was written, so the first wrong one cannot be named"
    where = prompt, "logits_TW", message
    return Wrong(*where, found, expected, allowed_T, observed.normalised)
