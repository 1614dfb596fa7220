"""Tools of the official suite that answer, report, or ask a 2025 client back."""

import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp_types import (
    CallToolResult,
    ClientCapabilities,
    SamplingCapability,
    SamplingMessage,
    TextContent,
)

from k2tools.toolbox import Context
from tests.k2tools.suite.contents import audio, embedded, image, text

PAUSE_S = 0.05
MISSING_CAPABILITY = -32021


def answer(*blocks: Any, is_error: bool = False) -> CallToolResult:
    return CallToolResult(content=list(blocks), is_error=is_error)


async def test_simple_text(cx: Context) -> CallToolResult:
    return answer(text("This is a simple text response for testing."))


async def test_image_content(cx: Context) -> CallToolResult:
    return answer(image())


async def test_audio_content(cx: Context) -> CallToolResult:
    return answer(audio())


async def test_embedded_resource(cx: Context) -> CallToolResult:
    return answer(embedded("test://embedded-resource", "This is an embedded resource content."))


async def test_multiple_content_types(cx: Context) -> CallToolResult:
    data = embedded(
        "test://mixed-content-resource", '{"test":"data","value":123}', "application/json"
    )
    return answer(text("Multiple content types test:"), image(), data)


async def test_error_handling(cx: Context) -> CallToolResult:
    return answer(text("This tool intentionally returns an error for testing"), is_error=True)


async def test_tool_with_logging(cx: Context) -> CallToolResult:
    for number, words in enumerate(("started", "data", "completed")):
        if number:
            await anyio.sleep(PAUSE_S)
        verb = "processing" if words == "data" else "execution"
        with warnings.catch_warnings():  # deprecated, and still what a 2025 client is owed
            warnings.simplefilter("ignore", MCPDeprecationWarning)
            await cx.request.session.send_log_message(
                "info", f"Tool {verb} {words}", related_request_id=cx.request.request_id
            )
    return answer(text("Logged three messages."))


async def test_tool_with_progress(cx: Context) -> CallToolResult:
    for done in (0, 50, 100):
        if done:
            await anyio.sleep(PAUSE_S)
        await cx.request.session.report_progress(done, 100, None)
    return answer(text("Reported progress three times."))


async def test_sampling(cx: Context, prompt: str) -> CallToolResult:
    message = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        reply = await cx.request.session.create_message(
            [message], max_tokens=100, related_request_id=cx.request.request_id
        )
    return answer(text(f"LLM response: {reply.content.text}"))


async def elicited(
    cx: Context, message: str, properties: dict[str, Any], required: list[str]
) -> Any:
    """Ask a 2025 client's user: message, schema -> result."""
    schema = {"type": "object", "properties": properties, "required": required}
    return await cx.request.session.elicit_form(message, schema, cx.request.request_id)


async def test_elicitation(cx: Context, message: str) -> CallToolResult:
    properties = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    reply = await elicited(cx, message, properties, ["username", "email"])
    return answer(text(f"User response: action={reply.action}, content={reply.content}"))


DEFAULTS = {
    "name": {"type": "string", "default": "John Doe"},
    "age": {"type": "integer", "default": 30},
    "score": {"type": "number", "default": 95.5},
    "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
    "verified": {"type": "boolean", "default": True},
}


async def test_elicitation_sep1034_defaults(cx: Context) -> CallToolResult:
    reply = await elicited(cx, "Please review the defaults", DEFAULTS, [])
    return answer(text(f"Elicitation completed: action={reply.action}, content={reply.content}"))


def titled(*titles: str) -> list[dict[str, str]]:
    return [{"const": f"value{n}", "title": title} for n, title in enumerate(titles, 1)]


OPTIONS = ["option1", "option2", "option3"]
ENUMS = {
    "untitledSingle": {"type": "string", "enum": OPTIONS},
    "titledSingle": {
        "type": "string",
        "oneOf": titled("First Option", "Second Option", "Third Option"),
    },
    "legacyEnum": {
        "type": "string",
        "enum": ["opt1", "opt2", "opt3"],
        "enumNames": ["Option One", "Option Two", "Option Three"],
    },
    "untitledMulti": {"type": "array", "items": {"type": "string", "enum": OPTIONS}},
    "titledMulti": {
        "type": "array",
        "items": {"anyOf": titled("First Choice", "Second Choice", "Third Choice")},
    },
}


async def test_elicitation_sep1330_enums(cx: Context) -> CallToolResult:
    reply = await elicited(cx, "Please choose", ENUMS, [])
    return answer(text(f"Elicitation completed: action={reply.action}, content={reply.content}"))


async def test_missing_capability(cx: Context) -> CallToolResult:
    """Refuse a client that cannot sample."""
    wanted = ClientCapabilities(sampling=SamplingCapability())
    if not cx.request.session.check_client_capability(wanted):
        data = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(MISSING_CAPABILITY, "This tool needs sampling", data)
    return answer(text("The client can sample."))


async def test_x_mcp_header(cx: Context, region: str) -> CallToolResult:
    return answer(text(f"Region {region}"))


async def json_schema_2020_12_tool(cx: Context, **anything: Any) -> CallToolResult:
    return answer(text(f"Received {sorted(anything)}"))


FUNCTIONS: list[Callable[..., Awaitable[CallToolResult]]] = [
    test_simple_text,
    test_image_content,
    test_audio_content,
    test_embedded_resource,
    test_multiple_content_types,
    test_error_handling,
    test_tool_with_logging,
    test_tool_with_progress,
    test_sampling,
    test_elicitation,
    test_elicitation_sep1034_defaults,
    test_elicitation_sep1330_enums,
    test_missing_capability,
]
