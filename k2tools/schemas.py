"""Argument schemas in Moonshot's flavour of JSON Schema, and their strict validation.

A schema is derived from the tool's signature, so the two cannot disagree. Validation changes
nothing silently: unknown names, wrong types and values out of range are refused with the value
received, the limits and one valid example.
"""

import difflib
import inspect
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from k2tools.results import ToolError, shown

Schema = dict[str, Any]

# The strictest reading of MFJS; anything else is refused by some deployment of the model.
ALLOWED_KEYWORDS = frozenset(
    {"type", "description", "default", "enum", "minimum", "maximum", "items", "anyOf"}
    | {"properties", "required", "additionalProperties"}
    | {"minLength", "maxLength", "minItems", "maxItems"}
)
EXACT_INTEGER = 2**53  # beyond it JSON numbers are not exact in every client
TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}


def schema_of(function: Callable[..., Any]) -> Schema:
    """Derive the input schema from a signature: tool(cx, **arguments) -> JSON Schema."""
    hints = get_type_hints(function, include_extras=True)
    properties, required = {}, []
    for name, parameter in list(inspect.signature(function).parameters.items())[1:]:
        properties[name] = _clean(TypeAdapter(hints[name]).json_schema(), {})
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
        elif isinstance(parameter.default, str | int | float | bool):
            properties[name]["default"] = parameter.default
    schema: Schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return schema | {"additionalProperties": False}


def _clean(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Drop titles, put referenced definitions in place, close objects."""
    if isinstance(schema, list):
        return [_clean(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    definitions = schema.get("$defs", definitions)
    if "$ref" in schema:
        return _clean(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    kept = {
        key: {name: _clean(sub, definitions) for name, sub in value.items()}
        if key == "properties"
        else _clean(value, definitions)
        for key, value in schema.items()
        if key not in {"title", "$defs"}
    }
    if "properties" in kept:
        kept.setdefault("additionalProperties", False)
    return kept


def checked(
    tool: str, schema: Schema, arguments: Mapping[str, Any] | None, example: Mapping[str, Any]
) -> dict[str, Any]:
    """Validate arguments and fill in defaults: schema, arguments -> complete arguments.

    Raises ToolError with what is wrong, the limits and one valid example.
    """
    given = dict(arguments or {})
    wrong = list(_problems(given, schema, ""))
    if wrong:
        raise ToolError(
            f"{tool}: {'; '.join(wrong[:5])}. Takes: {signature(schema)}. "
            f"Example: {call_text(tool, example)}"
        )
    defaults = {k: v["default"] for k, v in schema["properties"].items() if "default" in v}
    return defaults | {
        key: _whole(value, schema["properties"][key]) for key, value in given.items()
    }


def _whole(value: Any, schema: Schema) -> Any:
    """Take 5.0 for the integer it is, as JSON Schema does."""
    return int(value) if schema.get("type") == "integer" else value


def signature(schema: Schema) -> str:
    """Write the arguments with their types, limits and defaults on one line."""
    required = schema.get("required", [])
    return ", ".join(
        f"{name}: {limits(sub)}"
        + ("" if name in required else f" = {json.dumps(sub.get('default'))}")
        for name, sub in schema["properties"].items()
    )


def limits(schema: Schema) -> str:
    """Write a schema's type and limits in words."""
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " | ".join(limits(branch) for branch in schema["anyOf"])
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{schema['type']} {low} to {high}"
    if low is not None:
        return f"{schema['type']} >= {low}"
    if schema.get("type") == "array":
        return f"list of {limits(schema['items'])}"
    if schema.get("type") == "object" and schema.get("properties"):
        return "{" + ", ".join(schema["properties"]) + "}"
    return str(schema.get("type", "value"))


def call_text(tool: str, arguments: Mapping[str, Any]) -> str:
    """Write a call as the model would read it: tool(name=value, …)."""
    pairs = (f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in arguments.items())
    return f"{tool}({', '.join(pairs)})"


def nearest(name: str, names: list[str]) -> str:
    """Suggest the nearest name, or nothing: " (did you mean 'x'?)"."""
    close = difflib.get_close_matches(name, names, 1, 0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _problems(value: Any, schema: Schema, where: str) -> Iterator[str]:
    """List what is wrong with a value, in words a model can act on."""
    if "anyOf" in schema:
        if all(any(_problems(value, branch, where)) for branch in schema["anyOf"]):
            yield f"{where} must be {limits(schema)}, got {shown(value)}"
        return
    if not _has_type(value, schema.get("type")):
        yield f"{where or 'the arguments'} must be {limits(schema)}, got {shown(value)}"
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{where} must be one of {limits(schema)}, got {shown(value)}"
    elif isinstance(value, str):
        yield from _string_problems(value, schema, where)
    elif isinstance(value, list):
        yield from _list_problems(value, schema, where)
    elif isinstance(value, dict):
        yield from _object_problems(value, schema, where)
    elif not isinstance(value, bool) and isinstance(value, int | float):
        yield from _number_problems(value, schema, where)


def _has_type(value: Any, wanted: str | None) -> bool:
    if wanted is None:
        return True
    if wanted == "integer" and isinstance(value, float):
        return value.is_integer()
    if isinstance(value, bool):
        return wanted == "boolean"
    return isinstance(value, TYPES[wanted])


def _number_problems(value: float, schema: Schema, where: str) -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{where} must be finite, got {shown(value)}"
    elif abs(value) > EXACT_INTEGER and isinstance(value, int):
        yield f"{where} must lie within ±2^53, got {shown(value)}"
    elif value < schema.get("minimum", value) or value > schema.get("maximum", value):
        yield f"{where} must be {limits(schema)}, got {shown(value)}"


def _string_problems(value: str, schema: Schema, where: str) -> Iterator[str]:
    if any("\ud800" <= character <= "\udfff" for character in value):
        yield f"{where} holds a lone surrogate, which is not text"
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        yield f"{where} has {len(value)} characters, limit {schema.get('maxLength', 'none')}"


def _list_problems(value: list[Any], schema: Schema, where: str) -> Iterator[str]:
    least, most = schema.get("minItems", 0), schema.get("maxItems", len(value))
    if not least <= len(value) <= most:
        yield f"{where} has {len(value)} items, wanted {least} to {schema.get('maxItems', 'any')}"
    for index, item in enumerate(value):
        yield from _problems(item, schema.get("items", {}), f"{where}[{index}]")


def _object_problems(value: dict[str, Any], schema: Schema, where: str) -> Iterator[str]:
    dot = f"{where}." if where else ""
    known = schema.get("properties", {})
    for name in schema.get("required", []):
        if name not in value:
            yield f"missing argument '{dot}{name}'"
    extra = schema.get("additionalProperties", True)
    for name, item in value.items():
        if name in known:
            yield from _problems(item, known[name], f"{dot}{name}")
        elif extra is False:
            yield f"unknown argument {shown(dot + name)}{nearest(name, list(known))}"
        elif isinstance(extra, dict):
            yield from _problems(item, extra, f"{dot}{name}")
