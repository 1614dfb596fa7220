"""conformance/api/server.py: the endpoint that others are compared with."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from conformance.api.reply import StopFilter
from conformance.api.request import Refused, read_request
from k2ref.chat import K25
from tests.conformance.api.scripted import TOKENIZER, ScriptBrain, endpoint, obedient

HI = [{"role": "user", "content": "hi"}]


def post(client: TestClient, **body: Any) -> Any:
    return client.post("/v1/chat/completions", json={"model": "k2", "messages": HI} | body)


@pytest.fixture
def client() -> TestClient:
    return TestClient(endpoint().app())


def test_an_answer_has_its_fields(client: TestClient) -> None:
    body = post(client, logprobs=True, top_logprobs=1, max_tokens=3).json()
    assert body["object"] == "chat.completion"
    choice = body["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "", "reasoning_content": "Le"}
    assert choice["finish_reason"] == "length"
    assert [e["token"] for e in choice["logprobs"]["content"]] == ["<think>", "L", "e"]
    usage = body["usage"]
    assert (usage["completion_tokens"], usage["prompt_tokens"]) == (3, 82)
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 2}


def test_ids_of_calls_count_over_the_conversation(client: TestClient) -> None:
    call = {"id": "call_x", "function": {"name": "get_weather", "arguments": "{}"}}
    history = [
        {"role": "user", "content": "weather"},
        {"role": "assistant", "content": "", "reasoning_content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_x", "content": "x"},
    ]
    tools = [{"type": "function", "function": {"name": "get_weather"}}]
    body = post(client, messages=history, tools=tools).json()
    assert body["choices"][0]["message"]["tool_calls"][0]["id"] == "functions.get_weather:1"
    assert post(client, messages=HI, tools=tools, tool_choice="none").status_code == 200


def test_a_stop_text_is_cut_even_over_two_tokens(client: TestClient) -> None:
    for stream in (False, True):
        response = post(client, stop=["my good", "never"], stream=stream)
        if stream:
            lines = [x[6:] for x in response.text.split("\n\n") if x.startswith("data: {")]
            chunks = [json.loads(x)["choices"][0] for x in lines]
            content = "".join(c["delta"].get("content", "") for c in chunks)
            finish = chunks[-1]["finish_reason"]
        else:
            choice = response.json()["choices"][0]
            content, finish = choice["message"]["content"], choice["finish_reason"]
        assert (content, finish) == ("Hello there, ", "stop")
    assert (
        post(client, stop="no such text").json()["choices"][0]["message"]["content"][-2:] == "你好"
    )


def stopped(text: str, stops: list[str], size: int) -> str:
    stop, shown = StopFilter(tuple(stops)), ""
    for start in range(0, len(text), size):
        if not stop.stopped:
            shown += stop.feed(text[start : start + size])
    return shown + stop.flush()


@given(st.text("abc", max_size=12), st.lists(st.text("abc", min_size=1, max_size=3), max_size=3))
def test_a_stop_does_not_depend_on_how_the_text_comes(text: str, stops: list[str]) -> None:
    shown = {stopped(text, stops, size) for size in (1, 2, 3, 12)}
    assert len(shown) == 1
    (only,) = shown
    assert text.startswith(only)
    assert not any(stop in only for stop in stops)
    if not any(stop in text for stop in stops):
        assert only == text


def test_the_prompt_follows_the_template_kwargs() -> None:
    client = TestClient(endpoint(dialect=K25).app())
    for off in (
        {"chat_template_kwargs": {"thinking": False}},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"thinking": {"type": "disabled"}},
    ):
        message = post(client, **off).json()["choices"][0]["message"]
        assert "reasoning_content" not in message
    history = [HI[0], {"role": "assistant", "content": "a", "reasoning_content": "long"}, HI[0]]
    lengths = [
        post(client, messages=history, max_tokens=1, **keep).json()["usage"]["prompt_tokens"]
        for keep in ({}, {"thinking": {"type": "enabled", "keep": "all"}})
    ]
    assert lengths[1] - lengths[0] == 4


def test_keys_and_models_are_checked() -> None:
    client = TestClient(endpoint(api_key="secret").app())
    assert post(client).json()["error"]["type"] == "authentication_error"
    client.headers["Authorization"] = "Bearer secret"
    assert post(client).status_code == 200
    assert post(client, model="x").json()["error"] == {
        "message": "no model 'x'; this serves 'k2'",
        "type": "not_found_error",
        "param": "model",
        "code": None,
    }


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/chat/completions", 405), ("POST", "/v1/completions", 404), ("GET", "/", 404)],
)
def test_a_wrong_path_is_an_error_of_the_same_form(
    client: TestClient, method: str, path: str, status: int
) -> None:
    response = client.request(method, path)
    assert (response.status_code, response.json()["error"]["param"]) == (status, "path")
    assert response.json()["error"]["message"].startswith(f"{method} {path}: ")


def test_what_does_not_fit_is_refused_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    client = TestClient(endpoint(brain=ScriptBrain(context=84)).app())
    error = post(client, max_tokens=3).json()["error"]
    assert error["message"] == ("the prompt has 82 tokens and the context 84; 3 more do not fit")
    assert post(client, max_tokens=2).status_code == 200
    monkeypatch.setattr("conformance.api.server.MAX_BODY", 10)
    assert post(client).status_code == 413
    assert client.post("/v1/chat/completions", content="{").json()["error"]["param"] == "body"


def test_a_client_that_leaves_does_not_block_the_next(client: TestClient) -> None:
    with client.stream(
        "POST", "/v1/chat/completions", json={"model": "k2", "messages": HI, "stream": True}
    ) as response:
        next(response.iter_lines())
    assert post(client).status_code == 200


def test_a_call_that_is_cut_is_not_whole() -> None:
    brain = ScriptBrain(lambda prompt: obedient(prompt) | {"reasoning_content": ""})
    client = TestClient(endpoint(brain=brain).app())
    tools = [{"type": "function", "function": {"name": "get_weather"}}]
    cut = {"messages": [{"role": "user", "content": "weather"}], "tools": tools, "max_tokens": 33}
    choice = post(client, **cut).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"cit'


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"n": 2}, "n"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"temperature": 1.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": "5"}, "max_completion_tokens"),
        ({"stop": [""]}, "stop"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"thinking": {"type": "maybe"}}, "thinking"),
        ({"thinking": {"keep": "some"}}, "thinking"),
        ({"stream": "yes"}, "stream"),
        ({"surprise": 1}, "surprise"),
        ({"messages": []}, "messages"),
        ({"messages": [1]}, "messages"),
        ({"messages": [{"role": "tool", "tool_call_id": "x", "content": ""}]}, "messages"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [{"function": {"name": "f", "parameters": 3}}]}, "tools"),
    ],
)
def test_a_wrong_field_is_named(client: TestClient, change: dict[str, Any], field: str) -> None:
    response = post(client, **change)
    assert (response.status_code, response.json()["error"]["param"]) == (400, field)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=6,
)
FIELDS = ["messages", "tools", "stop", "thinking", "chat_template_kwargs", "stream_options", "seed"]


@given(st.dictionaries(st.sampled_from(FIELDS), json_values), json_values)
def test_any_body_is_read_or_refused(body: dict[str, Any], other: Any) -> None:
    for value in ({"model": "k2", "messages": HI} | body, other):
        with contextlib.suppress(Refused):
            assert read_request(value, model="k2").messages


def test_the_scripted_vocabulary_is_complete() -> None:
    assert TOKENIZER.stops == (TOKENIZER.special["[EOS]"], TOKENIZER.special["<|im_end|>"])
