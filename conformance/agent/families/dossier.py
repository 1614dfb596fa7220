"""F3 dossier: definition, then data, then verification, over a fictional corpus.

For each firm the current report must be found among a stale one and a rumour, and the audit must
be read, since it sometimes restates a figure. The definition of the quantity is in the corpus too
and cannot be guessed. Answers carry a citation `[id:Lx-Ly]` of the lines with the figures.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.agent.tasks import Act, Files, Outcome, Output, State, Step, Task, key, number

PROMPT = """Find the {term} of each of these firms for 2023: {firms}.

Work in this order: search for the definition of "{term}" and open it; then, for each firm in the
order given, search for its annual report 2023 and open it, then search for its audit 2023 and open
it. Where the audit restates a figure, the audit is right. Older reports and press notes are not.

Answer with one line per firm:
FIRM = VALUE [id:Lx-Ly]
where id is the document of the annual report 2023 and the lines are those with profit and staff."""
DEFINITIONS: dict[str, Callable[[int, int], int]] = {
    "profit divided by staff, rounded down": lambda profit, staff: profit // staff,
    "the remainder of profit divided by staff": lambda profit, staff: profit % staff,
    "profit minus three times staff": lambda profit, staff: profit - 3 * staff,
}


@dataclass(frozen=True)
class Firm:
    """One firm: names of its documents and what they say."""

    name: str
    report: str
    audit: str
    profit: int
    staff: int
    restated: int  # 0 when the audit confirms


def firms_of(seed: str, count: int) -> list[Firm]:
    """Generate the firms."""
    return [_firm(seed, i) for i in range(count)]


def _firm(seed: str, i: int) -> Firm:
    staff = 20 + number(seed, "staff", i, below=70)
    restates = number(seed, "restates", i, below=3) == 0
    return Firm(
        f"Firm{key(seed, 'firm', i, size=6)}",
        f"corpus/{key(seed, 'report', i)}.md",
        f"corpus/{key(seed, 'audit', i)}.md",
        1_000 + number(seed, "profit", i, below=9_000),
        staff,
        staff + 1 + number(seed, "more", i, below=9) if restates else 0,
    )


def corpus(seed: str, firms: list[Firm], term: str, definition: str) -> dict[str, str]:
    """Write the documents, the misleading ones included."""
    head = f"# Definition of {term}\n\n"
    files = {f"corpus/{key(seed, 'definition')}.md": head + f"The {term} is {definition}.\n"}
    for i, firm in enumerate(firms):
        stale, rumour = (f"corpus/{key(seed, kind, i)}.md" for kind in ("stale", "rumour"))
        wrong = number(seed, "wrong", i, below=9_000)
        audit = "All figures are confirmed."
        if firm.restated:
            audit = f"Staff is restated to {firm.restated}."
        title = f"# {firm.name} "
        now, past = (firm.profit, firm.staff), (wrong, firm.staff - 9)
        files |= {
            firm.report: title + "annual report 2023\n\nProfit: {}\nStaff: {}\n".format(*now),
            firm.audit: title + f"audit 2023\n\n{audit}\n",
            stale: title + "annual report 2021\n\nProfit: {}\nStaff: {}\n".format(*past),
            rumour: title + f"press note 2023\n\nProfit is said to be {wrong + 7}.\n",
        }
    return files


def make(seed: str, n: int) -> Task:
    """Make a dossier of about n calls: four per firm and two for the definition."""
    firms = firms_of(seed, max(1, (n - 2) // 4))
    term = f"yield{key(seed, 'term', size=4)}"
    definition = list(DEFINITIONS)[number(seed, "definition", below=len(DEFINITIONS))]
    compute = DEFINITIONS[definition]
    values = {f.name: compute(f.profit, f.restated or f.staff) for f in firms}

    def outcome(answer: str, found: Files) -> Outcome:
        right = tuple(_is_right(answer, firm, values[firm.name]) for firm in firms)
        wrong = [firm.name for firm, ok in zip(firms, right, strict=True) if not ok]
        reason = f"wrong value or citation: {', '.join(wrong[:3])}" if wrong else ""
        return Outcome(not wrong, reason, right)

    opened = [f"corpus/{key(seed, 'definition')}.md"]
    opened += [path for firm in firms for path in (firm.report, firm.audit)]
    return Task(
        "dossier",
        seed,
        n,
        PROMPT.format(term=term, firms=", ".join(f.name for f in firms)),
        corpus(seed, firms, term, definition),
        ("search", "open"),
        tuple(Step("open", "id", Path(path).stem) for path in opened),
        2 + 4 * len(firms),
        DossierPolicy(),
        outcome,
        "\n".join(f"{f.name} = {values[f.name]} [{f.report}:L3-L4]" for f in firms),
    )


def _is_right(answer: str, firm: Firm, value: int) -> bool:
    pattern = rf"{firm.name} *= *{value} *\[\S*{Path(firm.report).stem}\S*:L(\d+)-L(\d+)\]"
    found = re.search(pattern, answer)
    return bool(found) and int(found[1]) <= 3 and 4 <= int(found[2]) <= 5  # type: ignore[index]


class DossierPolicy:
    """Search and open: the definition, then report and audit of each firm."""

    def first(self, prompt: str) -> State:
        term = re.search(r"definition of \"(\w+)\"", prompt)
        firms = re.search(r"firms for 2023: ([\w, ]+)\.", prompt)
        names = firms[1].split(", ") if firms else []
        wanted = [f"Definition of {term[1] if term else ''}"]
        wanted += [f"{name} {kind} 2023" for name in names for kind in ("annual report", "audit")]
        return {"i": 0, "wanted": wanted, "id": "", "facts": []}

    def observe(self, state: State, outputs: Sequence[Output]) -> State | None:
        text, title = outputs[0].text, state["wanted"][state["i"]]
        if not state["id"]:
            found = id_of(text, title)
            return {**state, "id": found} if found else None
        read = self._read(text, title)
        if read is None:
            return None
        facts = [*state["facts"], [state["id"], *read]]
        return {**state, "i": state["i"] + 1, "id": "", "facts": facts}

    def _read(self, text: str, title: str) -> list[int] | None:
        if title not in text:
            return None
        if title.startswith("Definition"):
            return [i for i, words in enumerate(DEFINITIONS) if words in text] or None
        if "annual report" in title:
            found = re.findall(r"(?:Profit|Staff): (\d+)", text)
            return [int(value) for value in found] if len(found) == 2 else None
        restated = re.search(r"restated to (\d+)", text)
        if restated:
            return [int(restated[1])]
        return [0] if "confirmed" in text else None

    def speak(self, state: State) -> Act:
        if state["i"] == len(state["wanted"]):
            return Act(answer=self._answer(state))
        if state["id"]:
            return Act([("open", {"id": state["id"]})])
        return Act([("search", {"query": state["wanted"][state["i"]]})])

    def _answer(self, state: State) -> str:
        (_, which), *facts = state["facts"]
        compute = list(DEFINITIONS.values())[which]
        lines = []
        for title, report, audit in zip(
            state["wanted"][1::2], facts[::2], facts[1::2], strict=True
        ):
            value = compute(report[1], audit[1] or report[2])
            lines.append(f"{title.split()[0]} = {value} [{report[0]}:L3-L4]")
        return "\n".join(lines)

    def slip(self, state: State) -> State:
        *rest, last = state["facts"]
        return {**state, "facts": [*rest, [*last[:-1], last[-1] + 1]]} if last[1:] else state


def id_of(text: str, title: str) -> str:
    """Find the document id printed nearest before (or else after) a title in search results."""
    at = text.find(title)
    if at < 0:
        return ""
    ids = list(re.finditer(r"[\w./-]*[0-9a-f]{12}[\w./-]*", text))
    before = [m[0] for m in ids if m.end() <= at]
    after = [m[0] for m in ids if m.start() > at]
    return (before[-1:] or after[:1] or [""])[0].rstrip(".")
