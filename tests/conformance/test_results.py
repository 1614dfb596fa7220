"""Runs survive a file, and baselines stay honest."""

from datetime import date
from pathlib import Path

import pytest

from conformance.baseline import Exit, Known, exit_code, load_baseline, stale
from conformance.results import Agreement, Result, Run, Verdict, load_run, save_run
from k2ref.errors import InputError

TODAY = date(2026, 11, 24)


def result(verdict: Verdict, case: str = "route-001") -> Result:
    return Result(case, "route:bias-never-weighs", "L2", verdict)


def test_a_run_is_the_same_after_a_file(tmp_path: Path) -> None:
    agreement = Agreement(Verdict.FAIL, "noise", float("inf"), 6.0, (1, 2), float("inf"))
    one = result(Verdict.PASS).agreeing(agreement)
    run = Run({"name": "e"}, (one, result(Verdict.SKIPPED)), "abc", 7, {"python": "3"})
    save_run(tmp_path / "r.jsonl", run)
    assert load_run(tmp_path / "r.jsonl") == run


def test_a_file_that_is_no_run_is_refused(tmp_path: Path) -> None:
    for text in ("", "{}", '{"schema": "results.0"}', "[1]", "not json"):
        (tmp_path / "r.jsonl").write_text(text)
        with pytest.raises(InputError, match=r"not a run of schema results\.1"):
            load_run(tmp_path / "r.jsonl")


@pytest.mark.parametrize(
    ("verdicts", "known", "code"),
    [
        ([Verdict.PASS, Verdict.LOOSE, Verdict.SKIPPED, Verdict.QUESTION], [], Exit.OK),
        ([Verdict.FAIL], [], Exit.REGRESSION),
        ([Verdict.ERRORED], [], Exit.REGRESSION),
        ([Verdict.FAIL], [Known("route-001", "r")], Exit.OK),
        ([Verdict.FAIL], [Known("route:bias-never-weighs", "r")], Exit.OK),
        ([Verdict.PASS], [Known("route-001", "r")], Exit.STALE),
        ([Verdict.FAIL], [Known("route-001", "r", expires=date(2026, 1, 1))], Exit.STALE),
        ([Verdict.FAIL], [Known("no-such", "r")], Exit.REGRESSION),
        ([Verdict.PASS], [Known("no-such", "r")], Exit.STALE),
        ([Verdict.INCONCLUSIVE], [], Exit.INCONCLUSIVE),
        ([Verdict.FAIL, Verdict.HARNESS_ERROR], [], Exit.HARNESS),
    ],
)
def test_the_exit_code_names_the_gravest(
    verdicts: list[Verdict], known: list[Known], code: Exit
) -> None:
    assert exit_code([result(v) for v in verdicts], known, today=TODAY) is code


def test_a_stale_entry_is_named() -> None:
    (sentence,) = stale([Known("route-001", "r")], [result(Verdict.PASS)], today=TODAY)
    assert sentence == "route-001: listed as failing, and passes"


def test_a_baseline_without_reason_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "k2conf-baseline.toml"
    path.write_text('[[known]]\ncase = "route-001"\nreason = "r"\nexpires = 2027-01-01\n')
    assert load_baseline(path) == [Known("route-001", "r", expires=date(2027, 1, 1))]
    for text in ('[[known]]\ncase = "a"\n', "[[known", '[[other]]\ncase = "a"\n'):
        path.write_text(text)
        with pytest.raises(InputError, match="wanted \\[\\[known\\]\\] with case and reason"):
            load_baseline(path)
