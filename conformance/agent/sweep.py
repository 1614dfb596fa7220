"""Sweeps: the same tasks at several lengths, one row per run, and the plots made of them.

The rows are the result (CSV); the curves are drawn from them. A sweep of a simulated model checks
the instrument and says so on the plot.
"""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.agent.attempt import Attempt
from conformance.agent.plots import Line, Point, svg
from conformance.agent.run import SIMULATED
from conformance.agent.scaling import Survival, Trial, by_length, horizon, kaplan_meier, within
from conformance.agent.tasks import Task

FIELDS = (
    *("model", "task", "family", "n", "seed", "status", "solved", "process", "safety", "failure"),
    *("steps", "calls", "prompt_tokens", "cached_tokens", "completion_tokens"),
    *("model_seconds", "tool_seconds", "cost", "indices", "first_wrong"),
)
MEASURES = ("steps", "tokens", "seconds", "cost")
INSTRUMENT = "simulated model: a check of the instrument, no evidence about any real model"


@dataclass(frozen=True)
class Sweep:
    """All rows of a sweep."""

    rows: tuple[dict[str, object], ...]

    @property
    def trials(self) -> list[Trial]:
        return [_trial(row) for row in self.rows]

    def csv(self) -> str:
        """Write the rows."""
        text = io.StringIO()
        writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def summary(self) -> list[str]:
        """Word the success by length and the horizons."""
        points = by_length(self.trials)
        lines = [f"n={p.x:g}: {p.y:.2f} [{p.low:.2f}, {p.high:.2f}]" for p in points]
        for level in (0.5, 0.8):
            length, sign = horizon(points, level)
            lines.append(f"H{round(level * 100)} {sign or '='} {length:.0f} calls")
        return lines + self._survival_lines()

    def survival(self) -> list[Survival]:
        """Estimate how long runs stay right, for families that show it by index."""
        shown = [row for row in self.rows if int(str(row["indices"]))]
        wrong = [int(str(row["first_wrong"])) if row["first_wrong"] else None for row in shown]
        return kaplan_meier(wrong, [int(str(row["indices"])) for row in shown])

    def _survival_lines(self) -> list[str]:
        curve = self.survival()
        if not curve:
            return []
        last = curve[-1]
        return [
            f"right up to index {last.step}: {last.share:.2f} [{last.low:.2f}, {last.high:.2f}]"
        ]

    @property
    def note(self) -> str:
        """Say on every plot what its numbers are about."""
        models = sorted({str(row["model"]) for row in self.rows})
        if any(model.startswith(SIMULATED) for model in models):
            return INSTRUMENT
        return ", ".join(models)

    def plots(self, title: str, expected: Sequence[Line] = ()) -> dict[str, str]:
        """Draw success by length, and within each budget: file name -> SVG."""
        note = self.note
        measured = Line("measured, 95 % interval", by_length(self.trials))
        drawn = {
            "success_by_length.svg": svg(
                title, "calls the task needs", "success", [measured, *expected], note=note
            )
        }
        for measure in MEASURES:
            budgets = _budgets([getattr(trial, measure) for trial in self.trials])
            if budgets:
                lines = [Line(f"n={n}", within(self._of(n), measure, budgets)) for n in self._ns()]
                drawn[f"success_by_{measure}.svg"] = svg(
                    title, f"{measure} allowed", "success", lines, note=note
                )
        if self.survival():
            line = Line("right so far", [Point(*each) for each in self.survival()])
            drawn["survival.svg"] = svg(title, "index", "share of runs", [line], note=note)
        return drawn

    def write(self, folder: Path, title: str, expected: Sequence[Line] = ()) -> None:
        """Write rows and plots into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "runs.csv").write_text(self.csv(), encoding="utf-8")
        for name, text in self.plots(title, expected).items():
            (folder / name).write_text(text, encoding="utf-8")

    def _ns(self) -> list[int]:
        return sorted({trial.n for trial in self.trials})

    def _of(self, n: int) -> list[Trial]:
        return [trial for trial in self.trials if trial.n == n]


def run(tasks: Iterable[Task], attempt: Callable[[Task], Attempt], model: str) -> Sweep:
    """Run every task once: tasks, how to attempt one, the model's name -> Sweep."""
    return Sweep(tuple({"model": model} | row_of(task, attempt(task)) for task in tasks))


def overlay(sweeps: Sequence[Sweep], title: str, expected: Sequence[Line] = ()) -> str:
    """Draw success by length of several sweeps in one plot: sweeps, title -> SVG."""
    lines = [
        Line(str(s.rows[0]["model"]).removeprefix(SIMULATED), by_length(s.trials)) for s in sweeps
    ]
    note = next((s.note for s in sweeps if s.note == INSTRUMENT), "95 % intervals")
    return svg(title, "calls the task needs", "success", [*lines, *expected], note=note)


def read(text: str) -> Sweep:
    """Read rows back from CSV."""
    rows = csv.DictReader(io.StringIO(text))
    return Sweep(tuple(dict(row) for row in rows))


def row_of(task: Task, attempt: Attempt) -> dict[str, object]:
    """Write one run as a row."""
    verdict, spent = attempt.verdict, attempt.run.spent
    own: dict[str, object] = {
        "task": task.name,
        "family": task.family,
        "n": task.n,
        "seed": task.seed,
        "status": verdict.status,
        "solved": int(verdict.passed),
        "process": int(verdict.process),
        "safety": " ".join(verdict.safety),
        "failure": verdict.failure,
    }
    by_index = verdict.by_index
    last: dict[str, object] = {
        "indices": len(by_index),
        "first_wrong": by_index.index(False) + 1 if False in by_index else "",
    }
    return own | {name: round(getattr(spent, name), 6) for name in FIELDS[len(own) + 1 : -2]} | last


def _trial(row: dict[str, object]) -> Trial:
    number = {k: float(str(row[k])) for k in FIELDS[10:-2]}
    return Trial(
        str(row["task"]),
        int(str(row["n"])),
        str(row["solved"]) == "1",
        int(number["steps"]),
        int(number["prompt_tokens"] + number["completion_tokens"]),
        number["model_seconds"] + number["tool_seconds"],
        number["cost"],
    )


def _budgets(values: Sequence[float], count: int = 12) -> list[float]:
    top = max(values, default=0.0)
    return [top * i / count for i in range(1, count + 1)] if top else []
