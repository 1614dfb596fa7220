"""The kit against itself: every known bug is seen, and no correct engine accused."""

from pathlib import Path

import pytest

from conformance.__main__ import main
from conformance.cases import all_cases
from conformance.checks.laws import check_model_laws
from conformance.checks.model import Noise, check_model
from conformance.checks.operations import check_operations
from conformance.correct import correct_engines
from conformance.mutants import (
    BUGS,
    Matrix,
    Row,
    correct_noise,
    engine_with,
    examine_foreign,
    kill_matrix,
)
from conformance.profiles import build
from conformance.results import Verdict

DESIGN = {
    "format": "nib_rev nib_swap no_offset off7 twos scale_shift scale_T g64 scale_fp8 drop_tail "
    "requant128",
    "norm": "eps1e-5 eps1e-3 eps_out gain1p layernorm rms_bf16 no_qnorm no_kvnorm",
    "rope": "halfsplit pos+1 qpos+1 theta1e4 noyarn factor32 bfast32 ramp_inv yarn_linear "
    "mscale_rope sin_neg pos_bf16 cs_bf16 rope_first",
    "attention": "scale_nope no_mscale mscale1 mask+1 mask-1 window chunk_gap kvb_swap head_T "
    "head_rev kv_fp8",
    "router": "softmax no_bias bias_w bias_pre bias_bf16 router_bf16 topk-1 no_norm norm_all "
    "no_rs rs2 rs2.5 idx+1 w_unsorted",
    "model": "no_shared shared_rs shared_x2 gate_up gelu qgelu noup clamp fp16mid capacity "
    "ep_lost no_resid2 no_fn tied",
}


def test_the_bugs_of_the_design_are_there_and_more() -> None:
    named = [name for area in DESIGN.values() for name in area.split()]
    assert len(named) == 72
    assert set(named) <= set(BUGS)
    assert len(BUGS) >= 95
    assert all(bug.proof for bug in BUGS.values() if bug.legal_in)
    assert all(bug.ops or bug.model for bug in BUGS.values())


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_every_bug_of_an_operation_is_seen_by_operations(precision: str) -> None:
    missed = [
        name
        for name, bug in BUGS.items()
        if bug.ops
        and precision not in bug.legal_in
        and not any(
            r.verdict.failed for r in check_operations(engine_with(bug, precision), all_cases(0))
        )
    ]
    assert missed == []


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Noise]:
    checkpoint = build(tmp_path_factory.mktemp("nano"), "nano", seed=0)
    return checkpoint, correct_noise(checkpoint, "bf16", seed=0)


@pytest.mark.parametrize("name", ["qpos+1", "noyarn", "yarn_by_len", "shared_rs", "last_layer"])
def test_bugs_between_operations_are_seen_by_layers(name: str, nano: tuple[Path, Noise]) -> None:
    checkpoint, noise = nano
    levels = frozenset({"L3"})
    engine = engine_with(BUGS[name], "bf16")
    results = check_model(engine, checkpoint, seed=0, levels=levels, noise=noise)
    assert [r for r in results if r.verdict is Verdict.FAIL]


def test_laws_of_models_hold_for_a_correct_engine_and_break_for_a_wrong_one() -> None:
    engine = next(iter(correct_engines("f32")))
    assert [r for r in check_model_laws(engine, seed=1) if r.verdict.failed] == []
    for name, law in (("no_shared", "shared-counts-once"), ("tied", "head-rows")):
        results = check_model_laws(engine_with(BUGS[name], "f32"), seed=1)
        assert f"law-{law}" in {r.case for r in results if r.verdict == "fail"}


def test_gates_say_what_is_missing() -> None:
    matrix = Matrix([Row("rs2", "f32", {"L2": []})], [Row("blas", "bf16", {"L1": ["linear-x"]})])
    low, laws, accused = matrix.broken_gates()
    assert low.startswith("f32: 0.0% of bugs seen, 100% wanted; missed rs2")
    assert laws == "laws: 0.0% seen, 80% wanted"
    assert accused.startswith("bf16: accuses the correct engine blas")


def test_an_engine_that_is_not_installed_is_named_and_no_failure(tmp_path: Path) -> None:
    kind, row = examine_foreign("no_such_engine", "f32", tmp_path, seed=0)
    assert (kind, row.name) == ("missing", "no_such_engine")
    assert row.note.startswith("no engine no_such_engine")
    assert Matrix([], [], [row]).broken_gates() == []


def test_an_unknown_bug_is_an_error_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mutants", "--only", "nothing"]) == 2
    assert "no bug 'nothing'; the bugs are nib_rev" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_the_kill_matrix_passes_its_gates(precision: str) -> None:
    matrix = Matrix([], [])
    for kind, row in kill_matrix(BUGS, [precision]):
        getattr(matrix, kind).append(row)
    assert matrix.broken_gates() == []
