"""F2 ledger: entries posted one after the other to account files, each with its running balance.

Every second call is an edit that depends on all earlier ones of its account. An edit executed
twice leaves a second line, so the final tree shows whether each call ran exactly once; every
posted line shows whether the balance was right at its index (drift).
"""

import re
from collections import defaultdict
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

OPENING = 100
ACCOUNTS = 4
PROMPT = """Post the entries of a ledger.

Start with the entry {start}. Every entry has the lines `entry: KEY`, `account: PATH`,
`amount: NUMBER` and `next: PATH`. Read it with read_file. Then add one line to the account file
with edit_file, directly above its last line `END`:

KEY AMOUNT = BALANCE

BALANCE is the account's balance after this entry. Every account opens with {opening}. Go on with
the next entry until next is `none`. Post each entry exactly once and change nothing else.

Then answer with exactly one line: POSTED <number of entries>"""


@dataclass(frozen=True)
class Entry:
    key: str
    account: str
    amount: int
    balance: int

    @property
    def path(self) -> str:
        return f"entries/{self.key}.txt"

    @property
    def line(self) -> str:
        return f"{self.key} {self.amount} = {self.balance}"


def entries(seed: str, count: int) -> list[Entry]:
    """Generate the entries with the balances they lead to."""
    accounts = [f"accounts/{key(seed, 'account', i, size=6)}.txt" for i in range(ACCOUNTS)]
    balances = dict.fromkeys(accounts, OPENING)
    made = []
    for i in range(count):
        account = accounts[number(seed, "which", i, below=ACCOUNTS)]
        amount = 1 + number(seed, "amount", i, below=900)
        balances[account] += amount
        made.append(Entry(key(seed, "entry", i), account, amount, balances[account]))
    return made


def worlds(seed: str, made: list[Entry]) -> tuple[dict[str, str], dict[str, str]]:
    """Write the world before and after all postings."""
    nexts = [entry.path for entry in made[1:]] + ["none"]
    fixed = {
        e.path: f"entry: {e.key}\naccount: {e.account}\namount: {e.amount}\nnext: {following}\n"
        for e, following in zip(made, nexts, strict=True)
    }
    lines = defaultdict(list)
    for entry in made:
        lines[entry.account].append(entry.line + "\n")
    before = dict.fromkeys(lines, f"opening = {OPENING}\nEND\n")
    after = {a: f"opening = {OPENING}\n{''.join(lines[a])}END\n" for a in lines}
    return fixed | before, fixed | after


def make(seed: str, n: int) -> Task:
    """Make a ledger of n calls: n / 2 entries."""
    made = entries(seed, n // 2)
    before, after = worlds(seed, made)

    def outcome(answer: str, found: Files) -> Outcome:
        by_index = tuple(found.get(e.account, "").splitlines().count(e.line) == 1 for e in made)
        wrong = changes(after, found)
        if wrong:
            return Outcome(False, f"files differ from what was asked: {wrong[:3]}", by_index)
        said = re.search(rf"POSTED +{len(made)}\b", answer)
        return Outcome(bool(said), "" if said else "the answer has not the number", by_index)

    milestones = [
        step
        for e in made
        for step in (Step("read_file", "path", e.path), Step("edit_file", "path", e.account))
    ]
    return Task(
        "ledger",
        seed,
        n,
        PROMPT.format(start=made[0].path, opening=OPENING),
        before,
        ("read_file", "edit_file"),
        tuple(milestones),
        2 * len(made),
        LedgerPolicy(),
        outcome,
        f"POSTED {len(made)}",
    )


class LedgerPolicy:
    """Read an entry, post it with the balance kept in mind, go on."""

    def first(self, prompt: str) -> State:
        found = re.search(r"the entry (\S+?\.txt)", prompt)
        return {"i": 0, "balances": {}, "phase": "read", "next": found[1] if found else "none"}

    def observe(self, state: State, outputs: Sequence[Output]) -> State | None:
        text = outputs[0].text
        if state["phase"] == "read":
            return self._noted(state, text)
        posted = self._line(state) in text
        if state["phase"] == "check":  # a restart lost a result: look before repeating
            return {**state, "phase": "read" if posted else "post"}
        if "lost in a restart" in text:
            return {**state, "phase": "check"}
        return {**state, "phase": "read"} if posted else None

    def _noted(self, state: State, text: str) -> State | None:
        account, amount = field_of(text, "account"), field_of(text, "amount")
        if not field_of(text, "next"):
            return None
        balance = state["balances"].get(account, OPENING) + int(amount)
        return {
            "i": state["i"] + 1,
            "balances": {**state["balances"], account: balance},
            "phase": "post",
            "account": account,
            "posting": f"{field_of(text, 'entry')} {amount}",
            "next": field_of(text, "next"),
        }

    def speak(self, state: State) -> Act:
        if state["phase"] == "post":
            edits = [{"old": "END\n", "new": f"{self._line(state)}\nEND\n"}]
            return Act([("edit_file", {"path": state["account"], "edits": edits})])
        if state["phase"] == "check":
            return Act([("read_file", {"path": state["account"]})])
        if state["next"] == "none":
            return Act(answer=f"POSTED {state['i']}")
        return Act([("read_file", {"path": state["next"]})])

    def _line(self, state: State) -> str:
        return f"{state['posting']} = {state['balances'][state['account']]}"

    def slip(self, state: State) -> State:
        balance = state["balances"][state["account"]] + 1
        return {**state, "balances": {**state["balances"], state["account"]: balance}}
