"""Declaring the arguments of a small tool, and refusing those that do not fit."""

from typing import Any

Schema = dict[str, Any]


class Refusal(Exception):
    """An error that the model reads."""


def declared(required: dict[str, str], optional: dict[str, Any] | None = None) -> Schema:
    """Declare arguments: required with descriptions, optional with defaults -> schema."""
    kinds = {str: "string", int: "integer", bool: "boolean"}
    properties: Schema = {
        name: {"type": "string", "description": text} for name, text in required.items()
    }
    for name, default in (optional or {}).items():
        properties[name] = {"type": kinds[type(default)], "default": default}
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


EDIT = {
    "type": "object",
    "properties": {
        "old": {"type": "string", "description": "Exact text."},
        "new": {"type": "string", "description": "Replacement."},
        "count": {"type": "integer", "default": 1, "minimum": 1},
    },
    "required": ["old", "new"],
    "additionalProperties": False,
}
EDIT_FILE = declared({"path": "Relative to the workspace."})
EDIT_FILE["properties"]["edits"] = {"type": "array", "items": EDIT, "minItems": 1}
EDIT_FILE["required"].append("edits")


def check(args: dict[str, Any], schema: Schema) -> None:
    """Refuse unknown, missing and mistyped arguments."""
    types = {"string": str, "integer": int, "boolean": bool, "array": list}
    properties = schema["properties"]
    example = {name: _sample(properties[name]) for name in schema["required"]}
    for name, value in args.items():
        if name not in properties:
            raise Refusal(
                f"unknown argument {name!r}; known: {list(properties)}; example: {example}"
            )
        wanted = properties[name]["type"]
        if not isinstance(value, types[wanted]) or (wanted == "integer" and value is True):
            raise Refusal(f"{name} must be {wanted}, got {value!r}; example: {example}")
    missing = [name for name in schema["required"] if name not in args]
    if missing:
        raise Refusal(f"missing argument {missing[0]!r}; example: {example}")


def _sample(schema: Schema) -> Any:
    return [{"old": "a", "new": "b"}] if schema["type"] == "array" else "notes.md"
