"""Generation: right samplers pass, and each mistake of a sampler is named."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from conformance.checks.generation import check_generation
from conformance.engine import Namespace, open_engine
from conformance.profiles import build_tiny
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
    assert [r.verdict.value for r in results] == ["pass"] * 3


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


def test_a_low_precision_is_not_accused_by_its_tokens() -> None:
    engine = open_engine("k2ref.oracle", precision="bf16")
    results = list(check_generation(engine, Path("unused"), seed=0))
    assert {r.verdict for r in results} == {"skipped"}
    assert "float32 decides" in results[0].message
