"""F4 repair: a package with seeded bugs that the tests reveal one at a time, and one rename.

Every function is one return of one expression, so the verdict evaluates the package without
running it (expressions.py), at points the tests do not show. Only the package may change.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from conformance.agent import expressions
from conformance.agent.tasks import (
    Act,
    Files,
    Outcome,
    Output,
    State,
    Step,
    Task,
    changes,
    key,
    number,
)

MODULES = 3
RUN_TESTS = (
    "import runpy, sys\n"
    "sys.path.insert(0, '.')\n"
    "runpy.run_path('tests/test_pkg.py', run_name='__main__')\n"
)
HIDDEN_POINTS = (2, 11, 97, 1_003)
PROMPT = """Repair the Python package pkg/.

1. Rename the function {old} to {new} wherever it is defined, imported or used (files
   {files}).
2. Then run the tests (run_tests, or tests/test_pkg.py in Python). Each failure names a function
   and the expression it must return; correct that function and run the tests again, until all
   pass.

Every function is one return of one expression: keep it so. Change files of pkg/ only.

When all tests pass, answer with exactly one line: REPAIRED <number of functions corrected>"""


@dataclass(frozen=True)
class Function:
    """One function: its module, what it should return and what it returns."""

    name: str
    module: str
    right: str
    wrong: str


def functions_of(seed: str, count: int, helper: str) -> list[Function]:
    """Generate the functions, each with one wrong constant."""
    made = []
    for i in range(count):
        a, b = 2 + number(seed, "a", i, below=97), 1 + number(seed, "b", i, below=97)
        slip = 1 + number(seed, "slip", i, below=5)
        form = f"({helper}(x) * {{}} + {b}) % 10007"
        made.append(
            Function(
                f"f_{key(seed, 'function', i, size=8)}",
                f"pkg/m{i % MODULES}.py",
                form.format(a),
                form.format(a + slip),
            )
        )
    return made


def world(made: list[Function], old: str, offset: int, *, new: str = "") -> dict[str, str]:
    """Write the package: as it is, or with `new` as it should become."""
    helper = new or old
    files = {"pkg/__init__.py": "", "pkg/base.py": f"def {helper}(x):\n    return x + {offset}\n"}
    for m in range(MODULES):
        path = f"pkg/m{m}.py"
        bodies = [
            f"def {f.name}(x):\n    return {(f.right if new else f.wrong).replace(old, helper)}\n"
            for f in made
            if f.module == path
        ]
        files[path] = f"from pkg.base import {helper}\n" + "".join(f"\n\n{b}" for b in bodies)
    return files


def tests_of(made: list[Function], right: Mapping[str, str], new: str, old: str) -> str:
    """Write the tests: one test function, so that one failure shows at a time."""
    computed = expressions.functions(right, "pkg")
    lines = []
    for f in made:
        module = f.module.removesuffix(".py").replace("/", ".")
        wanted = f.right.replace(old, new)
        lines += [
            f"    from {module} import {f.name}",
            f'    assert {f.name}(5) == {computed[f.name](5)}, "{f.name} must return {wanted}"',
        ]
    main = '\n\nif __name__ == "__main__":\n    test_package()\n    print("1 passed")\n'
    return "def test_package():\n" + "\n".join(lines) + "\n" + main


def make(seed: str, n: int) -> Task:
    """Make a repair of about n calls: eight for the rename, three per bug, one at the end."""
    old, new = f"legacy_{key(seed, 'old', size=6)}", f"scale_{key(seed, 'new', size=6)}"
    count = max(MODULES, (n - 9) // 3)
    made = functions_of(seed, count, old)
    offset = 1 + number(seed, "offset", below=50)
    before, right = world(made, old, offset), world(made, old, offset, new=new)
    tests = {"tests/test_pkg.py": tests_of(made, right, new, old)}
    paths = ["pkg/base.py", *(f"pkg/m{m}.py" for m in range(MODULES))]

    def outcome(answer: str, found: Files) -> Outcome:
        return judge(found, right | tests, old, answer, count)

    milestones = [Step(tool, "path", p) for p in paths for tool in ("read_file", "edit_file")]
    milestones += [Step("edit_file", "path", f.module) for f in made]
    return Task(
        "repair",
        seed,
        n,
        PROMPT.format(old=old, new=new, files=", ".join(paths)),
        before | tests,
        ("read_file", "edit_file", "run_tests|python"),
        tuple(milestones),
        8 + 3 * count + 1,
        RepairPolicy(),
        outcome,
        f"REPAIRED {count}",
        public_check=lambda answer, found: expressions.run_tests(found) == f"{count} passed",
    )


def judge(
    found: Mapping[str, str], right: Mapping[str, str], old: str, answer: str, count: int
) -> Outcome:
    """Compare the package with the right one by value at hidden points."""
    foreign = [path for path in changes(right, found) if not path.startswith("pkg/")]
    if foreign:
        return Outcome(False, f"files outside pkg/ changed: {foreign[:3]}")
    if any(re.search(rf"\b{old}\b", text) for text in found.values()):
        return Outcome(False, f"the old name {old} is still there")
    try:
        mine, theirs = expressions.functions(right, "pkg"), expressions.functions(found, "pkg")
        by_index = tuple(
            name in theirs and all(theirs[name](x) == mine[name](x) for x in HIDDEN_POINTS)
            for name in mine
        )
    except expressions.NotAllowed as error:
        return Outcome(False, str(error))
    if not all(by_index):
        return Outcome(False, f"{by_index.count(False)} functions are still wrong", by_index)
    said = re.search(rf"REPAIRED +{count}\b", answer)
    return Outcome(bool(said), "" if said else "the answer has not the number", by_index)


class RepairPolicy:
    """Rename file by file, then test, read, correct, until nothing fails."""

    def first(self, prompt: str) -> State:
        names = re.search(r"function (\w+) to (\w+)", prompt)
        files = re.findall(r"pkg/\w+\.py", prompt)
        old, new = names.groups() if names else ("", "")
        return {"i": 0, "old": old, "new": new, "files": files, "phase": "read", "fixed": 0}

    def observe(self, state: State, outputs: Sequence[Output]) -> State | None:
        text = outputs[0].text
        back = {"rename": "read", "correct": "look"}.get(state["phase"])
        if back and "lost in a restart" in text:  # look before repeating
            return {**state, "phase": back}
        match state["phase"]:
            case "read":
                uses = len(re.findall(rf"\b{state['old']}\b", text))
                if not uses and state["new"] in text:
                    return self._renamed(state)
                return {**state, "uses": uses, "phase": "rename"} if uses else None
            case "rename":
                return self._renamed(state) if "+" in text and state["new"] in text else None
            case "test":
                return self._tested(state, text)
            case "look":
                body = re.search(rf"def {state['name']}\(x\):\s*\d*\s+return (.+)", text)
                if body and body[1].strip() != state["right"]:
                    return {**state, "wrong": body[1].strip(), "phase": "correct"}
                return self._corrected(state) if body else None
        return self._corrected(state)

    def _renamed(self, state: State) -> State:
        left = state["files"][1:]
        return {**state, "files": left, "phase": "read" if left else "test"}

    def _corrected(self, state: State) -> State:
        return {**state, "i": state["i"] + 1, "fixed": state["fixed"] + 1, "phase": "test"}

    def _tested(self, state: State, text: str) -> State | None:
        failure = re.search(r"(f_[0-9a-f]{8}) must return ([^\n\"';]+)", text)
        if failure:
            return {**state, "phase": "look", "name": failure[1], "right": failure[2].strip()}
        return {**state, "phase": "done"} if re.search(r"\bpassed\b", text) else None

    def speak(self, state: State) -> Act:
        match state["phase"]:
            case "read":
                return Act([("read_file", {"path": state["files"][0]})])
            case "rename":
                edit = {"old": state["old"], "new": state["new"], "count": state["uses"]}
                return Act([("edit_file", {"path": state["files"][0], "edits": [edit]})])
            case "test":
                return Act([("run_tests", {})], instead=[("python", {"code": RUN_TESTS})])
            case "look":
                return Act([("read_file", {"path": self._module(state)})])
            case "correct":
                head = f"def {state['name']}(x):\n    return "
                edit = {"old": head + state["wrong"], "new": head + state["right"]}
                return Act([("edit_file", {"path": self._module(state), "edits": [edit]})])
        return Act(answer=f"REPAIRED {state['fixed']}")

    def _module(self, state: State) -> str:
        return f"pkg/m{state['i'] % MODULES}.py"

    def slip(self, state: State) -> State:
        return {**state, "fixed": state["fixed"] + 1}
