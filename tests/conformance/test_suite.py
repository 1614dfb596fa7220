"""The suite put to right engines, to partial ones, and to engines that behave badly."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import pytest

from conformance.__main__ import main
from conformance.cases import all_cases
from conformance.engine import Namespace
from conformance.noise import zoo
from conformance.results import Verdict, count
from conformance.suite import Plan, line, run_suite
from conformance.variant import Variant
from k2ref import oracle

OPERATIONS = frozenset({"L0", "L1", "L2"})


def verdicts(engine: Any, *, precision: str = "f32", seed: int = 5) -> dict[str, int]:
    run = run_suite(Namespace(engine, precision=precision), Plan(OPERATIONS, seed=seed))
    return {k.value: n for k, n in count(run.results).items() if n}


@pytest.mark.parametrize("precision", ["f64", "f32", "bf16"])
def test_the_reference_passes_its_own_operations(precision: str) -> None:
    assert set(verdicts(oracle, precision=precision)) == {"pass", "question"}


@pytest.mark.parametrize(
    ("precision", "name"), [(p, name) for p in ("f32", "bf16") for name in zoo(p)]
)
def test_no_correct_way_to_compute_is_accused(precision: str, name: str) -> None:
    engine = Variant(zoo(precision)[name])
    assert set(verdicts(engine, precision=precision)) <= {"pass", "loose", "question"}


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_correct_engine_passes_layers_and_logits(precision: str) -> None:
    run = run_suite(Namespace(oracle, precision=precision), Plan(frozenset({"L3", "L4"}), seed=3))
    assert not [r for r in run.results if r.verdict.failed]
    passed = {r.requirement for r in run.results if r.verdict in (Verdict.PASS, Verdict.LOOSE)}
    assert passed >= {"layer:attention", "layer:router", "layer:feed-forward", "model:logits"}


def test_what_is_not_offered_is_skipped_and_stays_in_the_denominator() -> None:
    run = run_suite(Namespace(SimpleNamespace(silu=oracle.silu)), Plan(seed=1))
    found = count(run.results)
    assert found[Verdict.PASS] == 8
    assert found[Verdict.SKIPPED] == len(run.results) - 8


def spoil(op: str, change: Any) -> SimpleNamespace:
    """Wrap one operation of the oracle: name, change of its answer -> engine."""
    original = getattr(oracle, op)
    return SimpleNamespace(**{op: lambda *a, **k: change(original(*a, **k))})


def raises(_: object) -> None:
    raise RuntimeError("kernel not found")


BAD = {
    "raises": (raises, "errored", "RuntimeError: kernel not found"),
    "nothing": (lambda y: None, "errored", "wanted"),
    "shape": (lambda y: y[:, :-1], "errored", "wanted shape"),
    "integers": (lambda y: y.astype(np.int32), "errored", "wanted floating-point numbers"),
    "text": (lambda y: np.array(["a"]), "errored", "wanted"),
    "zeros": (np.zeros_like, "fail", "wanted"),
    "constant": (np.ones_like, "fail", "wanted"),
    "nan": (lambda y: np.full_like(y, np.nan), "fail", "NaN or infinity"),
    "shuffled": (lambda y: y[:, ::-1], "fail", "wanted"),
    "lower": (lambda y: y.astype(ml_dtypes.bfloat16).astype(np.float32), "fail", "sigma"),
    "wider": (lambda y: y.astype(np.float64) * (1 + 2.0**-30), "fail", "declared f32"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_engine_is_a_result_and_no_crash(kind: str) -> None:
    change, verdict, words = BAD[kind]
    plan = Plan(OPERATIONS, only=("rms_norm-ordinary",), seed=2)
    run = run_suite(Namespace(spoil("rms_norm", change)), plan)
    assert [r.verdict.value for r in run.results] == [verdict] * 2
    assert words in run.results[0].message


def test_an_engine_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conformance.engine.attempt.__kwdefaults__", {"timeout_s": 0.05})
    engine = SimpleNamespace(silu=lambda x: time.sleep(0.5))
    run = run_suite(Namespace(engine), Plan(only=("silu-calm",), seed=2))
    assert [r.verdict for r in run.results] == [Verdict.ERRORED] * 2
    assert "no answer within 0.05 s" in run.results[0].message


def test_memorised_answers_fail_on_fresh_inputs() -> None:
    answers = {c.table["x_TD"].tobytes(): c for c in all_cases(0) if c.op == "rms_norm"}

    def rms_norm(x_TD: np.ndarray, gain_D: np.ndarray, eps: float) -> np.ndarray:
        known = x_TD.tobytes() in answers
        return oracle.rms_norm(x_TD, gain_D, eps) if known else np.zeros_like(x_TD)

    engine = Namespace(SimpleNamespace(rms_norm=rms_norm))
    run = run_suite(engine, Plan(OPERATIONS, only=("rms_norm",), seed=9))
    frozen = [r for r in run.results if r.seed == 0]
    fresh = [r for r in run.results if r.seed == 9 and "millis" not in r.case]
    assert {r.verdict for r in frozen} == {Verdict.PASS}
    assert {r.verdict for r in fresh} == {Verdict.FAIL}


def test_the_command_prints_each_case_and_gives_the_exit_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "k2ref.oracle", "--only", "silu", "--seed", "1"]) == 0
    out = capsys.readouterr().out
    assert "silu-special" in out
    assert "passed 8 of 8" in out
    assert main(["run", "k2ref.oracle", "--only", "nothing:such"]) == 2
    assert "no requirement 'nothing:such'" in capsys.readouterr().err
    assert main(["run", "k2ref.oracle", "--only", "nothing"]) == 2
    assert main(["smoke", "k2ref.oracle"]) == 0
    assert "the harness works" in capsys.readouterr().out


@pytest.mark.parametrize("bound", [False, True])
def test_generation_runs_on_a_tiny_model_where_the_engine_is_free_to_load_one(
    tmp_path: Path, bound: bool
) -> None:
    class Silent:
        def forward(self, ids_T: Any, position_T: Any) -> None:
            raise AssertionError("generation asks generate")

    class Served(Namespace):
        checkpoint = tmp_path
        loaded: ClassVar[list[Path]] = []

        def load(self, directory: Path) -> Any:
            self.loaded.append(directory)
            return None if bound and directory != tmp_path else Silent()

    engine = Served(SimpleNamespace())
    engine.loaded.clear()
    run = run_suite(engine, Plan(levels=frozenset({"L5"}), seed=1))
    assert {r.message for r in run.results} == {"the engine offers no generate"}
    assert (engine.loaded[-1] == tmp_path) is bound


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_reference_passes_the_wide_profile() -> None:
    run = run_suite(Namespace(oracle), Plan(profile="wide", seed=1))
    assert [line(r) for r in run.results if r.verdict is not Verdict.PASS] == []
    assert len(run.results) == 7
    assert all(r.case.endswith("-wide@1") for r in run.results)
