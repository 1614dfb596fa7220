"""One HTML file: what was run, what failed, the figures, and every result."""

import json
from html import escape
from pathlib import Path
from typing import Any

from conformance.report import figures
from conformance.report.exchange import badge
from conformance.results import Result, Run, Verdict, count
from conformance.spec import requirements
from k2ref.errors import InputError

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222}
h1{margin-bottom:0}h2{margin:2em 0 .4em}table{border-collapse:collapse;width:100%;font-size:13px}
td,th{padding:3px 8px;border-bottom:1px solid #e5e5e5;text-align:left;vertical-align:top}
.pass{color:#2e7d32}.loose,.inconclusive{color:#b26a00}.fail{color:#c62828;font-weight:600}
.errored,.harness_error{color:#7b1fa2;font-weight:600}.skipped,.question{color:#777}
.sum{font-size:18px}.note{color:#555;font-size:13px}svg{max-width:100%;height:auto}
code{font-size:12px;overflow-wrap:anywhere}summary{cursor:pointer;color:#1565c0}
"""
NOTES = {
    "Noise units by operation": "Green: where correct engines lie. Beyond the line no correct "
    "engine of this precision has been seen; hover a point for its case and its share of the "
    "provable bound.",
    "Divergence by tensor": "Each tensor is recomputed from the engine's own tensors before it, so "
    "an error shows where it is made.",
    "Router margins": "How much better the last chosen expert scores than the best refused one, in "
    "the reference.",
    "Angle error against position": "Engines multiply a float32 position by a float32 frequency. "
    "The reference does the same.",
    "Kill matrix": "Red: at least one case of this level sees the bug. Dark grey: a legal choice "
    "in that precision. Green names are correct engines and must stay pale.",
}


def write_html(path: Path, run: Run) -> None:
    """Write the page of a run: path, run."""
    path.write_text(page(run), encoding="utf-8")


def page(run: Run, matrix: dict[str, Any] | None = None) -> str:
    """Make the page: run, kill matrix if there is one -> HTML."""
    drawn = [
        figures.noise_strips(run.results),
        figures.layer_divergence(run.results),
        figures.router_margins(run.results),
        figures.angle_error(run.results),
        figures.kill_matrix(matrix) if matrix else "",
    ]
    sections = [_head(run), _failures(run)]
    for title, drawing in zip(NOTES, drawn, strict=True):
        if drawing:
            sections.append(f"<h2>{title}</h2><p class=note>{NOTES[title]}</p>{drawing}")
    sections += [_questions(run), _everything(run)]
    name = escape(run.engine["name"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}: Kimi K2</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f"<body>{''.join(sections)}</body></html>\n"
    )


def _head(run: Run) -> str:
    counts = {v: n for v, n in count(run.results).items() if n}
    words = ", ".join(f"<span class={v.value}>{n} {v.value}</span>" for v, n in counts.items())
    engine = f"{run.engine['name']} {run.engine['version']}"
    notes = {**run.engine.get("notes", {}), **run.environment}
    told = ", ".join(f"{k} {v}" for k, v in notes.items())
    return (
        f"<h1>{escape(engine)}</h1><p class=sum>{escape(badge(run)[0])}: {words}</p>"
        f"<p class=note>vectors <code>{escape(run.vectors_id[:16] or 'none')}</code>, seed "
        f"{run.seed}, {escape(told)}</p>{_not_offered(run)}"
    )


def _not_offered(run: Run) -> str:
    """Name what was skipped because the engine has none of it: -> HTML."""
    asked = {r.op for r in run.results if r.op}
    answered = {r.op for r in run.results if r.verdict is not Verdict.SKIPPED}
    absent = ", ".join(sorted(asked - answered))
    return f"<p class=note>Not offered, so skipped: {escape(absent)}.</p>" if absent else ""


def _failures(run: Run) -> str:
    wrong = [r for r in run.results if r.verdict.failed or r.verdict is Verdict.HARNESS_ERROR]
    if not wrong:
        return "<h2>No failure</h2>"
    return f"<h2>{len(wrong)} failures</h2>{_table(wrong)}"


def _questions(run: Run) -> str:
    asked = [r for r in run.results if r.verdict is Verdict.QUESTION]
    if not asked:
        return ""
    note = "Points on which correct engines differ; this is what this one does. Not scored."
    return f"<h2>Open questions</h2><p class=note>{note}</p>{_table(asked)}"


def _everything(run: Run) -> str:
    return (
        f"<h2>All results</h2><details><summary>{len(run.results)} cases</summary>"
        f"{_table(run.results)}</details>"
    )


def _table(results: Any) -> str:
    head = "<tr><th>level<th>case<th>verdict<th>measure<th>what it asks, what came"
    return f"<table>{head}{''.join(map(_row, results))}</table>"


def _row(r: Result) -> str:
    asked = requirements().get(r.requirement)
    must = escape(asked.must) if asked else ""
    measure = f"{r.tau:.3g} sigma" if r.tau is not None else ""
    figures_said = r.measure is not None and r.limit is not None
    if not measure and figures_said and r.verdict is not Verdict.QUESTION:
        measure = f"{r.measure:.2g} of {r.limit:.2g}"
    said = f"<br><code>{escape(r.message[:600])}</code>" if r.message else ""
    return (
        f"<tr><td>{escape(r.level)}<td>{escape(r.case)}<td class={r.verdict.value}>"
        f"{r.verdict.value}<td>{measure}<td>{must}{said}"
    )


def read_matrix(path: Path) -> dict[str, Any]:
    """Read the kill matrix: path of `k2conf mutants --json` -> matrix."""
    try:
        matrix = dict(json.loads(path.read_text(encoding="utf-8")))
        if matrix.get("schema") != "kill-matrix.1":
            raise ValueError("another schema")
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: no kill matrix: {error}") from None
    return matrix
