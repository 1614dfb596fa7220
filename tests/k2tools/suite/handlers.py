"""Resources, prompts, completion, subscriptions and log levels of the official suite."""

import json
import re
from typing import Any

from mcp.server import Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    BlobResourceContents,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    EmptyResult,
    GetPromptRequestParams,
    GetPromptResult,
    InputRequiredResult,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    Prompt,
    PromptArgument,
    PromptMessage,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextResourceContents,
    UnsubscribeRequestParams,
)

from tests.k2tools.suite.asking_tools import accepted, answers, ask, elicit
from tests.k2tools.suite.contents import embedded, image, png, text

FRESH = {"ttl_ms": 60_000, "cache_scope": "public"}
TEMPLATE = re.compile(r"test://template/([^/]+)/data")
TEXTS = {
    "test://static-text": "This is the content of the static text resource.",
    "test://watched-resource": "This resource may change.",
}


async def list_resources(cx: Any, _: PaginatedRequestParams | None) -> ListResourcesResult:
    described = [*((uri, "text/plain") for uri in TEXTS), ("test://static-binary", "image/png")]
    resources = [
        Resource(uri=uri, name=uri[7:], description=f"The resource {uri[7:]}", mime_type=kind)
        for uri, kind in described
    ]
    return ListResourcesResult(resources=resources, **FRESH)


async def list_templates(cx: Any, _: PaginatedRequestParams | None) -> ListResourceTemplatesResult:
    template = ResourceTemplate(
        uri_template="test://template/{id}/data",
        name="template",
        description="Data by id",
        mime_type="application/json",
    )
    return ListResourceTemplatesResult(resource_templates=[template], **FRESH)


async def read_resource(cx: Any, params: ReadResourceRequestParams) -> ReadResourceResult:
    uri = str(params.uri)
    contents: TextResourceContents | BlobResourceContents
    if uri in TEXTS:
        contents = TextResourceContents(uri=uri, mime_type="text/plain", text=TEXTS[uri])
    elif uri == "test://static-binary":
        contents = BlobResourceContents(uri=uri, mime_type="image/png", blob=png())
    elif match := TEMPLATE.fullmatch(uri):
        data = {"id": match[1], "templateTest": True, "data": f"Data for ID: {match[1]}"}
        contents = TextResourceContents(
            uri=uri, mime_type="application/json", text=json.dumps(data)
        )
    else:
        raise MCPError(INVALID_PARAMS, "Resource not found", {"uri": uri})
    return ReadResourceResult(contents=[contents], **FRESH)


ARGUMENTS = {
    "test_simple_prompt": (),
    "test_prompt_with_arguments": ("arg1", "arg2"),
    "test_prompt_with_embedded_resource": ("resourceUri",),
    "test_prompt_with_image": (),
    "test_input_required_result_prompt": (),
}


async def list_prompts(cx: Any, _: PaginatedRequestParams | None) -> ListPromptsResult:
    prompts = [
        Prompt(
            name=name,
            description=f"The prompt {name}",
            arguments=[PromptArgument(name=a, description=a, required=True) for a in arguments],
        )
        for name, arguments in ARGUMENTS.items()
    ]
    return ListPromptsResult(prompts=prompts, **FRESH)


async def get_prompt(
    cx: Any, params: GetPromptRequestParams
) -> GetPromptResult | InputRequiredResult:
    given = params.arguments or {}
    missing = [name for name in ARGUMENTS.get(params.name, ()) if name not in given]
    if params.name not in ARGUMENTS or missing:
        raise MCPError(INVALID_PARAMS, f"No prompt {params.name} with {sorted(given)}")
    if params.name == "test_input_required_result_prompt":
        content = accepted(answers(cx), "user_context")
        if content is None:
            question = elicit("What context should the prompt use?", context="string")
            return ask({"user_context": question})
        return said(text(f"Use this context: {content['context']}"))
    return said(*prompt_blocks(params.name, given))


def prompt_blocks(name: str, given: dict[str, str]) -> list[Any]:
    if name == "test_prompt_with_arguments":
        return [text("Prompt with arguments: arg1='{arg1}', arg2='{arg2}'".format(**given))]
    if name == "test_prompt_with_embedded_resource":
        resource = embedded(given["resourceUri"], "Embedded resource content for testing.")
        return [resource, text("Please process the embedded resource above.")]
    if name == "test_prompt_with_image":
        return [image(), text("Please analyze the image above.")]
    return [text("This is a simple prompt for testing.")]


def said(*blocks: Any) -> GetPromptResult:
    return GetPromptResult(messages=[PromptMessage(role="user", content=block) for block in blocks])


async def complete(cx: Any, params: CompleteRequestParams) -> CompleteResult:
    known = ["paris", "park", "party"]
    values = [word for word in known if word.startswith(params.argument.value)]
    return CompleteResult(completion=Completion(values=values, total=len(values), has_more=False))


async def accept(cx: Any, params: Any) -> EmptyResult:
    return EmptyResult()


def mount(server: Server[Any]) -> None:
    """Add what the product's server does not have, through public doors only."""
    server.add_request_handler("resources/list", PaginatedRequestParams, list_resources)
    server.add_request_handler("resources/templates/list", PaginatedRequestParams, list_templates)
    server.add_request_handler("resources/read", ReadResourceRequestParams, read_resource)
    server.add_request_handler("resources/subscribe", SubscribeRequestParams, accept)
    server.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, accept)
    server.add_request_handler("prompts/list", PaginatedRequestParams, list_prompts)
    server.add_request_handler("prompts/get", GetPromptRequestParams, get_prompt)
    server.add_request_handler("completion/complete", CompleteRequestParams, complete)
    server.add_request_handler("logging/setLevel", SetLevelRequestParams, accept)
    security = RequestStateSecurity.ephemeral()
    server.middleware.append(RequestStateBoundary(security, default_audience=server.name))
