"""Both dialects, streamed and not; failures that pass and failures that do not."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from conformance.agent.messages import Call, Reply, Request
from conformance.agent.mock import StrictEndpoint, serve
from conformance.agent.provider import Endpoint, ProviderError, Retrying, _joined, _plain

QUESTION = Request(({"role": "user", "content": "grüß Gott"},))
SPOKEN = Reply(
    "",
    "first\nthen “quoted” ✓",
    (
        Call("functions.read_file:0", "read_file", json.dumps({"path": "é" * 60})),
        Call("functions.search:1", "search", "{}"),
    ),
    "tool_calls",
)


@pytest.fixture(params=["reasoning_content", "reasoning"])
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("stream", [True, False])
def test_a_reply_comes_through_whole_in_both_dialects(dialect: str, stream: bool) -> None:
    endpoint = StrictEndpoint(lambda request: SPOKEN, dialect)
    with serve(endpoint) as url:
        reply = Endpoint(url, "m", stream=stream)(QUESTION)
    assert reply.usage is not None
    assert reply.usage.reasoning == len(SPOKEN.reasoning or "") // 4
    assert replace(reply, usage=None) == replace(SPOKEN, reasoning_field=dialect)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("reasoning", ["", None])
def test_an_empty_string_is_not_an_absence(stream: bool, reasoning: str | None) -> None:
    endpoint = StrictEndpoint(lambda request: Reply("hi", reasoning))
    with serve(endpoint) as url:
        assert Endpoint(url, "m", stream=stream)(QUESTION).reasoning == reasoning


def test_failures_that_pass_are_asked_again_and_others_are_not() -> None:
    pauses: list[float] = []
    endpoint = StrictEndpoint(lambda request: Reply("hi"), plan={1: 429, 2: 503, 4: 401})
    with serve(endpoint) as url:
        model = Retrying(Endpoint(url, "m"), pause=pauses.append)
        assert model(QUESTION).content == "hi"
        with pytest.raises(ProviderError, match="HTTP 401") as caught:
            model(QUESTION)
    assert caught.value.status == 401
    assert pauses == [1.0, 2.0]
    assert len(endpoint.bodies) == 4


def test_no_server_is_a_failure_that_passes_until_the_retries_are_used_up() -> None:
    pauses: list[float] = []
    with pytest.raises(ProviderError, match="URLError"):
        Retrying(Endpoint("http://127.0.0.1:9/v1", "m"), pause=pauses.append)(QUESTION)
    assert len(pauses) == 3


def test_a_stream_that_breaks_off_is_a_failure() -> None:
    class Cut:
        def __init__(self) -> None:
            self.lines: Iterator[bytes] = iter([b'data: {"choices": []}\n'])

        def readline(self, limit: int) -> bytes:
            return next(self.lines, b"")

    from conformance.agent.provider import _events

    with pytest.raises(ProviderError, match=r"without \[DONE\]"):
        list(_events(Cut()))


def test_an_error_inside_a_stream_is_a_failure() -> None:
    with pytest.raises(ProviderError, match="overloaded"):
        _joined([{"error": {"message": "overloaded"}}])


def test_something_else_than_a_completion_is_named() -> None:
    with pytest.raises(ProviderError, match="not a chat completion"):
        _plain({"detail": "Not Found"})


def test_deltas_of_parallel_calls_are_joined_by_their_index() -> None:
    def delta(**call: object) -> dict[str, object]:
        return {"choices": [{"delta": {"tool_calls": [call]}}]}

    reply = _joined(
        [
            delta(index=1, id="b", function={"name": "two", "arguments": "{"}),
            delta(index=0, id="a", function={"name": "one"}),
            delta(index=1, function={"arguments": "}"}),
            delta(index=0, function={"arguments": "{}"}),
        ]
    )
    assert reply.calls == (Call("a", "one", "{}"), Call("b", "two", "{}"))


def test_the_strict_endpoint_refuses_a_step_without_reasoning() -> None:
    endpoint = StrictEndpoint(lambda request: SPOKEN)
    history = [
        {"role": "user", "content": "go"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "functions.a_b:0", "type": "function",
                 "function": {"name": "a_b", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "functions.a_b:0", "content": "x"},
    ]  # fmt: skip
    with serve(endpoint) as url, pytest.raises(ProviderError, match="reasoning_content is missing"):
        Endpoint(url, "m")(Request(tuple(history)))
    assert endpoint.rejected == 1
