"""Tools declared in TypeScript, as K2.5 and later read them.

JSON Schema becomes a type: objects with required fields first and each half sorted by name,
integers as numbers, enumerations as unions, `$defs` as interfaces; what a type cannot say
(descriptions, limits, defaults) stands in comments. A schema that has no such form raises
ValueError, and the prompt then carries the tools as JSON.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Schema = Mapping[str, Any] | bool

_STEP = "  "
_LIMITS = {
    "string": ("maxLength", "minLength", "pattern"),
    "number": ("maximum", "minimum"),
    "integer": ("maximum", "minimum"),
    "array": ("maxItems", "minItems"),
}
_UNION = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "null": "null",
    "object": "{}",
    "array": "Array<any>",
}
_PYTHON: dict[str, Any] = {"string": str, "number": (int, float), "integer": int, "boolean": bool}


@dataclass
class _Scope:
    """The definitions of one function, and whether it refers to itself."""

    definitions: dict[str, Any] = field(default_factory=dict)
    self_reference: bool = False


def declare_tools(tools: Sequence[Mapping[str, Any]]) -> str:
    """Declare tools in TypeScript: tools -> text, empty without functions.

    Raises:
        ValueError: a schema that has no such form.
    """
    functions = [
        _function(tool["function"])
        for tool in tools
        if tool.get("type") == "function" and tool.get("function")
    ]
    if not functions:
        return ""
    body = "\n".join(functions)
    return f"# Tools\n\n## functions\nnamespace functions {{\n{body}\n}}\n"


def _function(function: Mapping[str, Any]) -> str:
    scope = _Scope()
    parameters = function.get("parameters") or {}
    _collect(parameters, scope)
    argument = _object(parameters, scope, "")
    lines = []
    if scope.self_reference:
        names = parameters.get("properties", {})  # not sorted here, unlike everywhere else
        fields = ",\n".join(_field(parameters, name, scope, _STEP) for name in names)
        lines.append("interface parameters {" + (f"\n{fields}\n" if fields else "") + "}")
        argument = "parameters"
    for name, schema in list(scope.definitions.items()):
        lines += _comment(schema.get("description", ""), "")
        lines.append(f"interface {name} {_type(schema, scope, '')}")
    lines += _comment(function.get("description") or "", "")
    lines.append(f"type {function.get('name', 'function')} = (_: {argument}) => any;")
    return "\n".join(lines)


def _collect(schema: Any, scope: _Scope) -> None:
    """Gather the `$defs` of an object and of the objects in it: schema, scope."""
    if isinstance(schema, Mapping):
        scope.definitions.update(schema.get("$defs", {}))
        for inner in schema.get("properties", {}).values():
            _collect(inner, scope)


def _type(schema: Schema, scope: _Scope, indent: str) -> str:
    """Write the type of a schema: schema -> text."""
    if isinstance(schema, bool):
        return "any" if schema else "null"
    if "$ref" in schema:
        return _reference(schema["$ref"], scope)
    if "anyOf" in schema:
        return " | ".join(_type(option, scope, indent) for option in schema["anyOf"])
    if "enum" in schema:
        return _enumeration(schema)
    kind = schema.get("type")
    if isinstance(kind, list):
        return _union(kind)
    if kind == "object":
        return _object(schema, scope, indent)
    if kind == "array":
        return _array(schema, scope, indent)
    if kind is None and schema:
        raise ValueError(f"a schema needs a type, an enum, anyOf or $ref, got {dict(schema)}")
    return {"integer": "number", None: "any"}.get(kind, str(kind))


def _reference(target: str, scope: _Scope) -> str:
    if target == "#":
        scope.self_reference = True
        return "parameters"
    name = target.removeprefix("#/$defs/")
    if name not in scope.definitions:
        raise ValueError(f"a reference must be # or #/$defs/NAME of this schema, got {target}")
    return name


def _union(kinds: Sequence[str]) -> str:
    if unknown := [kind for kind in kinds if kind not in _UNION]:
        raise ValueError(f"unknown type {unknown[0]!r} in a union")
    return " | ".join(_UNION[kind] for kind in kinds)


def _enumeration(schema: Mapping[str, Any]) -> str:
    values, kinds = schema["enum"], schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else [k for k in kinds if k != "null"] or kinds[:1]
    if len(kinds) > 1:
        raise ValueError(f"the values of an enum have one type and null, got {schema['type']}")
    wanted = _PYTHON.get(kinds[0]) if kinds else None
    for value in values:
        if wanted and value is not None and not isinstance(value, wanted):
            raise ValueError(f"{value!r} in the enum is no {kinds[0]}")
    return " | ".join(f'"{v}"' if isinstance(v, str) else str(v) for v in values)


def _array(schema: Mapping[str, Any], scope: _Scope, indent: str) -> str:
    items = schema.get("items")
    if not items:
        return "Array<any>"
    inside = indent + _STEP
    comments = _comments(items, inside)
    if not comments:
        return f"Array<{_type(items, scope, indent)}>"
    return "\n".join(["Array<", *comments, inside + _type(items, scope, inside), f"{indent}>"])


def _object(schema: Mapping[str, Any], scope: _Scope, indent: str) -> str:
    inside = indent + _STEP
    required = schema.get("required", [])
    names = sorted(schema.get("properties", {}), key=lambda name: (name not in required, name))
    fields = [_field(schema, name, scope, inside) for name in names]
    extra = schema.get("additionalProperties")
    if extra is not None:
        kind = "never" if extra is False else _type(extra, scope, inside)
        fields.append(f"{inside}[k: string]: {kind}")
    return "{\n" + ",\n".join(fields) + f"\n{indent}}}" if fields else "{}"


def _field(schema: Mapping[str, Any], name: str, scope: _Scope, indent: str) -> str:
    value = schema["properties"][name]
    comments = _comments(value, indent)
    default = value.get("default") if isinstance(value, Mapping) else None
    if default is not None:
        number = isinstance(default, int | float)  # written as Python does: True, 1e-05
        text = repr(default) if number else json.dumps(default, ensure_ascii=False)
        comments.append(f"{indent}// Default: {text}")
    mark = "" if name in schema.get("required", []) else "?"
    return "\n".join([*comments, f"{indent}{name}{mark}: {_type(value, scope, indent)}"])


def _comments(schema: Schema, indent: str) -> list[str]:
    """Write what a type cannot say: schema -> comment lines."""
    if isinstance(schema, bool):
        return []
    lines = _comment(schema.get("description", ""), indent)
    kind = schema.get("type")
    plain = isinstance(kind, str) and not {"$ref", "anyOf", "enum"} & set(schema)
    limits = [k for k in _LIMITS.get(str(kind), ()) if plain and k in schema]
    if limits:
        lines.append(f"{indent}// " + ", ".join(f"{key}: {schema[key]}" for key in limits))
    return lines


def _comment(text: str, indent: str) -> list[str]:
    return [f"{indent}// {line}" if line else "" for line in text.split("\n")] if text else []
