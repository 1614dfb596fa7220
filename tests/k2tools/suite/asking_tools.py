"""Tools of the official suite that ask a 2026 client for input and are called again with it."""

from collections.abc import Callable, Mapping
from typing import Any

from mcp_types import (
    CallToolResult,
    ElicitRequest,
    ElicitRequestFormParams,
    InputRequiredResult,
    ListRootsRequest,
)

from k2tools.toolbox import Context
from tests.k2tools.suite.contents import text

Answered = CallToolResult | InputRequiredResult


def elicit(message: str, **properties: str) -> ElicitRequest:
    """Ask the user for named values: message, name=type -> request."""
    schema = {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in properties.items()},
        "required": list(properties),
    }
    params = ElicitRequestFormParams(message=message, requested_schema=schema)
    return ElicitRequest(params=params)


def sample(prompt: str, max_tokens: int) -> Any:
    from mcp_types import CreateMessageRequest, CreateMessageRequestParams, SamplingMessage

    message = SamplingMessage(role="user", content=text(prompt))
    params = CreateMessageRequestParams(messages=[message], max_tokens=max_tokens)
    return CreateMessageRequest(params=params)


def roots() -> ListRootsRequest:
    return ListRootsRequest()


def answers(request: Any) -> Mapping[str, Any]:
    """Read what the client sent back: wire names, plain values."""
    return dict((request.params or {}).get("inputResponses") or {})


def state(request: Any) -> str:
    return str((request.params or {}).get("requestState") or "")


def accepted(responses: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    """Read an accepted elicitation with content, or None."""
    response = responses.get(key)
    if not isinstance(response, Mapping) or response.get("action") != "accept":
        return None
    content = response.get("content")
    return content if isinstance(content, Mapping) and content else None


def done(words: str) -> CallToolResult:
    return CallToolResult(content=[text(words)])


def ask(requests: Mapping[str, Any], request_state: str | None = None) -> InputRequiredResult:
    return InputRequiredResult(input_requests=dict(requests), request_state=request_state)


NAME = {"user_name": elicit("What is your name?", name="string")}


async def test_input_required_result_elicitation(cx: Context) -> Answered:
    content = accepted(answers(cx.request), "user_name")
    if content is None or not isinstance(content.get("name"), str):
        return ask(NAME)
    return done(f"Hello, {content['name']}!")


async def test_input_required_result_sampling(cx: Context) -> Answered:
    reply = answers(cx.request).get("capital_question")
    if reply is None:
        return ask({"capital_question": sample("What is the capital of France?", 100)})
    return done(f"The client says: {reply.get('content')}")


async def test_input_required_result_list_roots(cx: Context) -> Answered:
    reply = answers(cx.request).get("client_roots")
    if reply is None:
        return ask({"client_roots": roots()})
    return done(f"Roots: {[root['uri'] for root in reply.get('roots', [])]}")


async def test_input_required_result_request_state(cx: Context) -> Answered:
    if accepted(answers(cx.request), "confirm") is None or state(cx.request) != "asked":
        return ask({"confirm": elicit("Please confirm", ok="boolean")}, "asked")
    return done("state-ok")


async def test_input_required_result_multiple_inputs(cx: Context) -> Answered:
    wanted = {
        **NAME,
        "greeting": sample("Generate a greeting", 50),
        "client_roots": roots(),
    }
    if state(cx.request) != "asked" or not wanted.keys() <= answers(cx.request).keys():
        return ask(wanted, "asked")
    return done("Received a name, a greeting and roots.")


async def test_input_required_result_multi_round(cx: Context) -> Answered:
    responses, at = answers(cx.request), state(cx.request)
    if at == "round 2" and accepted(responses, "step2"):
        return done("Both steps are done.")
    if at == "round 1" and accepted(responses, "step1"):
        return ask(
            {"step2": elicit("Step 2: What is your favorite color?", color="string")}, "round 2"
        )
    return ask({"step1": elicit("Step 1: What is your name?", name="string")}, "round 1")


async def test_input_required_result_tampered_state(cx: Context) -> Answered:
    if accepted(answers(cx.request), "confirm") is None:
        return ask({"confirm": elicit("Please confirm", ok="boolean")}, "untouched")
    return done(f"The state is {state(cx.request)}.")


async def test_input_required_result_capabilities(cx: Context) -> Answered:
    """Ask only for what the client said it can do."""
    can = cx.request.session.client_capabilities
    wanted = {
        **(NAME if can and can.elicitation is not None else {}),
        **({"greeting": sample("Generate a greeting", 50)} if can and can.sampling else {}),
        **({"client_roots": roots()} if can and can.roots else {}),
    }
    if not wanted or wanted.keys() <= answers(cx.request).keys():
        return done("Nothing more to ask.")
    return ask(wanted)


FUNCTIONS: list[Callable[..., Any]] = [
    test_input_required_result_elicitation,
    test_input_required_result_sampling,
    test_input_required_result_list_roots,
    test_input_required_result_request_state,
    test_input_required_result_multiple_inputs,
    test_input_required_result_multi_round,
    test_input_required_result_tampered_state,
    test_input_required_result_capabilities,
]
