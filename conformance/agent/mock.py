"""A strict endpoint: it answers with a simulated model and judges every request it gets.

The rules stand in rules.py, each with its public source. A breach is answered with HTTP 400, as the
real endpoint answers, and names its rule and source; where the sources disagree it is only noted,
unless the endpoint is strict. The endpoint works in process (call it with a Request) and over HTTP
(`app`, `serve`), streaming or not, in both dialects.
"""

import hashlib
import json
import socket
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from conformance.agent import rules
from conformance.agent.messages import Message, Model, Reply, Request
from conformance.agent.provider import ProviderError
from conformance.agent.rule import Breach


@dataclass
class StrictEndpoint:
    """The endpoint's answers and what it noted; `plan` maps request numbers to HTTP failures.

    A strict one refuses what is doubtful too.
    """

    brain: Model
    dialect: str = "reasoning_content"
    plan: Mapping[int, int] = field(default_factory=dict)
    strict: bool = False
    breaches: list[Breach] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    rejected: int = 0
    _sent: dict[str, list[Reply]] = field(default_factory=lambda: defaultdict(list))
    _asked: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def __call__(self, request: Request) -> Reply:
        """Answer in process, through the same rules."""
        body = {
            "messages": list(request.messages),
            "tools": list(request.tools),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "tool_choice": "auto",
        }
        return self.answer(body)

    def answer(self, body: dict[str, Any]) -> Reply:
        """Judge a request and answer it: body -> reply, or ProviderError with a status."""
        self.bodies.append(body)
        failure = self.plan.get(len(self.bodies))
        if failure:
            raise ProviderError(f"planned failure {failure}", failure)
        messages = body["messages"]
        sent = self._sent[_conversation(messages)]
        del sent[sum(bool(m.get("tool_calls")) for m in messages) :]  # what the client dropped
        found = rules.breaches(body, sent)
        self.breaches += found
        refused = [breach for breach in found if self.strict or not breach.rule.doubt]
        if refused:
            self.rejected += 1
            firsts = {breach.rule.id: breach for breach in reversed(refused)}.values()
            raise ProviderError("; ".join(map(str, reversed(firsts))), 400)
        reply = replace(self.brain(self._request(body)), reasoning_field=self.dialect)
        if reply.calls:
            sent.append(reply)
        return reply

    def _request(self, body: dict[str, Any]) -> Request:
        asked = hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()
        self._asked[asked] += 1
        return Request(
            tuple(body["messages"]),
            tuple(body.get("tools") or ()),
            body.get("max_tokens") or 0,
            attempt=self._asked[asked] - 1,
        )

    # over HTTP

    def app(self) -> Starlette:
        """Give the endpoint as an application."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._completions, methods=["POST"]),
                Route("/v1/models", self._models),
            ]
        )

    async def _models(self, http: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "simulated", "object": "model"}]})

    async def _completions(self, http: HttpRequest) -> Response:
        body = await http.json()
        try:
            reply = self.answer(body)
        except ProviderError as error:
            detail = {"message": str(error), "type": "invalid_request_error"}
            return JSONResponse({"error": detail}, status_code=error.status)
        usage = _usage(body, reply)
        if body.get("stream"):
            return StreamingResponse(self._stream(reply, usage), media_type="text/event-stream")
        message = self._message(reply)
        choice = {"index": 0, "message": message, "finish_reason": reply.finish}
        return JSONResponse(_envelope("chat.completion", choices=[choice], usage=usage))

    def _message(self, reply: Reply) -> Message:
        message: Message = {"role": "assistant", "content": reply.content}
        if reply.reasoning is not None:
            message[self.dialect] = reply.reasoning
        if reply.calls:
            message["tool_calls"] = [_wire(i, call) for i, call in enumerate(reply.calls)]
        return message

    async def _stream(self, reply: Reply, usage: dict[str, Any]) -> AsyncIterator[str]:
        for delta in self._deltas(reply):
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            yield _event(choices=[choice])
        last = {"index": 0, "delta": {}, "finish_reason": reply.finish}
        yield _event(choices=[last], usage=usage)
        yield "data: [DONE]\n\n"

    def _deltas(self, reply: Reply) -> Iterator[Message]:
        """Cut a reply into deltas: reasoning first, content, then each call in pieces."""
        yield {"role": "assistant", "content": ""}
        if reply.reasoning is not None:
            for piece in _pieces(reply.reasoning, 200) or [""]:
                yield {self.dialect: piece}
        for piece in _pieces(reply.content, 200):
            yield {"content": piece}
        for index, call in enumerate(reply.calls):
            head = {"name": call.name, "arguments": ""}
            first = {"index": index, "id": call.id, "type": "function", "function": head}
            yield {"tool_calls": [first]}
            for piece in _pieces(call.arguments, 40):
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _conversation(messages: list[Message]) -> str:
    return json.dumps(next((m for m in messages if m["role"] == "user"), None))


def _pieces(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


def _wire(index: int, call: Any) -> Message:
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": index, "id": call.id, "type": "function", "function": function}


def _usage(body: dict[str, Any], reply: Reply) -> dict[str, Any]:
    """Count tokens as characters / 4; the prompt of the turn before counts as cached."""
    sizes = [len(json.dumps(m)) // 4 for m in body["messages"]]
    answered = max(
        (i for i, m in enumerate(body["messages"]) if m["role"] == "assistant"), default=0
    )
    reasoning = len(reply.reasoning or "") // 4
    completion = reasoning + (len(reply.content) + sum(len(c.arguments) for c in reply.calls)) // 4
    return {
        "prompt_tokens": sum(sizes),
        "completion_tokens": completion,
        "total_tokens": sum(sizes) + completion,
        "prompt_tokens_details": {"cached_tokens": sum(sizes[:answered])},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def _envelope(kind: str, **fields: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 0, "model": "simulated", **fields}


def _event(**fields: Any) -> str:
    return f"data: {json.dumps(_envelope('chat.completion.chunk', **fields))}\n\n"


@contextmanager
def serve(endpoint: StrictEndpoint) -> Iterator[str]:
    """Serve an endpoint on a free port of the loopback: -> its base URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(endpoint.app(), log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            thread.join(5)
