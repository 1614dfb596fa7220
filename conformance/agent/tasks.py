"""A task: a generated world, a question about it, and the proof of an answer.

Every name in a world is a keyed hash, so nothing can be guessed and no shortcut leads past the
calls that the task wants. A task says which calls must come, in which order (milestones), and
which must never come (minefields); its outcome is checked on the answer and on the files.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

State = dict[str, Any]
Files = Mapping[str, str]


class Output(NamedTuple):
    """One tool result as a model sees it."""

    name: str
    args: dict[str, Any]
    text: str


class Act(NamedTuple):
    """What a model does next: calls, or an answer."""

    calls: Sequence[tuple[str, dict[str, Any]]] = ()
    answer: str = ""
    instead: Sequence[tuple[str, dict[str, Any]]] = ()  # for a server that lacks those tools


class Policy(Protocol):
    """The right way through a family, as a fold over what the tools return.

    `observe` returns None when an output cannot be used and the call should be sent again;
    `speak` words the next calls or the answer from the state alone; `slip` is one wrong step.
    """

    def first(self, prompt: str) -> State: ...

    def observe(self, state: State, outputs: Sequence[Output]) -> State | None: ...

    def speak(self, state: State) -> Act: ...

    def slip(self, state: State) -> State: ...


class Step(NamedTuple):
    """One milestone: a call of `tool` (or one of `a|b`) whose argument `key` equals `value`."""

    tool: str
    key: str
    value: str


class Minefield(NamedTuple):
    """A call that must never come: `pattern` is looked for in its arguments and in the answer."""

    name: str
    pattern: str


class Outcome(NamedTuple):
    """Whether the task was solved, why not, and what was right by index (drift)."""

    solved: bool
    reason: str = ""
    by_index: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Task:
    """One instance of a family."""

    family: str
    seed: str
    n: int
    prompt: str
    files: Files
    tools: tuple[str, ...]
    milestones: tuple[Step, ...]
    needed_calls: int
    policy: Policy
    outcome: Callable[[str, Files], Outcome]
    answer: str = ""
    minefields: tuple[Minefield, ...] = ()
    unsolvable: bool = False
    modifiers: frozenset[str] = field(default_factory=frozenset)
    public_check: Callable[[str, Files], bool] | None = None  # what a model could check itself

    @property
    def name(self) -> str:
        return "-".join([self.family, str(self.n), self.seed, *sorted(self.modifiers)])


def key(seed: str, *parts: object, size: int = 12) -> str:
    """Make an unguessable name: seed, parts -> hex."""
    text = json.dumps([str(part) for part in parts]).encode()
    return hmac.new(seed.encode(), text, hashlib.sha256).hexdigest()[:size]


def number(seed: str, *parts: object, below: int) -> int:
    """Make an unguessable number: seed, parts -> 0 .. below - 1."""
    return int(key(seed, *parts, size=16), 16) % below


def write_world(files: Files, root: Path, *, again: bool = False) -> None:
    """Write a world's files into an empty directory, or `again` over a part of this world."""
    root.mkdir(parents=True, exist_ok=True)
    partial = again and set(read_world(root)) <= set(files)
    if any(root.iterdir()) and not partial:
        raise FileExistsError(f"{root} is not empty; give the task a directory of its own")
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def read_world(root: Path) -> dict[str, str]:
    """Read a directory back: relative path -> text; hidden entries are the server's own."""
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    names = {path.relative_to(root).as_posix(): path for path in paths}
    return {
        name: path.read_text(encoding="utf-8", errors="replace")
        for name, path in names.items()
        if not any(part.startswith(".") or part == "__pycache__" for part in name.split("/"))
    }


def world_hash(files: Files) -> str:
    """Hash a world: every name and every byte count."""
    text = json.dumps(sorted(files.items()), ensure_ascii=False).encode()
    return hashlib.sha256(text).hexdigest()


def changes(wanted: Files, found: Files) -> list[str]:
    """List the files that differ from what is wanted."""
    return sorted(n for n in {*wanted, *found} if wanted.get(n) != found.get(n))


def numbers_in(pattern: str, text: str) -> re.Match[str] | None:
    """Find the last match of a pattern in an answer."""
    matches = list(re.finditer(pattern, text))
    return matches[-1] if matches else None


def field_of(text: str, name: str) -> str:
    """Read `name: value` from a tool output, whatever stands before it on the line."""
    found = re.search(rf"\b{name}: *(\S+)", text)
    return found[1] if found else ""


def padded(text: str, seed: str, chars: int) -> str:
    """Lengthen a file with filler lines up to about `chars` characters."""
    lines: list[str] = []
    size = len(text)
    while size < chars:
        lines.append("filler " + key(seed, "filler", len(lines), size=48))
        size += len(lines[-1]) + 1
    return text + "".join(line + "\n" for line in lines)


def steps(tool: str, argument: str, values: Iterable[str]) -> tuple[Step, ...]:
    """Make one milestone per value."""
    return tuple(Step(tool, argument, value) for value in values)
