"""Sweeps: the same tasks at several lengths and settings, one row per run, and their plots.

The rows are the result (CSV); the curves are drawn from them. A sweep of a simulated model checks
the instrument and says so on the plot.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.agent.attempt import Attempt
from conformance.agent.plots import Line, Point, svg
from conformance.agent.run import SIMULATED
from conformance.agent.scaling import (
    Survival,
    Trial,
    by_length,
    hazards,
    horizon,
    kaplan_meier,
    pareto,
    rate_point,
    within,
)
from conformance.agent.tasks import Task

COUNTED = (
    *("steps", "calls", "prompt_tokens", "cached_tokens", "completion_tokens"),
    *("model_seconds", "tool_seconds", "cost"),
)
FIELDS = (
    *("model", "setting", "task", "family", "n", "seed", "status"),
    *("solved", "process", "efficiency", "safety", "failure", *COUNTED, "by_index"),
)
BANDS = 20
HAZARD_WIDTH = 50
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
        """Word success by length, horizons and survival of each setting, and the front of all."""
        parts = self.by_setting()
        if len(parts) == 1:
            return self._summary()
        lines = [f"{name}: {line}" for name, part in parts.items() for line in part._summary()]
        costs = {name: part.price() for name, part in parts.items()}
        front = pareto(costs)
        return lines + [f"front: {name}, {costs[name][0]:.2f} at {costs[name][1]:.0f} tokens a task"
                        for name in front]  # fmt: skip

    def _summary(self) -> list[str]:
        points = by_length(self.trials)
        lines = [f"n={p.x:g}: {p.y:.2f} [{p.low:.2f}, {p.high:.2f}]" for p in points]
        for level in (0.5, 0.8):
            length, sign = horizon(points, level)
            lines.append(f"H{round(level * 100)} {sign or '='} {length:.0f} calls")
        return lines + self._survival_lines()

    def by_setting(self) -> dict[str, "Sweep"]:
        """Part the rows by setting, in their order."""
        names = dict.fromkeys(str(row["setting"]) for row in self.rows)
        return {n: Sweep(tuple(r for r in self.rows if r["setting"] == n)) for n in names}

    def price(self) -> tuple[float, float]:
        """Give the share of solved tasks and the tokens of one task."""
        trials = self.trials
        solved, tokens = sum(t.solved for t in trials), sum(t.tokens for t in trials)
        return solved / len(trials), tokens / len(trials)

    def survival(self) -> list[Survival]:
        """Estimate how long runs stay right, for families that show it by index."""
        return kaplan_meier(*self._errors())

    def accuracy(self) -> list[Point]:
        """Give the share of right indices, in bands of indices (drift)."""
        shown = self._shown()
        length = max(map(len, shown), default=0)
        width = -(-length // BANDS) or 1
        points = []
        for start in range(0, length, width):
            band = "".join(text[start : start + width] for text in shown)
            points.append(rate_point(start + (width + 1) / 2, band.count("1"), len(band)))
        return points

    def _shown(self) -> list[str]:
        return [str(row["by_index"]) for row in self.rows if row["by_index"]]

    def _errors(self) -> tuple[list[int | None], list[int]]:
        """List the index of each run's first error, if any, and each run's length."""
        shown = self._shown()
        return [t.index("0") + 1 if "0" in t else None for t in shown], [len(t) for t in shown]

    def _survival_lines(self) -> list[str]:
        curve = self.survival()
        if not curve:
            return []
        last, rates = curve[-1], hazards(*self._errors(), HAZARD_WIDTH)
        return [
            f"right up to index {last.step}: {last.share:.2f} [{last.low:.2f}, {last.high:.2f}]",
            f"errors per index, in bands of {HAZARD_WIDTH}: "
            + ", ".join(f"{r:.4f}" for r in rates),
        ]

    @property
    def note(self) -> str:
        """Say on every plot what its numbers are about."""
        models = sorted({str(row["model"]) for row in self.rows})
        if any(model.startswith(SIMULATED) for model in models):
            return INSTRUMENT
        return ", ".join(models)

    def plots(self, title: str, expected: Sequence[Line] = ()) -> dict[str, str]:
        """Draw success by length, within each budget and by index: file name -> SVG."""
        drawn = {"success_by_length": ("calls the task needs", [*self._lengths(), *expected])}
        for measure in MEASURES:
            budgets = _budgets([getattr(trial, measure) for trial in self.trials])
            if budgets:
                lines = [Line(label, within(part.trials, measure, budgets))
                         for label, part in self._parts().items()]  # fmt: skip
                drawn[f"success_by_{measure}"] = (f"{measure} allowed", lines)
        if self._shown():
            drawn["accuracy_by_index"] = ("index", [Line("right", self.accuracy())])
        if self.survival():
            line = Line("right so far", [Point(*each) for each in self.survival()])
            drawn["survival"] = ("index", [line])
        if len(self.by_setting()) > 1:
            drawn["front"] = ("tokens of a task", self._front())
        return {
            f"{name}.svg": svg(title, axis, "share", lines, note=self.note)
            for name, (axis, lines) in drawn.items()
        }

    def _lengths(self) -> list[Line]:
        parts = self.by_setting()
        labels = {name: name or "measured, 95 % interval" for name in parts}
        return [Line(labels[name], by_length(part.trials)) for name, part in parts.items()]

    def _parts(self) -> dict[str, "Sweep"]:
        """Part the rows by setting where there are several, else by length."""
        parts = self.by_setting()
        if len(parts) > 1:
            return parts
        ns = sorted({int(str(row["n"])) for row in self.rows})
        return {f"n={n}": Sweep(tuple(r for r in self.rows if int(str(r["n"])) == n)) for n in ns}

    def _front(self) -> list[Line]:
        lines = []
        for name, part in self.by_setting().items():
            solved = sum(trial.solved for trial in part.trials)
            point = rate_point(part.price()[1], solved, len(part.rows))
            lines.append(Line(name, [point]))
        return lines

    def write(self, folder: Path, title: str, expected: Sequence[Line] = ()) -> None:
        """Write rows and plots into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "runs.csv").write_text(self.csv(), encoding="utf-8")
        for name, text in self.plots(title, expected).items():
            (folder / name).write_text(text, encoding="utf-8")


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


def row_of(task: Task, attempt: Attempt, model: str, setting: str = "") -> dict[str, object]:
    """Write one run as a row."""
    verdict, spent = attempt.verdict, attempt.run.spent
    return {
        "model": model,
        "setting": setting,
        "task": task.name,
        "family": task.family,
        "n": task.n,
        "seed": task.seed,
        "status": verdict.status,
        "solved": int(verdict.passed),
        "process": int(verdict.process),
        "efficiency": verdict.efficiency,
        "safety": " ".join(verdict.safety),
        "failure": verdict.failure,
        **{name: round(getattr(spent, name), 6) for name in COUNTED},
        "by_index": "".join("01"[right] for right in verdict.by_index),
    }


def _trial(row: dict[str, object]) -> Trial:
    number = {name: float(str(row[name])) for name in COUNTED}
    return Trial(
        f"{row['task']} {row['setting']}".rstrip(),
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
