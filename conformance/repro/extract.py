"""The part of our source that one function needs, so that a file can carry it along.

Definitions are followed through imports within the project; imports of other packages are kept.
"""

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from k2ref.errors import InputError

OURS = ("conformance", "k2ref")


class Source(NamedTuple):
    """One module: its definitions by name, and where each imported name comes from."""

    text: str
    defined: dict[str, ast.stmt]
    imported: dict[str, tuple[str, str | None]]


def extract(module: str, *names: str) -> str:
    """Gather what functions need: module, their names -> Python text that stands alone."""
    imports: dict[str, None] = {}
    parts: dict[tuple[str, str], str] = {}
    for name in names:
        _visit(module, name, imports, parts)
    return "\n".join(imports) + "\n\n\n" + "\n\n\n".join(filter(None, parts.values())) + "\n\n\n"


def _visit(
    module: str, name: str, imports: dict[str, None], parts: dict[tuple[str, str], str]
) -> None:
    source = _read(module)
    if name in source.imported:
        origin, attribute = source.imported[name]
        if origin.split(".")[0] not in OURS:
            imports[_import(origin, attribute, name)] = None
        elif attribute is None or not _offers(origin, attribute):
            raise InputError(f"{module} takes {name} as a module; a file cannot carry it")
        else:
            _visit(origin, attribute, imports, parts)
        return
    if name not in source.defined or (module, name) in parts:
        return
    if any(other == name for _, other in parts):
        raise InputError(f"two modules define {name}; a file can carry only one")
    parts[module, name] = ""
    node = source.defined[name]
    for used in sorted({n.id for n in ast.walk(node) if isinstance(n, ast.Name)}):
        if used != name:
            _visit(module, used, imports, parts)
    parts.pop((module, name))  # after what it needs
    parts[module, name] = _text(source.text, node)


def _offers(module: str, name: str) -> bool:
    source = _read(module)
    return name in source.defined or name in source.imported


@cache
def _read(module: str) -> Source:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise InputError(f"no source of {module}")
    text = Path(spec.origin).read_text(encoding="utf-8")
    tree = ast.parse(text)
    defined = {name: node for node in tree.body for name in _names(node)}
    imported: dict[str, tuple[str, str | None]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {(a.asname or a.name.split(".")[0]): (a.name, None) for a in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            imported |= {(a.asname or a.name): (node.module, a.name) for a in node.names}
    return Source(text, defined, imported)


def _names(node: ast.stmt) -> Iterator[str]:
    """List what a statement defines: -> names."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
    yield from (t.id for t in targets if isinstance(t, ast.Name))


def _import(origin: str, attribute: str | None, name: str) -> str:
    if attribute is None:
        return f"import {origin}" + ("" if origin.split(".")[0] == name else f" as {name}")
    return f"from {origin} import {attribute}" + ("" if attribute == name else f" as {name}")


def _text(source: str, node: ast.stmt) -> str:
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(d.lineno for d in decorators)])
    return "\n".join(source.splitlines()[first - 1 : node.end_lineno])
