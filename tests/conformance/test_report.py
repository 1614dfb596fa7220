"""Reports, exchange formats, badges and differences, from results alone."""

import dataclasses
import json
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from conformance.__main__ import main
from conformance.report.commands import differences
from conformance.report.exchange import badge, write_badge, write_ctrf, write_junit
from conformance.report.page import page, write_html
from conformance.report.svg import LogAxis
from conformance.results import Result, Run, Verdict, save_run

NASTY = "</td><script>alert(1)</script>\x00"


def result(case: str, verdict: Verdict, **figures: object) -> Result:
    known = {"requirement": "norm:eps", "level": "L2", "op": "rms_norm", **figures}
    return Result(case, verdict=verdict, **known)  # type: ignore[arg-type]


def a_run(*results: Result) -> Run:
    engine = {"name": "tiny <engine>", "version": "1", "precision": "f32", "notes": {}}
    return Run(engine, results, "abcdef", 7, {"python": "3"})


RUN = a_run(
    result("norm-1", Verdict.PASS, tau=0.8, bound_use=0.1, seconds=0.5),
    result("norm-2", Verdict.LOOSE, tau=8.0, bound_use=0.4),
    result("norm-3", Verdict.FAIL, tau=5e5, message=NASTY),
    result("norm-4", Verdict.ERRORED, message="died"),
    result("norm-5", Verdict.SKIPPED, message="not offered"),
    result("ties", Verdict.QUESTION, message="-inf"),
    result(
        "layer-attention-far",
        Verdict.PASS,
        level="L3",
        op="forward",
        requirement="layer:attention",
        tau=1.0,
        data={"tau_by_tap": {"L0.attn.norm": 0.5, "embed": 0.0}, "angle_error": [[9, 1e-7, 1e-6]]},
    ),
    result(
        "model-routing-near",
        Verdict.PASS,
        level="L4",
        op="forward",
        requirement="model:routing",
        rule="flips",
        measure=0.0,
        data={"margins": [1e-7, 1e-3, 0.02], "near_tie_flips": 1},
    ),
)


class Balanced(HTMLParser):
    """Counts what is drawn, and scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: dict[str, int] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1


def test_the_page_has_its_figures_and_runs_nothing_it_was_told() -> None:
    seen = Balanced(page(RUN)).seen
    assert seen["svg"] == 4
    assert "script" not in seen
    assert seen["circle"] >= 6


def test_the_page_is_one_file_that_loads_nothing() -> None:
    text = page(RUN)
    assert "http://www.w3.org/2000/svg" in text
    for word in ("src=", "href=", "@import", "url("):
        assert word not in text


def test_the_kill_matrix_is_drawn_where_there_is_one() -> None:
    row = {"precision": "f32", "seen_by": {"L2": ["norm-1"], "L4": []}}
    matrix = {"correct": [{"name": "oracle", **row}], "bugs": [{"name": "rs2", **row}]}
    seen = Balanced(page(RUN, matrix)).seen
    assert seen["svg"] == 5
    assert seen["rect"] > 20


def test_a_run_without_figures_still_makes_a_page(tmp_path: Path) -> None:
    write_html(tmp_path / "page.html", a_run(result("a", Verdict.SKIPPED)))
    assert "No failure" in (tmp_path / "page.html").read_text()


def test_junit_counts_failures_errors_and_skips_apart(tmp_path: Path) -> None:
    write_junit(tmp_path / "junit.xml", RUN)
    suites = {s.get("name"): s for s in ElementTree.parse(tmp_path / "junit.xml").getroot()}
    found = {k: suites["L2"].get(k) for k in ("tests", "failures", "errors", "skipped")}
    assert found == {"tests": "6", "failures": "1", "errors": "1", "skipped": "2"}
    assert suites["L2"].find("testcase/failure") is not None


def test_ctrf_sums_to_its_tests(tmp_path: Path) -> None:
    write_ctrf(tmp_path / "ctrf.json", RUN)
    results = json.loads((tmp_path / "ctrf.json").read_text())["results"]
    summary = results["summary"]
    states = ("passed", "failed", "skipped", "pending", "other")
    assert summary["tests"] == len(results["tests"]) == sum(summary[s] for s in states) == 8
    assert (summary["passed"], summary["failed"]) == (4, 2)


def test_a_badge_keeps_skips_in_the_denominator_and_names_failures(tmp_path: Path) -> None:
    message, colour = badge(RUN)
    assert message == "f32 4/7, 2 failed"
    assert badge(a_run(result("a", Verdict.PASS)))[1] != colour
    write_badge(tmp_path / "badge.svg", RUN)
    ElementTree.parse(tmp_path / "badge.svg")
    write_badge(tmp_path / "badge.json", RUN)
    assert json.loads((tmp_path / "badge.json").read_text())["schemaVersion"] == 1


def test_a_difference_is_worse_only_where_a_case_got_worse() -> None:
    before = a_run(
        result("a", Verdict.PASS, tau=1.0),
        result("b", Verdict.FAIL),
        result("c", Verdict.PASS, tau=1.0),
        result("d@1", Verdict.PASS),
        result("e", Verdict.PASS),
    )
    after = a_run(
        result("a", Verdict.FAIL, message="now wrong"),
        result("b", Verdict.PASS),
        result("c", Verdict.PASS, tau=3.0),
        result("d@2", Verdict.PASS),
        result("e", Verdict.SKIPPED),
    )
    assert differences(before, after) == [
        (True, "a: pass -> fail  now wrong"),
        (True, "e: pass -> skipped"),
        (False, "b: fail -> pass"),
        (False, "c: 1 -> 3 sigma"),
    ]


def test_the_commands_write_what_they_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = tmp_path / "run.jsonl"
    save_run(stored, RUN)
    assert main(["report", str(stored), "--html", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text() == page(RUN)
    assert main(["badge", str(stored)]) == 0
    assert capsys.readouterr().out == "f32 4/7, 2 failed\n"
    assert main(["diff", str(stored), str(stored)]) == 0
    assert main(["report", str(stored)]) == 2
    assert "say what to write" in capsys.readouterr().err


def test_a_logarithmic_axis_keeps_everything_on_the_page() -> None:
    axis = LogAxis(-2, 2, 0, 100)
    places = [axis.place(v) for v in (0.0, 1e-9, 0.01, 1.0, 100.0, 1e9, float("inf"))]
    assert places == [0, 0, 0, 50, 100, 100, 100]


def test_the_page_says_which_operations_were_not_offered() -> None:
    blank = Result("silu-calm", "act:silu", "L2", Verdict.SKIPPED, op="silu")
    passed = dataclasses.replace(blank, op="moe", verdict=Verdict.PASS)
    other = dataclasses.replace(blank, op="moe")
    engine = {"name": "e", "version": "1", "precision": "f32"}
    assert "Not offered, so skipped: silu." in page(Run(engine, (blank, passed, other)))
    assert "Not offered" not in page(Run(engine, (passed, other)))
