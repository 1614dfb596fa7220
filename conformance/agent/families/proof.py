"""F6 proof: identities, tautologies, the 24 game and letter sums, each settled by a check.

A wrong identity differs in one coefficient, a wrong tautology is false at one assignment, so a
guess is right half of the time for one item and never for many. The verdict decides every item
again, exactly; of several right expressions or digits each one counts.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from conformance.agent import expressions
from conformance.agent.tasks import (
    Act,
    Files,
    Outcome,
    Output,
    State,
    Step,
    Task,
    field_of,
    key,
    number,
)

PROMPT = """Settle a chain of statements.

Start with the file {start}. Every file has the lines `item: KEY`, `kind: KIND`, one or two lines
with the statement, and `next: PATH`. Read it with read_file, work it out, and check it with
math_check (or python) before you go on to the next file, until next is `none`. The kinds are:

identity   are the expressions a: and b: equal for all values? Result: true or false
tautology  is the formula a: true for all truth values? Result: true or false
game24     write an expression with + - * / and brackets that uses each of the four numbers of a:
           once and equals 24. Result: the expression, without spaces
lettersum  replace each letter of a: by its own digit so that the sum of b: is right (no leading
           zero). Result: the digits as A=1,B=2

Answer with one line per file, in their order: KEY RESULT"""
KINDS = ("identity", "tautology", "game24", "lettersum")


@dataclass(frozen=True)
class Item:
    """One statement."""

    key: str
    kind: str
    a: str
    b: str = ""

    @property
    def path(self) -> str:
        return f"items/{self.key}.txt"


def item(seed: str, i: int) -> Item:
    """Generate item i."""
    kind, name = KINDS[i % len(KINDS)], key(seed, "item", i)
    p, q = (2 + number(seed, letter, i, below=20) for letter in "pq")
    false = number(seed, "false", i, below=2)
    match kind:
        case "identity":
            return Item(name, kind, f"({p}*x+y)*(x-{q}*y)",
                        f"{p}*x**2-{p * q - 1 + false}*x*y-{q}*y**2")  # fmt: skip
        case "tautology":
            last = f"s{q}" if false else f"not s{q}"
            return Item(name, kind, f"(not p or s{q}) or (p and {last})")
        case "game24":
            return Item(name, kind, _game(seed, i))
    left, right = 10 + number(seed, "left", i, below=89), 10 + number(seed, "right", i, below=89)
    letters: dict[str, str] = {}
    words = []
    for value in (left, right, left + right):
        words.append("".join(letters.setdefault(d, "ABCDEFGHJK"[len(letters)]) for d in str(value)))
    return Item(name, kind, ",".join(sorted(letters.values())), f"{words[0]}+{words[1]}={words[2]}")


def _game(seed: str, i: int) -> str:
    for attempt in itertools.count():
        numbers = [1 + number(seed, "game", i, attempt, j, below=9) for j in range(4)]
        if solve24(numbers):
            return ",".join(map(str, numbers))
    raise AssertionError("unreachable")


def solve24(numbers: Sequence[int]) -> str:
    """Find an expression of the numbers that equals 24, "" when there is none."""
    found = next(_combine([(Fraction(n), str(n)) for n in numbers]), "")
    return found[1:-1] if found.startswith("(") else found


def _combine(terms: list[tuple[Fraction, str]]) -> Iterator[str]:
    if len(terms) == 1:
        if terms[0][0] == 24:
            yield terms[0][1]
        return
    for i, j in itertools.permutations(range(len(terms)), 2):
        rest = [term for k, term in enumerate(terms) if k not in (i, j)]
        (a, left), (b, right) = terms[i], terms[j]
        values = {"+": a + b, "-": a - b, "*": a * b} | ({"/": a / b} if b else {})
        for sign, value in values.items():
            yield from _combine([*rest, (value, f"({left}{sign}{right})")])


def solve_letters(puzzle: str) -> dict[str, int]:
    """Find digits for a letter sum such as AB+CA=DEF."""
    letters = sorted(set(re.findall(r"[A-Z]", puzzle)))
    for digits in itertools.permutations(range(10), len(letters)):
        chosen = dict(zip(letters, digits, strict=True))
        if letters_fit(puzzle, chosen):
            return chosen
    return {}


def letters_fit(puzzle: str, digits: dict[str, int]) -> bool:
    """Check digits for a letter sum: different digits, no leading zero, a right sum."""
    words = re.findall(r"[A-Z]+", puzzle)
    letters = {letter for word in words for letter in word}
    if set(digits) != letters or len(set(digits.values())) != len(letters):
        return False
    left, right, total = (int("".join(str(digits[c]) for c in word)) for word in words)
    return left + right == total and all(digits[word[0]] for word in words)


def is_right(item: Item, result: str) -> bool:
    """Decide one result exactly."""
    try:
        match item.kind:
            case "identity":
                truth = expressions.difference(item.a, item.b) is None
            case "tautology":
                truth = expressions.counterexample(item.a) is None
            case "game24":
                used = sorted(re.findall(r"\d+", result))
                allowed = set(result) <= set("0123456789+-*/() ") and "**" not in result
                fair = allowed and "//" not in result and used == sorted(item.a.split(","))
                return fair and expressions.evaluate(result, {}) == 24
            case _:
                digits = {k: int(v) for k, v in re.findall(r"([A-Z])=(\d)", result)}
                return letters_fit(item.b, digits)
    except expressions.NotAllowed:
        return False
    return result.strip().lower() == ("true" if truth else "false")


def make(seed: str, n: int) -> Task:
    """Make a proof of n calls: n / 2 items, each read and checked."""
    items = [item(seed, i) for i in range(n // 2)]
    nexts = [each.path for each in items[1:]] + ["none"]
    files = {
        each.path: f"item: {each.key}\nkind: {each.kind}\na: {each.a}\n"
        + (f"b: {each.b}\n" if each.b else "")
        + f"next: {after}\n"
        for each, after in zip(items, nexts, strict=True)
    }

    def outcome(answer: str, found: Files) -> Outcome:
        said = dict(re.findall(r"^\W*([0-9a-f]{12})[ :=]+(\S+)", answer, re.MULTILINE))
        right = tuple(each.key in said and is_right(each, said[each.key]) for each in items)
        wrong = [e.key for e, ok in zip(items, right, strict=True) if not ok]
        return Outcome(not wrong, f"wrong: {wrong[:3]}" if wrong else "", right)

    milestones = [
        step
        for each in items
        for step in (Step("read_file", "path", each.path), Step("math_check|python", "", ""))
    ]
    return Task(
        "proof",
        seed,
        n,
        PROMPT.format(start=items[0].path),
        files,
        ("read_file", "math_check|python"),
        tuple(milestones),
        2 * len(items),
        ProofPolicy(),
        outcome,
        public_check=lambda answer, found: outcome(answer, found).solved,  # it is exact mathematics
    )


def _line(text: str, name: str) -> str:
    found = re.search(rf"\b{name}: (.+)", text)
    return found[1].strip() if found else ""


class ProofPolicy:
    """Read, settle, check, go on."""

    def first(self, prompt: str) -> State:
        found = re.search(r"the file (\S+?\.txt)", prompt)
        return {"i": 0, "next": found[1] if found else "none", "results": [], "check": {}}

    def observe(self, state: State, outputs: Sequence[Output]) -> State | None:
        text = outputs[0].text
        if state["check"]:
            return {**state, "check": {}, "i": state["i"] + 1}
        if not field_of(text, "next"):
            return None
        each = Item(*(_line(text, name) for name in ("item", "kind", "a", "b")))
        result, check = settle(each)
        results = [*state["results"], [each.key, result]]
        return {**state, "results": results, "check": check, "next": field_of(text, "next")}

    def speak(self, state: State) -> Act:
        if state["check"]:
            code = python_of(**state["check"])
            return Act([("math_check", state["check"])], instead=[("python", {"code": code})])
        if state["next"] == "none":
            return Act(answer="\n".join(f"{name} {result}" for name, result in state["results"]))
        return Act([("read_file", {"path": state["next"]})])

    def slip(self, state: State) -> State:
        *rest, (name, result) = state["results"]
        return {**state, "results": [*rest, [name, "false" if result == "true" else "true"]]}


def python_of(op: str, a: str, b: str = "") -> str:
    """Write a check as Python, for a server without math_check."""
    if op == "eval":
        exact = re.sub(r"(\d+)", r"Fraction(\1)", a)
        return f"from fractions import Fraction\nprint({exact})"
    names = expressions.names_of(f"({a})-({b})" if op == "equal" else a)
    values = "range(-9, 10)" if op == "equal" else "(True, False)"
    claim = f"({a}) == ({b})" if op == "equal" else a
    points = f"itertools.product({values}, repeat={len(names)})"
    return f"import itertools\nprint(all({claim} for {', '.join(names)}, in {points}))"


def settle(each: Item) -> tuple[str, dict[str, str]]:
    """Work out one item: its result and the check to send."""
    match each.kind:
        case "identity":
            same = expressions.difference(each.a, each.b) is None
            return str(same).lower(), {"op": "equal", "a": each.a, "b": each.b}
        case "tautology":
            holds = expressions.counterexample(each.a) is None
            return str(holds).lower(), {"op": "valid", "a": each.a}
        case "game24":
            found = solve24([int(n) for n in each.a.split(",")])
            return found, {"op": "eval", "a": found}
    digits = solve_letters(each.b)
    left = re.sub(r"[A-Z]", lambda m: str(digits[m[0]]), each.b).split("=")[0]
    return ",".join(f"{k}={v}" for k, v in sorted(digits.items())), {"op": "eval", "a": left}
