"""An endpoint whose model is a script: it does what the checks ask for, token by token."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.testclient import TestClient

from conformance.api.brain import Step
from conformance.api.exchange import Answer, Exchange, Transport
from conformance.api.server import OracleEndpoint
from conformance.api.target import Target
from k2ref.chat import K2_THINKING, Dialect, render_reply
from k2ref.generate import Sampling
from k2ref.tokenizer import Tokenizer
from tests.k2ref.vocabulary import cases

NAMES = cases("control_tokens")[0]["names"]
TOKENIZER = Tokenizer(
    {bytes([n]): n for n in range(256)}, {name: 256 + n for n, name in enumerate(NAMES)}
)
Says = Callable[[str], dict[str, Any]]


def obedient(prompt: str) -> dict[str, Any]:
    """Do what the last user message asks: prompt -> assistant message."""
    asked = re.findall(r"<\|im_user\|>user<\|im_middle\|>(.*?)<\|im_end\|>", prompt, re.DOTALL)[-1]
    calls: list[tuple[str, str]] = []
    if "tool_declare" in prompt:
        if payload := re.search(r"exactly this payload: (.*)", asked, re.DOTALL):
            calls = [("echo", f'{{"payload":{payload[1]}}}')]
        elif "Call now" in asked:
            calls = [("now", "")]
        elif "both at once" in asked:
            calls = [("get_weather", '{"city":"Paris"}'), ("get_weather", '{"city":"Rome"}')]
        elif forecast := re.search(r"weather in (.*) for (\d) days in degrees ([CF])", asked):
            city, days, unit = forecast.groups()
            given = {"city": city, "days": int(days), "unit": unit}
            calls = [("get_forecast", json.dumps(given, ensure_ascii=False))]
        elif "eather" in asked:
            calls = [("get_weather", '{"city": "Paris"}')]
    message: dict[str, Any] = {"role": "assistant", "reasoning_content": "Let me think. 好"}
    message["content"] = "" if calls else "Hello there, my good friend. 你好"
    if calls:
        message["tool_calls"] = [
            {"id": f"functions.{name}:{n}", "function": {"name": name, "arguments": arguments}}
            for n, (name, arguments) in enumerate(calls)
        ]
    return message


@dataclass(frozen=True)
class ScriptBrain:
    """A brain that says what a function makes of the prompt's text."""

    says: Says = obedient
    dialect: Dialect = K2_THINKING
    context: int = 100_000

    def __call__(self, ids: Sequence[int], sampling: Sampling, top: int) -> Iterator[Step]:
        prompt = TOKENIZER.decode(ids)
        thinking = not prompt.endswith("<think></think>")
        message = self.says(prompt)
        if not (thinking and self.dialect.thinks):
            message = {k: v for k, v in message.items() if k != "reasoning_content"}
        reply = render_reply(message, dialect=self.dialect, thinking=thinking)
        for number in reply.ids(TOKENIZER):
            yield Step(number, -0.01, ((number, -0.01), (5, -6.0))[:top])


def endpoint(**options: Any) -> OracleEndpoint:
    """Make a scripted endpoint: options of OracleEndpoint -> endpoint."""
    dialect = options.pop("dialect", K2_THINKING)
    brain = options.pop("brain", ScriptBrain(dialect=dialect))
    return OracleEndpoint(brain, TOKENIZER, dialect, **options)


def transport_of(oracle: OracleEndpoint) -> Transport:
    """Reach an endpoint in process: endpoint -> transport."""
    client = TestClient(oracle.app())

    def send(method: str, path: str, body: Any) -> Answer:
        content = None if body is None else body if isinstance(body, str) else json.dumps(body)
        response = client.request(method, "/v1" + path, content=content)
        kind = response.headers.get("content-type", "").split(";")[0]
        return Answer(response.status_code, kind, response.text)

    return send


Before = Callable[[dict[str, Any]], dict[str, Any]]
After = Callable[[Answer], Answer]


def target(
    oracle: OracleEndpoint | None = None,
    *,
    before: Before | None = None,
    after: After | None = None,
) -> Target:
    """Make a target of an endpoint, with requests or answers changed on the way."""
    oracle = oracle or endpoint()
    send = transport_of(oracle)

    def changed(method: str, path: str, body: Any) -> Answer:
        if before and isinstance(body, dict):
            body = before(json.loads(json.dumps(body)))
        answer = send(method, path, body)
        return after(answer) if after and answer.status == 200 and method == "POST" else answer

    return Target(Exchange(changed), oracle.model, oracle.dialect, TOKENIZER, max_tokens=6000)


def edit_whole(change: Callable[[dict[str, Any]], None]) -> After:
    """Change answers that are not streamed: change(body) -> after."""

    def after(answer: Answer) -> Answer:
        body = answer.json()
        if not isinstance(body, dict):
            return answer
        change(body)
        return replace(answer, body=json.dumps(body))

    return after


def edit_stream(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> After:
    """Change the chunks of streamed answers: change(chunks) -> after."""

    def after(answer: Answer) -> Answer:
        if answer.content_type != "text/event-stream":
            return answer
        chunks, _ = answer.events()
        text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in change(chunks))
        return replace(answer, body=text + "data: [DONE]\n\n")

    return after
