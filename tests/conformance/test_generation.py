"""Generation: right samplers pass, and each mistake of a sampler is named."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from conformance.bugs import Bug
from conformance.checks.generation import check_generation, with_stop
from conformance.engine import Namespace
from conformance.mutants import BUGS, engine_with
from conformance.noise import zoo
from conformance.profiles import build_tiny
from conformance.sampler import Sampler
from conformance.variant import Variant
from k2ref import oracle
from k2ref.checkpoint import Checkpoint
from k2ref.generate import Sampling, generate
from k2ref.model import Model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("tiny"), seed=4)


def verdicts(checkpoint: Path, change: Callable[..., Any] | None) -> dict[str, str]:
    """Run an engine whose generate is changed: change(model, ids, max_new, sampling) -> ids."""

    def load(directory: Path) -> SimpleNamespace:
        model = Model(Checkpoint(directory))

        def generated(ids_T: np.ndarray, *, max_new: int, seed: int = 0, **kw: float) -> Any:
            assert change
            return change(model, ids_T, max_new, Sampling(seed=seed, **kw))

        offered = {"generate": generated} if change else {}
        return SimpleNamespace(forward=model.forward, **offered)

    results = check_generation(Namespace(SimpleNamespace(load=load)), checkpoint, seed=4)
    return {r.requirement.removeprefix("gen:"): r.verdict.value for r in results}


def right(model: Model, ids_T: np.ndarray, max_new: int, sampling: Sampling) -> list[int]:
    return list(generate(model, ids_T, max_new=max_new, sampling=sampling))


def test_a_right_sampler_passes(checkpoint: Path) -> None:
    results = list(check_generation(Namespace(oracle), checkpoint, seed=4))
    assert [r.verdict.value for r in results] == ["pass"] * 5


def test_counts_say_what_they_would_see(checkpoint: Path) -> None:
    results = list(check_generation(Namespace(oracle), checkpoint, seed=4))
    (counted,) = [r for r in results if r.requirement == "gen:distribution"]
    assert counted.data["draws_top_p_1.0"] == 10_000
    assert counted.data["sees_kl_top_p_1.0"] < 0.01
    assert counted.message.startswith("10000 draws see a divergence of 0.00")


def test_a_stop_id_is_put_into_a_linked_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    changed = with_stop(checkpoint, tmp_path / "stops", 7)
    assert Checkpoint(changed).config.stops == (7,)
    assert (changed / "model-00001.safetensors").is_symlink()
    assert Checkpoint(checkpoint).config.stops == (2,)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize(
    ("name", "requirement"),
    [
        ("temp_off", "gen:distribution"),
        ("temp_twice", "gen:distribution"),
        ("greedy_draws", "gen:greedy"),
        ("top_p_off", "gen:support"),
        ("top_p_first", "gen:support"),
        ("coarse_random", "gen:distribution"),
        ("seed_off", "gen:seed"),
        ("seed_fresh", "gen:seed"),
        ("eos_off", "gen:stop"),
    ],
)
def test_each_bug_of_a_sampler_is_seen(
    checkpoint: Path, name: str, requirement: str, precision: str
) -> None:
    results = check_generation(engine_with(BUGS[name], precision), checkpoint, seed=4)
    assert requirement in {r.requirement for r in results if r.verdict.failed}


def test_a_sampler_without_a_bug_passes(checkpoint: Path) -> None:
    right = Bug("none", "sampling", "nothing", model=lambda model: Sampler(model).attach())
    results = list(check_generation(engine_with(right, "f32"), checkpoint, seed=4))
    assert {r.verdict.value for r in results} == {"pass"}


def test_an_engine_without_generate_is_skipped(checkpoint: Path) -> None:
    assert set(verdicts(checkpoint, None).values()) == {"skipped"}


def test_a_filter_left_out_is_seen_in_the_support(checkpoint: Path) -> None:
    def no_filter(model: Model, ids_T: np.ndarray, max_new: int, sampling: Sampling) -> list[int]:
        warm = Sampling(sampling.temperature, 1.0, sampling.seed)
        return right(model, ids_T, max_new, warm)

    assert verdicts(checkpoint, no_filter)["support"] == "fail"


def test_a_temperature_ignored_is_seen_in_the_counts(checkpoint: Path) -> None:
    def hot(model: Model, ids_T: np.ndarray, max_new: int, sampling: Sampling) -> list[int]:
        warm = Sampling(3.0 if sampling.temperature else 0.0, sampling.top_p, sampling.seed)
        return right(model, ids_T, max_new, warm)

    found = verdicts(checkpoint, hot)
    assert (found["greedy"], found["distribution"]) == ("pass", "fail")


def test_tokens_that_are_not_the_best_are_seen(checkpoint: Path) -> None:
    def second(model: Model, ids_T: np.ndarray, max_new: int, sampling: Sampling) -> list[int]:
        ids = ids_T.tolist()
        for _ in range(max_new):
            ids.append(int(np.argsort(model.forward(np.array(ids))[-1])[-2]))
        return ids[len(ids_T) :]

    assert verdicts(checkpoint, lambda *a: second(*a[:2], min(a[2], 12), a[3]))["greedy"] == "fail"


def test_answers_that_are_no_ids_are_errors(checkpoint: Path) -> None:
    for answer in ([5000], [], [[1]], [0.5], [-1], [7]):
        found = verdicts(checkpoint, lambda *_, answer=answer: answer)
        assert found["greedy"] == "errored"


def test_a_low_precision_is_judged_with_its_routing_and_not_without(checkpoint: Path) -> None:
    variant = Variant(zoo("bf16")["stored"])
    results = list(check_generation(Namespace(variant, precision="bf16"), checkpoint, seed=4))
    assert {r.verdict.value for r in results} == {"pass"}
    assert "gap_before_replay" in results[0].data

    def load(directory: Path) -> SimpleNamespace:
        model = Model(Checkpoint(directory), ops=variant, dtype=ml_dtypes.bfloat16)
        said = Sampler(model)
        return SimpleNamespace(
            forward=lambda ids_T, position_T: model.forward(ids_T, position_T),
            generate=said.generate,
        )

    silent = Namespace(SimpleNamespace(load=load), precision="bf16")
    found = {r.requirement: r for r in check_generation(silent, checkpoint, seed=4)}
    assert found["gen:greedy"].verdict == "skipped"
    assert "does not report the routing" in found["gen:greedy"].message
    assert found["gen:stop"].verdict == "pass"
