"""`bisect` names the tensor where an error is made: in our own engine, and in forks of another."""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from conformance.__main__ import main
from conformance.bisect import bisect
from conformance.engine import Namespace, open_engine
from k2ref import oracle
from k2ref.presets import NANO
from k2ref.synth import make_checkpoint
from tests.conformance.forks import FORKS

ROOT = Path(__file__).parents[2]
SMALL = dataclasses.replace(NANO, num_hidden_layers=2, n_routed_experts=16, vocab_size=128)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bisect") / "nano"
    make_checkpoint(directory, SMALL, form="int4", seed=5)
    return directory


def changed(**operations: object) -> Namespace:
    """Make an engine of the oracle with some operations replaced."""
    ours = {name: getattr(oracle, name) for name in oracle.OPERATIONS}
    return Namespace(SimpleNamespace(**{**ours, **operations}), name="changed")


def hot(*args: np.ndarray, scale: float, **kwargs: object) -> np.ndarray:
    return oracle.attend_absorbed(*args, scale=1.01 * scale, **kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("operation", "function", "tap"),
    [
        ("attend_absorbed", hot, "L0.attn.heads"),
        (
            "route",
            lambda logits_TE, bias_E, **kw: oracle.route(logits_TE + bias_E, bias_E, **kw),
            "L1.moe.router.experts",
        ),
        ("rms_norm", lambda x, g, eps, **kw: oracle.rms_norm(x, g, 1e-3), "L0.attn.norm"),
    ],
)
def test_the_first_wrong_tensor_is_named(
    checkpoint: Path, operation: str, function: object, tap: str
) -> None:
    near = next(bisect(changed(**{operation: function}), checkpoint))
    assert near.first is not None
    assert near.first.tap == tap


def test_a_right_engine_has_none(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bisect", "k2ref.oracle", "--checkpoint", str(checkpoint)]) == 0
    assert "tensors agree" in capsys.readouterr().out


def test_an_engine_without_tensors_is_told_what_is_needed(checkpoint: Path) -> None:
    silent = SimpleNamespace(
        load=lambda directory: SimpleNamespace(
            forward=lambda ids_T, position_T: np.zeros((len(ids_T), SMALL.vocab_size), np.float32)
        )
    )
    with pytest.raises(ValueError, match="reports no tensors; bisect needs some of embed"):
        next(bisect(Namespace(silent, name="silent"), checkpoint))


@contextmanager
def restored(module: Any) -> Iterator[None]:
    """Undo afterwards what a patch did to a module and its classes."""
    classes = [c for c in vars(module).values() if isinstance(c, type)]
    kept = [(place, dict(vars(place))) for place in (module, *classes)]
    try:
        yield
    finally:
        for place, before in kept:
            for name, value in before.items():
                if vars(place).get(name) is not value:
                    setattr(place, name, value)


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")  # of the library
@pytest.mark.parametrize("name", FORKS)
def test_a_bug_planted_in_transformers_is_named_at_its_tensor(
    checkpoint: Path, tmp_path: Path, name: str
) -> None:
    pytest.importorskip("transformers", reason="transformers is of the extra `peers`")
    from transformers.models.deepseek_v3 import modeling_deepseek_v3

    patch = tmp_path / "fork.py"
    patch.write_text(FORKS[name].source)
    with restored(modeling_deepseek_v3):
        near = next(bisect(open_engine(f"hf:,patch={patch}"), checkpoint))
    assert near.first is not None
    assert near.first.tap == FORKS[name].tap


@pytest.mark.peer
def test_the_command_names_a_fork_s_bug(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is of the extra `peers`")
    patch = tmp_path / "fork.py"
    patch.write_text(FORKS["rs2"].source)
    command = [sys.executable, "-m", "conformance", "bisect", f"hf:{checkpoint},patch={patch}"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 1, run.stderr
    assert run.stdout.count("first tensor that differs is L1.moe.router.weights") == 2
