"""S1, S3, S4: what every single call of a server must keep."""

import re
from collections.abc import Iterator
from typing import Any

from conformance.agent.attempt import attempt
from conformance.agent.limits import WINDOW
from conformance.agent.misbehaving import Literal
from conformance.agent.server_subject import Subject, body, one, right_arguments
from conformance.agent.toolbox import Result, Tool, Toolbox

NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{2,23}")
MFJS = frozenset(
    {"type", "description", "default", "enum", "minimum", "maximum", "items", "anyOf"}
    | {"properties", "required", "additionalProperties", "minLength", "maxLength", "minItems"}
    | {"maxItems", "$defs", "$ref"}
)
DEFAULT_CHARS, HARD_CHARS, LINE_CHARS = 4_000, 32_000, 2_000
LARGE_LINES = 3_000
LEAKED = re.compile(
    r"Traceback|input_value=|File \"|errors\.pydantic\.dev|failed inside the server|internal error",
    re.IGNORECASE,
)
NASTY = ("", "a\0b", "../x", "\U0001f600\u202e", "-1")  # strings that schemas allow


def s1_schemas(subject: Subject, n: int) -> str:
    """Schemas keep to MFJS, names to 24 word characters, all tools to 1 % of the window."""
    with subject.start() as box:
        tools = box.tools()
    for tool in tools:
        if not NAME.fullmatch(tool.name):
            return f"{tool.name}: the name must match {NAME.pattern}"
        if not tool.description:
            return f"{tool.name} has no description"
        wrong = next(_schema_problems(tool.schema, tool.name), "")
        if wrong:
            return wrong
    weight = sum(len(tool.description) + len(str(tool.schema)) for tool in tools) // 4
    return "" if weight <= WINDOW / 100 else f"{weight} tokens of declarations"


def _schema_problems(schema: dict[str, Any], where: str) -> Iterator[str]:
    unknown = set(schema) - MFJS
    if unknown:
        yield f"{where}: {sorted(unknown)} are outside MFJS"
    if not {"type", "anyOf", "$ref"} & set(schema):
        yield f"{where}: type is not defined"
    if schema.get("type") == "object" and "additionalProperties" not in schema:
        yield f"{where}: additionalProperties is not said"
    for name, sub in (schema.get("properties") or {}).items():
        yield from _schema_problems(sub, f"{where}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from _schema_problems(schema["items"], f"{where}[]")


def bad_calls(tool: Tool) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Make bad calls of a tool: (kind, arguments, the argument that an error must name)."""
    right = right_arguments(tool.schema)
    yield "unknown argument", {**right, "verbosity": 3}, "verbosity"
    for name in right:
        yield "missing", {k: v for k, v in right.items() if k != name}, name
    for name, schema in tool.schema["properties"].items():
        for wrong in WRONG.get(schema.get("type", ""), ()):
            yield "wrong type", {**right, name: wrong}, name


WRONG: dict[str, tuple[Any, ...]] = {  # nothing is taken for something else
    "string": ([1], 7),
    "integer": ("seven", "7", 1.5),
    "number": ("7",),
    "boolean": ("true", 1),
    "array": ("[]",),
    "object": ("{}",),
}


def valid_calls(tool: Tool) -> Iterator[dict[str, Any]]:
    """Make calls that the schema allows, though few of them make sense."""
    right = right_arguments(tool.schema)
    yield right
    for name, schema in tool.schema["properties"].items():
        if schema.get("type") == "string" and "enum" not in schema:
            yield from ({**right, name: text} for text in NASTY)


def s3_errors(subject: Subject, n: int) -> str:
    """A bad call is an error that names the argument and what came, shows an example, and leads a
    literal reader to success; nothing that a schema allows breaks the server."""
    with subject.start() as box:
        for tool in box.tools():
            wrong = _bad_answer(box, tool) or _broken(box, tool)
            if wrong:
                return f"{tool.name}: {wrong}"
        return _literal(subject, box)


def _bad_answer(box: Toolbox, tool: Tool) -> str:
    for kind, args, named in bad_calls(tool):
        result = one(box, tool.name, **args)
        if not result.error:
            return f"{kind} {named!r} was accepted: {args}"
        if named not in result.text or LEAKED.search(result.text):
            return f"{kind}: {result.text[:90]!r}"
        if "example" not in result.text.lower():
            return f"{kind}: no example in {result.text!r}"
        if kind == "wrong type" and repr(args[named]) not in result.text:
            return f"{kind}: {args[named]!r}, which came, is not in {result.text[:90]!r}"
    return ""


def _broken(box: Toolbox, tool: Tool) -> str:
    if tool.name == "python":
        return ""  # it shows the traceback of the model's own code
    for args in valid_calls(tool):
        result = one(box, tool.name, **args)
        if LEAKED.search(result.text):
            return f"{args}: {result.text[:90]!r}"
    return ""


def _literal(subject: Subject, box: Toolbox) -> str:
    path = min(subject.task.files)
    names = list(next(t for t in box.tools() if t.name == "read_file").schema["properties"])

    def repair(args: dict[str, Any], text: str) -> dict[str, Any] | None:
        wrong = next((name for name in args if name not in names), None)
        if wrong is None:
            return None
        named = re.findall(r"\b(" + "|".join(names) + r")\b", text)
        return {named[0]: args[wrong]} if named else {}

    model = Literal("read_file", {"pathh": path}, repair)
    found = attempt(subject.task, model, toolbox=box, root=subject.world)
    calls = found.run.calls
    return (
        ""
        if not calls[-1].result.error and len(calls) <= 3
        else f"not recovered: {calls[-1].result.text[:90]!r}"
    )


def s4_limits(subject: Subject, n: int) -> str:
    """Outputs are capped, the rest stays reachable, and no path leads outside."""
    lines = [f"line {i} {'x' * 60}" for i in range(1, LARGE_LINES + 1)] + ["y" * 5_000]
    (subject.world / "large.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (subject.folder / "outside.txt").write_text("outside", encoding="utf-8")
    (subject.world / "link.txt").symlink_to(subject.folder / "outside.txt")
    with subject.start() as box:
        first = one(box, "read_file", path="large.txt")
        if len(first.text) > DEFAULT_CHARS + 200:
            return f"{len(first.text)} characters without being asked for more"
        wide = one(box, "read_file", path="large.txt", max_lines=1_000)
        if len(wide.text) > HARD_CHARS + 200:
            return f"{len(wide.text)} characters, the hard cap is {HARD_CHARS}"
        longest = max(map(len, _last_line(box).text.split("\n")))
        if longest > LINE_CHARS + 100:
            return f"a line of {longest} characters, the cap is {LINE_CHARS}"
        missing = _not_reached(box, first)
        if missing:
            return missing
        for path in (
            "../outside.txt",
            "/etc/passwd",
            "link.txt",
            "cells/../../outside.txt",
            "a\0b",
        ):
            result = one(box, "read_file", path=path)
            if not result.error or body(result) == "outside" or "root:" in result.text:
                return f"{path!r} was read"
    return ""


def _last_line(box: Toolbox) -> Result:
    return one(box, "read_file", path="large.txt", line=LARGE_LINES + 1, max_lines=1)


def _not_reached(box: Toolbox, first: Result) -> str:
    """Follow the calls that cut results name; every line must come once."""
    result, seen = first, 0
    for _ in range(LARGE_LINES):
        seen += len(re.findall(r"\bline \d+ x", result.text))
        more = re.search(r"\[more: (\w+)\((.*)\)\]", result.text)
        if not more:
            break
        args = dict(re.findall(r'(\w+)="([^"]*)"', more[2]))
        numbers = {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", more[2])}
        result = one(box, more[1], **args, **numbers)
        if result.error:
            return f"the call it names fails: {result.text[:90]!r}"
    return "" if seen == LARGE_LINES else f"{seen} of {LARGE_LINES} lines can be reached"
