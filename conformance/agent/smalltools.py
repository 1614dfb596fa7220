"""A small tool server in memory of one process: a peer for calibration, not a sandbox.

It offers the names and formats of the published tool set as far as the families need them, over
the files of one directory, numbers its results (`[r1]`), and reads earlier ones with `open`. It
runs no code: `run_tests` and `math_check` use the small evaluator of expressions.py.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from conformance.agent import expressions
from conformance.agent.server_log import LogWriter
from conformance.agent.smallschemas import EDIT_FILE, Refusal, Schema, check, declared
from conformance.agent.tasks import read_world
from conformance.agent.toolbox import Result, Tool, ToolCall

CAP_CHARS = 4_000


@dataclass
class SmallTools:
    """The tools over one directory; results are kept under their refs."""

    root: Path
    log: LogWriter | None = None
    keyed: bool = False  # whether the log remembers keys
    results: list[str] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        if self.log is not None:  # a restart keeps its refs
            self.results += self.log.bodies()

    def tools(self) -> list[Tool]:
        memory = str(self.log.folder) if self.keyed and self.log else ""
        return [Tool(name, text, schema, reads, memory) for name, text, schema, reads, _ in TOOLS]

    def call_all(self, calls: Sequence[ToolCall]) -> list[Result]:
        with self._lock:
            return [self._again(call) or self._one(call) for call in calls]

    def _again(self, call: ToolCall) -> Result | None:
        """Answer a call whose key is known; note a new one."""
        if self.log is None or not (self.keyed and call.key):
            return None
        known = self.log.remembered()
        if call.key not in known:
            self.log.note(call.key)
            return None
        place = known[call.key]
        if place is None:
            return Result("whether this call was executed is not known", True, fault="lost")
        return Result(f"{self.results[place]}\n[r{place + 1}]")

    def _one(self, call: ToolCall) -> Result:
        functions = {name: function for name, _, _, _, function in TOOLS}
        schemas = {name: schema for name, _, schema, _, _ in TOOLS}
        try:
            if call.name not in functions:
                raise Refusal(f"unknown tool {call.name!r}; tools: {', '.join(functions)}")
            check(call.args, schemas[call.name])
            text, error = functions[call.name](self, **call.args), False
        except Refusal as refusal:
            text, error = str(refusal), True
        self.results.append(text)
        if self.log is not None:
            self.log.write(call, text, error)
        return Result(self._shown(text), error)

    def _shown(self, text: str) -> str:
        ref = f"r{len(self.results)}"
        if len(text) > CAP_CHARS:
            head = text[: text.rfind("\n", 0, CAP_CHARS) + 1] or text[:CAP_CHARS]
            text = f'{head}[more: open(id="{ref}", line={head.count(chr(10)) + 1})]'
        return f"{text}\n[{ref}]"

    def path(self, name: str) -> Path:
        """Resolve a path inside the directory."""
        if "\0" in name:
            raise Refusal("a path has no NUL character")
        path = (self.root / name).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise Refusal(f"{name} leaves the workspace; give a relative path inside it")
        return path

    def text(self, name: str) -> str:
        """Read a file, or say which names are near."""
        path = self.path(name)
        if path.is_file():
            return path.read_text(encoding="utf-8")
        names = list(read_world(self.root))
        near = difflib.get_close_matches(name, names, 2, 0.75) if len(names) < 200 else []
        hint = f" Near: {', '.join(near)}." if near else " list_files shows what there is."
        raise Refusal(f"{name} does not exist. Paths are relative to the workspace.{hint}")

    def document(self, id: str) -> str:
        """Read a file, or an earlier result by its ref."""
        ref = re.fullmatch(r"r(\d+)", id)
        if not ref:
            return self.text(id)
        if not 1 <= int(ref[1]) <= len(self.results):
            raise Refusal(f"no result {id}; results go from r1 to r{len(self.results)}")
        return self.results[int(ref[1]) - 1]


def _numbered(text: str, line: int, max_lines: int) -> str:
    lines = text.split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    chosen = list(enumerate(lines, 1))[line - 1 : line - 1 + max_lines]
    if not chosen:
        raise Refusal(f"line {line} is past the end; there are {len(lines)} lines")
    return "\n".join(f"{number}\t{text}" for number, text in chosen)


def read_file(box: SmallTools, path: str, line: int = 1, max_lines: int = 200) -> str:
    return _numbered(box.text(path), line, max_lines)


def open_id(box: SmallTools, id: str, line: int = 1, max_lines: int = 60) -> str:
    return _numbered(box.document(id), line, max_lines)


def find(box: SmallTools, id: str, pattern: str, max_hits: int = 10) -> str:
    try:
        wanted = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise Refusal(f"{pattern!r} is no regex: {error}") from None
    lines = enumerate(box.document(id).splitlines(), 1)
    hits = [f"{number}\t{line}" for number, line in lines if wanted.search(line)]
    return "\n".join(hits[:max_hits]) or "no line matches"


def write_file(box: SmallTools, path: str, text: str) -> str:
    target = box.path(path)
    if target.is_dir():
        raise Refusal(f"{path!r} is a folder; give the path of a file")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return f"{path}: {len(text)} characters written"


def edit_file(box: SmallTools, path: str, edits: list[dict[str, Any]]) -> str:
    before = after = box.text(path)
    for edit in edits:
        count = after.count(edit["old"])
        if count != edit.get("count", 1):
            raise Refusal(
                f"{edit['old']!r} occurs {count} times in {path}, expected "
                f"{edit.get('count', 1)}; nothing was changed"
            )
        after = after.replace(edit["old"], edit["new"])
    box.path(path).write_text(after, encoding="utf-8")
    lines = difflib.unified_diff(before.split("\n"), after.split("\n"), path, path, "", "", 1, "")
    return "\n".join(lines)


def list_files(box: SmallTools, glob: str = "**/*") -> str:
    if not glob:
        raise Refusal("an empty glob matches nothing; **/* lists all files")
    files = read_world(box.root)
    chosen = {n: t for n, t in files.items() if glob == "**/*" or Path(n).match(glob)}
    return "\n".join(f"{name}  {len(text)}" for name, text in chosen.items()) or "no files"


def search(box: SmallTools, query: str, k: int = 5) -> str:
    """Rank documents by how many words of the query they hold."""
    words = set(re.findall(r"\w+", query.lower()))
    documents = {n: t for n, t in read_world(box.root).items() if n.startswith("corpus/")}
    scored = [(len(words & set(re.findall(r"\w+", t.lower()))), n) for n, t in documents.items()]
    ranked = [name for score, name in sorted(scored, key=lambda s: (-s[0], s[1])) if score][:k]
    hits = [f"{i}. {n} | {documents[n].splitlines()[0]}" for i, n in enumerate(ranked, 1)]
    return "\n".join(hits) or "no hits"


def run_tests(box: SmallTools, select: str = ".") -> str:
    return expressions.run_tests(read_world(box.root))


def math_check(box: SmallTools, op: str, a: str, b: str = "") -> str:
    try:
        return expressions.math_check(op, a, b)
    except expressions.NotAllowed as error:
        raise Refusal(str(error)) from None


Function = Callable[..., str]
TOOLS: list[tuple[str, str, Schema, bool, Function]] = [
    (
        "search",
        "Search the corpus; returns doc ids and titles.",
        declared({"query": "Words to look for."}, {"k": 5}),
        True,
        search,
    ),
    (
        "open",
        "Read lines of a document, or of an earlier result by its ref (r17).",
        declared({"id": "Doc id or ref."}, {"line": 1, "max_lines": 60}),
        True,
        open_id,
    ),
    (
        "find",
        "Find a regex inside one document or earlier result; returns matching lines.",
        declared({"id": "Doc id or ref.", "pattern": "Python regex."}, {"max_hits": 10}),
        True,
        find,
    ),
    (
        "read_file",
        "Read a text file of the workspace with line numbers.",
        declared({"path": "Relative to the workspace."}, {"line": 1, "max_lines": 200}),
        True,
        read_file,
    ),
    (
        "write_file",
        "Create or replace a text file.",
        declared({"path": "Relative to the workspace.", "text": "Content."}),
        False,
        write_file,
    ),
    ("edit_file", "Replace exact text in a file; all edits or none.", EDIT_FILE, False, edit_file),
    (
        "list_files",
        "List workspace files with sizes.",
        declared({}, {"glob": "**/*"}),
        True,
        list_files,
    ),
    (
        "run_tests",
        "Run the tests; shows the first failure.",
        declared({}, {"select": "."}),
        True,
        run_tests,
    ),
    (
        "math_check",
        "Exact mathematics: eval, equal, valid.",
        declared({"op": "eval, equal or valid.", "a": "Expression."}, {"b": ""}),
        True,
        math_check,
    ),
]
