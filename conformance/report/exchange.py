"""A run in the formats that other tools read: JUnit XML, CTRF JSON, a badge as JSON and SVG."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from conformance.report.svg import svg, text
from conformance.results import Result, Run, Verdict, count

CTRF = {
    Verdict.PASS: "passed",
    Verdict.LOOSE: "passed",
    Verdict.FAIL: "failed",
    Verdict.ERRORED: "failed",
    Verdict.SKIPPED: "skipped",
    Verdict.QUESTION: "other",
    Verdict.INCONCLUSIVE: "other",
    Verdict.HARNESS_ERROR: "failed",
}
GREEN, RED, AMBER = "#2e7d32", "#c62828", "#b26a00"
NOT_IN_XML = {c: "�" for c in range(32) if c not in (9, 10, 13)}


def write_junit(path: Path, run: Run) -> None:
    """Write JUnit XML, one suite per level: path, run."""
    root = ElementTree.Element("testsuites", name=f"k2conf {run.engine['name']}")
    for level in sorted({r.level for r in run.results}):
        results = [r for r in run.results if r.level == level]
        counts = count(results)
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=level or "harness",
            tests=str(len(results)),
            failures=str(counts[Verdict.FAIL]),
            errors=str(counts[Verdict.ERRORED] + counts[Verdict.HARNESS_ERROR]),
            skipped=str(sum(counts[v] for v in _NOT_SCORED)),
            time=f"{sum(r.seconds for r in results):.3f}",
        )
        for result in results:
            _junit_case(suite, result)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


_NOT_SCORED = (Verdict.SKIPPED, Verdict.QUESTION, Verdict.INCONCLUSIVE)
_JUNIT = {
    Verdict.FAIL: "failure",
    Verdict.ERRORED: "error",
    Verdict.HARNESS_ERROR: "error",
    **dict.fromkeys(_NOT_SCORED, "skipped"),
}


def _junit_case(suite: ElementTree.Element, result: Result) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=result.requirement or "harness",
        name=result.case,
        time=f"{result.seconds:.3f}",
    )
    if kind := _JUNIT.get(result.verdict):
        message = f"{result.verdict.value}: {result.message}".translate(NOT_IN_XML)
        ElementTree.SubElement(case, kind, message=message)


def write_ctrf(path: Path, run: Run) -> None:
    """Write a CTRF 1.0.0 report: path, run."""
    states = [CTRF[r.verdict] for r in run.results]
    names = ("passed", "failed", "skipped", "pending", "other")
    report: dict[str, Any] = {
        "reportFormat": "CTRF",
        "specVersion": "1.0.0",
        "results": {
            "tool": {"name": "k2conf", "version": run.vectors_id or "unknown"},
            "summary": {
                "tests": len(states),
                **{name: states.count(name) for name in names},
                "start": 0,
                "stop": round(1000 * sum(r.seconds for r in run.results)),
            },
            "tests": [_ctrf_test(r, s) for r, s in zip(run.results, states, strict=True)],
            "environment": {"extra": {**run.environment, "engine": run.engine["name"]}},
        },
    }
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _ctrf_test(result: Result, state: str) -> dict[str, Any]:
    test: dict[str, Any] = {
        "name": result.case,
        "status": state,
        "duration": round(1000 * result.seconds),
        "suite": [result.level or "harness", result.requirement],
        "rawStatus": result.verdict.value,
    }
    if result.message:
        test["message"] = result.message
    return test


def badge(run: Run) -> tuple[str, str]:
    """Sum a run up: run -> message and colour. A skipped case stays in the denominator."""
    counts = count(run.results)
    scored = len(run.results) - counts[Verdict.QUESTION]
    passed = counts[Verdict.PASS] + counts[Verdict.LOOSE]
    wrong = counts[Verdict.FAIL] + counts[Verdict.ERRORED] + counts[Verdict.HARNESS_ERROR]
    grades = sorted({str(r.data["grade"]) for r in run.results if "grade" in r.data})
    graded = f", graded {grades[-1]}" if grades else ""
    failures = f", {wrong} failed" if wrong else ""
    message = f"{run.engine['precision']} {passed}/{scored}{failures}{graded}"
    return message, RED if wrong else AMBER if passed == 0 else GREEN


def write_badge(path: Path, run: Run) -> None:
    """Write a badge, as SVG or as the JSON of badge services, by the file's name: path, run."""
    message, colour = badge(run)
    if path.suffix == ".svg":
        path.write_text(_badge_svg("Kimi K2", message, colour), encoding="utf-8")
        return
    table = {"schemaVersion": 1, "label": "Kimi K2", "message": message, "color": colour}
    path.write_text(json.dumps(table) + "\n", encoding="utf-8")


def _badge_svg(label: str, message: str, colour: str) -> str:
    left, right = 7 * len(label) + 12, 7 * len(message) + 12
    parts = [
        f'<rect width="{left}" height="20" fill="#555"/>',
        f'<rect x="{left}" width="{right}" height="20" fill="{colour}"/>',
        text(left / 2, 14, label, anchor="middle", fill="#fff"),
        text(left + right / 2, 14, message, anchor="middle", fill="#fff"),
    ]
    return svg(left + right, 20, parts, title=f"{label}: {message}")
