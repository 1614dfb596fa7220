"""Failing examples become vectors, and the vectors are run again."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from conformance.__main__ import main
from conformance.calls import arguments, table_of
from conformance.cases import all_cases
from conformance.failures import read_cases
from k2ref.spec import spec_path

WRONG = """
from k2ref import oracle
from k2ref.oracle import expert_ffn
def rotate(x, angle_TZ, **options): return oracle.rotate(x, -angle_TZ, **options)
def moe(x_TD, routing, experts, **options):
    return oracle.moe(x_TD, routing, experts[:1] * len(experts), **options)
"""


@pytest.fixture
def wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "turns_back.py").write_text(WRONG)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "turns_back", raising=False)
    return "turns_back"


def test_failures_of_fresh_inputs_and_of_laws_become_vectors_that_fail_again(
    wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "found"
    asked = ["--only", "rotate", "--only", "moe", "--properties", "--seed", "5"]
    assert main(["run", wrong, *asked, "--save-failures", str(folder)]) == 1
    said = capsys.readouterr().out
    assert "rotate-far@5: saved rotate-far-5" in said
    assert "law-pairs-are-neighbours: saved law-pairs-are-neighbours-5-0" in said
    ids = {case.id for case in read_cases(folder)}
    assert "rotate-far-5" in ids
    assert any(id_.startswith("law-each-expert-counts-5-") for id_ in ids)
    assert not ids & {case.id for case in all_cases(0)}
    assert main(["run", wrong, "--vectors", str(folder)]) == 1
    assert f"passed 0 of {len(ids)} ({len(ids)} fail)" in capsys.readouterr().out
    assert main(["run", "k2ref.oracle", "--vectors", str(folder)]) == 0
    assert f"passed {len(ids)} of {len(ids)}" in capsys.readouterr().out
    (smallest,) = [c for c in read_cases(folder) if c.id == "law-pairs-are-neighbours-5-0"]
    assert np.count_nonzero(smallest.table["x"]) == 1


def test_the_frozen_vectors_can_be_run_from_their_files(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "k2ref.oracle", "--vectors", str(spec_path("vectors"))]) == 0
    cases = [c for c in all_cases(0) if not c.is_question]
    assert f"passed {len(cases)} of {len(cases)}" in capsys.readouterr().out


def test_vectors_with_other_answers_than_the_oracle_are_the_harness_s_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (spec_path("vectors") / "silu.json").read_text(encoding="utf-8")
    (tmp_path / "silu.json").write_text(text.replace("0.7310585786300049", "0.7410585786300049"))
    assert main(["run", "k2ref.oracle", "--vectors", str(tmp_path)]) == 3
    assert "silu-special: expected out is not what the oracle answers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--vectors", "nowhere"], "nowhere: no vectors there"),
        (["--save-failures", "."], ". exists already; give a new folder"),
    ],
)
def test_folders_that_cannot_be_are_said_before_anything_runs(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["run", "k2ref.oracle", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_call_can_be_flattened_and_built_again() -> None:
    for case in (c for c in all_cases(0) if c.op in ("moe", "expert_ffn", "int4_linear", "route")):
        positional, keyword = arguments(case.op, case.table)
        table = table_of(case.op, tuple(positional), keyword)
        again = arguments(case.op, table)
        assert json.dumps([positional, keyword], default=repr) == json.dumps(again, default=repr)
