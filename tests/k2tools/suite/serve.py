"""The official suite's fixtures mounted on the product's own factory and HTTP application.

`python -m tests.k2tools.suite.serve FOLDER STATE` prints the URL and serves until a signal.
"""

import sys
from pathlib import Path
from typing import Any

from mcp_types import ToolAnnotations

from k2tools.server import PACKS, build_server
from k2tools.settings import Settings
from k2tools.toolbox import Pack, Tool, tool
from k2tools.transports import Address, serve_http
from tests.k2tools.suite import asking_tools, plain_tools
from tests.k2tools.suite.handlers import mount

HEADER_SCHEMA = {
    "type": "object",
    "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
    "required": ["region"],
}
SCHEMA_2020_12 = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
ANYTHING = ToolAnnotations()


def verbatim(function: Any, schema: dict[str, Any]) -> Tool:
    """Make a tool with a schema that no signature can state."""
    name = function.__name__
    return Tool(name, f"The fixture {name}.", schema, {}, ANYTHING, function)


def described(function: Any) -> Tool:
    function.__doc__ = function.__doc__ or f"The fixture {function.__name__}."
    return tool(function, example={}, annotations=ANYTHING)


FIXTURES = Pack(
    tools=(
        *map(described, plain_tools.FUNCTIONS),
        *map(described, asking_tools.FUNCTIONS),
        verbatim(plain_tools.test_x_mcp_header, HEADER_SCHEMA),
        verbatim(plain_tools.json_schema_2020_12_tool, SCHEMA_2020_12),
    )
)


def main(folder: str, state: str) -> int:
    settings = Settings(Path(folder), Path(state))
    server = build_server(settings, (*PACKS, FIXTURES))
    mount(server)
    here = Address("127.0.0.1", 0, verifier=None)
    return serve_http(server, settings, here, lambda url: print(url, flush=True))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
