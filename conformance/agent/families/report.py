"""F5 report: correct a draft against its data: a table, a chart, a total, citations.

The draft has wrong cells, wrong citations and a missing row. The verdict recomputes every cell,
every citation, the total and the bars of the chart from the data.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from conformance.agent.tasks import (
    Act,
    Files,
    Outcome,
    Output,
    State,
    Step,
    Task,
    changes,
    field_of,
    key,
    number,
)

PROMPT = """Correct a report.

Read draft.md: it has wrong figures, wrong citations and a missing row. The data starts at the file
{start}; each data file has the lines `name: WORD`, `value_2022: NUMBER`, `value_2023: NUMBER` and
`next: PATH`, and the last one's next is `none`. Read every data file, in order.

Then write report.md with write_file: the table of the draft with one row per data file, in their
order, with the columns name, 2022, 2023, change (2023 minus 2022) and source (a citation
[PATH:L2-L3] of the two value lines), then a line `Total 2023: SUM`, then a mermaid chart:

```mermaid
xychart-beta
  bar [all 2023 values, separated by comma and space]
```

Read report.md once more to check it, then answer with exactly one line: REPORT <SUM>"""


@dataclass(frozen=True)
class Row:
    """One row of the report and the file it comes from."""

    path: str
    name: str
    old: int
    new: int

    @property
    def line(self) -> str:
        change = self.new - self.old
        return f"| {self.name} | {self.old} | {self.new} | {change} | [{self.path}:L2-L3] |"


HEAD = "| name | 2022 | 2023 | change | source |\n|---|---|---|---|---|\n"


def rows_of(seed: str, count: int) -> list[Row]:
    """Generate the data."""
    return [
        Row(
            f"data/{key(seed, 'data', i)}.txt",
            f"item{key(seed, 'name', i, size=5)}",
            number(seed, "old", i, below=5_000),
            number(seed, "new", i, below=5_000),
        )
        for i in range(count)
    ]


def document(rows: Sequence[Row]) -> str:
    """Write the report of some rows."""
    bars = ", ".join(str(row.new) for row in rows)
    total = f"\nTotal 2023: {sum(row.new for row in rows)}\n"
    chart = f"\n```mermaid\nxychart-beta\n  bar [{bars}]\n```\n"
    return "# Report\n\n" + HEAD + "".join(row.line + "\n" for row in rows) + total + chart


def draft(seed: str, rows: list[Row]) -> str:
    """Spoil the report: a row less, and a wrong figure or source in every third row."""
    missing = number(seed, "missing", below=len(rows))
    kept = [row for i, row in enumerate(rows) if i != missing]
    spoiled = [
        Row(rows[0].path, row.name, row.old + 1, row.new) if i % 3 == 0 else row
        for i, row in enumerate(kept)
    ]
    return document(spoiled)


def make(seed: str, n: int) -> Task:
    """Make a report of n calls: n - 3 data files, draft, report, and its check."""
    rows = rows_of(seed, n - 3)
    nexts = [row.path for row in rows[1:]] + ["none"]
    files = {
        row.path: f"name: {row.name}\nvalue_2022: {row.old}\nvalue_2023: {row.new}\nnext: {after}\n"
        for row, after in zip(rows, nexts, strict=True)
    }
    files["draft.md"] = draft(seed, rows)
    total = sum(row.new for row in rows)

    def outcome(answer: str, found: Files) -> Outcome:
        report = found.get("report.md", "")
        other = changes({**files, "report.md": report}, found)
        if report and other:
            return Outcome(False, f"other files changed: {other[:3]}")
        return judge(report, rows, answer)

    reads = [Step("read_file", "path", path) for path in ("draft.md", *(r.path for r in rows))]
    ends = [Step("write_file", "path", "report.md"), Step("read_file", "path", "report.md")]
    return Task(
        "report",
        seed,
        n,
        PROMPT.format(start=rows[0].path),
        files,
        ("read_file", "write_file"),
        (*reads, *ends),
        n,
        ReportPolicy(),
        outcome,
        f"REPORT {total}",
    )


def judge(report: str, rows: list[Row], answer: str) -> Outcome:
    """Recompute a report cell by cell."""
    table = [_squeezed(line) for line in report.splitlines() if line.lstrip().startswith("|")][2:]
    right = tuple(i < len(table) and table[i] == _squeezed(row.line) for i, row in enumerate(rows))
    if not all(right) or len(table) != len(rows):
        return Outcome(False, f"{right.count(False)} rows of the table are wrong", right)
    total = sum(row.new for row in rows)
    if not re.search(rf"Total 2023: {total}\b", report):
        return Outcome(False, "the total is wrong or missing", right)
    bars = re.search(r"bar \[([\d, ]+)\]", report)
    if not bars or [int(b) for b in bars[1].split(",")] != [row.new for row in rows]:
        return Outcome(False, "the chart's bars are wrong or missing", right)
    said = re.search(rf"REPORT +{total}\b", answer)
    return Outcome(bool(said), "" if said else "the answer has not the total", right)


def _squeezed(line: str) -> str:
    return re.sub(r"\s+", "", line)  # spacing is not judged


class ReportPolicy:
    """Read the draft and all data, write the report, read it back."""

    def first(self, prompt: str) -> State:
        found = re.search(r"(data/\w+\.txt)", prompt)
        return {"i": 0, "next": "draft.md", "start": found[1] if found else "none", "rows": []}

    def observe(self, state: State, outputs: Sequence[Output]) -> State | None:
        text = outputs[0].text
        if state["next"] == "draft.md":
            return {**state, "next": state["start"]} if "| name |" in text else None
        if state["next"] == "none":
            if state.get("written"):
                return {**state, "checked": True} if "| name |" in text else None
            return {**state, "written": True} if "report.md" in text else None
        if not field_of(text, "next"):
            return None
        row = [field_of(text, f) for f in ("name", "value_2022", "value_2023")]
        rows = [*state["rows"], [state["next"], row[0], int(row[1]), int(row[2])]]
        return {**state, "i": state["i"] + 1, "rows": rows, "next": field_of(text, "next")}

    def speak(self, state: State) -> Act:
        if state["next"] != "none":
            return Act([("read_file", {"path": state["next"]})])
        rows = [Row(*row) for row in state["rows"]]
        if state.get("checked"):
            return Act(answer=f"REPORT {sum(row.new for row in rows)}")
        if state.get("written"):
            return Act([("read_file", {"path": "report.md"})])
        return Act([("write_file", {"path": "report.md", "text": document(rows)})])

    def slip(self, state: State) -> State:
        *rest, (path, name, old, new) = state["rows"]
        return {**state, "rows": [*rest, [path, name, old, new + 1]]}
