"""Foreign engines, run for real: each agrees with the reference where it says it does."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from conformance.__main__ import main
from conformance.compare import (
    NMSE_LIMIT,
    divergence,
    find_precision,
    gaps_agree,
    log_probabilities,
    nmse,
)
from conformance.correct import FOREIGN
from conformance.engine import Engine, NotOffered, Runner, open_engine
from conformance.suite import MODEL_LEVELS, OPERATION_LEVELS, Plan, line, run_suite
from k2ref import Checkpoint, InputError, Model
from k2ref.presets import PRESETS
from k2ref.synth import make_checkpoint

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]  # foreign warnings

FLOAT32 = ("hf:", "mlx:", "gguf:")
ENGINES: list[Engine] = []
IDS_T = np.random.default_rng(0).integers(0, 1024, 48)


@cache
def opened(address: str) -> Engine:
    """Open an engine, or skip with what is missing."""
    try:
        engine = open_engine(address)
    except InputError as error:
        pytest.skip(str(error))
    ENGINES.append(engine)
    return engine


@pytest.fixture(scope="module", autouse=True)
def closing() -> Iterator[None]:
    yield
    for engine in ENGINES:
        engine.close()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("peers")
    for profile in ("nano", "kernel"):
        make_checkpoint(folder / profile, PRESETS[profile], form="int4", seed=7)
    return {profile: folder / profile for profile in ("nano", "kernel")}


@cache
def loaded(engine: Engine, directory: Path) -> Runner:
    runner = engine.load(directory)
    assert runner is not None
    return runner


def disagreement(engine: Engine, directory: Path, position_T: np.ndarray) -> float:
    """Run both and measure: engine, directory, position_T -> NMSE of logits (or log-probs)."""
    runner = loaded(engine, directory)
    found_TW = runner.forward(IDS_T, position_T)
    reference = Model(
        Checkpoint(directory),
        dtype=np.float64,
        numerics=engine.info.numerics,
        inv_freq_Z=getattr(runner, "inv_freq_Z", None),
    )
    expected_TW = reference.forward(IDS_T, position_T)
    if getattr(runner, "normalised", False):
        expected_TW = log_probabilities(expected_TW)
    return nmse(found_TW, expected_TW)


@pytest.mark.parametrize("profile", ["nano", "kernel"])
@pytest.mark.parametrize("start", [0, 5000, 200_000, 262_143 - 47])
@pytest.mark.parametrize("address", FLOAT32)
def test_a_float32_engine_agrees_at_every_position_it_takes(
    checkpoints: dict[str, Path], address: str, start: int, profile: str
) -> None:
    engine = opened(address)
    try:
        share = disagreement(engine, checkpoints[profile], np.arange(48) + start)
    except NotOffered as reason:
        assert address == "gguf:"
        assert start > 0
        pytest.skip(str(reason))
    assert share <= NMSE_LIMIT


@pytest.mark.parametrize(
    ("address", "profile"),
    [
        *((address, profile) for address in FLOAT32 for profile in ("nano", "kernel")),
        ("hf:dtype=bfloat16", "nano"),
        ("hf:weights=shipped", "nano"),
        ("gguf:experts=q4_0", "nano"),
    ],
)
def test_the_suite_accuses_no_correct_engine(
    checkpoints: dict[str, Path], address: str, profile: str
) -> None:
    levels = MODEL_LEVELS | (OPERATION_LEVELS if profile == "nano" else set())
    plan = Plan(levels=levels, checkpoint=checkpoints[profile], seed=3)
    run = run_suite(opened(address), plan)
    wrong = [line(r) for r in run.results if r.verdict.failed or r.verdict == "harness_error"]
    assert not wrong, "\n".join(wrong)
    assert any(r.verdict == "pass" and r.level == "L4" for r in run.results)


@pytest.mark.timeout(1200)
def test_the_zoo_of_correct_engines_passes_every_level_and_law(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["mutants", "--zoo"]) == 0
    shown = capsys.readouterr().out
    assert " correct engines accused" in shown
    for addresses in FOREIGN.values():
        assert all(address in shown for address in addresses)


@pytest.mark.parametrize("address", ["hf:", "mlx:"])
def test_scattered_positions_are_no_packed_sequences(
    checkpoints: dict[str, Path], address: str
) -> None:
    position_T = np.sort(np.random.default_rng(1).choice(262_144, 48, replace=False))
    assert disagreement(opened(address), checkpoints["nano"], position_T) <= NMSE_LIMIT


def test_llama_cpp_without_the_hint_computes_another_model(checkpoints: dict[str, Path]) -> None:
    engine = opened("gguf:beta_fast=32")
    assert disagreement(engine, checkpoints["nano"], np.arange(48)) > 1e6 * NMSE_LIMIT


def test_int4_repacked_as_q4_0_keeps_every_weight_and_stays_near(
    checkpoints: dict[str, Path],
) -> None:
    engine = opened("gguf:experts=q4_0")
    runner = loaded(engine, checkpoints["nano"])
    found_TW = runner.forward(IDS_T, np.arange(48))
    expected_TW = Model(Checkpoint(checkpoints["nano"]), dtype=np.float64).forward(IDS_T)
    # 8-bit activations: some flips of experts, mean KL 1e-3 … 2e-2; a wrong nibble order gives > 1
    assert divergence(found_TW, expected_TW).mean() < 0.1


@pytest.mark.parametrize("options", ["dtype=bfloat16", "weights=shipped"])
def test_the_librarys_own_int4_loader_stays_near(
    checkpoints: dict[str, Path], options: str
) -> None:
    engine = opened(f"hf:{options}")
    assert engine.info.precision == "bf16"
    runner = loaded(engine, checkpoints["nano"])
    found_TW = runner.forward(IDS_T, np.arange(48))
    expected_TW = Model(Checkpoint(checkpoints["nano"]), dtype=np.float64).forward(IDS_T)
    assert divergence(found_TW, expected_TW).mean() < 0.3  # experts flip in bfloat16


@pytest.mark.parametrize("address", FLOAT32)
def test_greedy_tokens_are_near_the_best(checkpoints: dict[str, Path], address: str) -> None:
    runner = loaded(opened(address), checkpoints["nano"])
    new = runner.generate(IDS_T, max_new=8)  # type: ignore[attr-defined]
    reference = Model(Checkpoint(checkpoints["nano"]), dtype=np.float64)
    logits_TW = reference.forward(np.concatenate([IDS_T, new]))[len(IDS_T) - 1 : -1]
    found = gaps_agree(logits_TW, np.array(new), find_precision("f32"))
    assert not found.verdict.failed, found.message


def test_the_experts_of_kt_kernel_pass_on_the_packed_bytes() -> None:
    run = run_suite(opened("kt:"), Plan(levels=OPERATION_LEVELS, only=("moe",), seed=3))
    assert {r.verdict for r in run.results} == {"pass"}, [line(r) for r in run.results]
