"""An OpenAI-compatible endpoint over a K2 checkpoint, as correct as we can make it.

It is there to be compared with, and to test the checks on. One request is answered at a time.
"""

import hmac
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from conformance.api.brain import Brain
from conformance.api.reply import Answering, whole
from conformance.api.request import Ask, Refused, read_request
from k2ref.chat import Dialect
from k2ref.tokenizer import Tokenizer

MAX_BODY = 16 << 20


@dataclass
class OracleEndpoint:
    """The endpoint; `app()` gives it as an application."""

    brain: Brain
    tokenizer: Tokenizer
    dialect: Dialect
    model: str = "k2"
    reasoning_field: str = "reasoning_content"
    api_key: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _count: int = 0

    def app(self) -> Starlette:
        """Give the endpoint as an application: -> Starlette."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._guarded(self._completions), methods=["POST"]),
                Route("/v1/models", self._guarded(self._models)),
            ],
            exception_handlers={HTTPException: _no_route},
        )

    def _guarded(self, handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def guarded(http: Request) -> Response:
            given = http.headers.get("authorization", "").removeprefix("Bearer ").encode()
            if self.api_key and not hmac.compare_digest(given, self.api_key.encode()):
                return _error(Refused("authorization", "wrong or missing API key", 401))
            try:
                response: Response = await handler(http)
                return response
            except Refused as refused:
                return _error(refused)

        return guarded

    async def _models(self, http: Request) -> Response:
        entry = {"id": self.model, "object": "model", "created": 0, "owned_by": "k2ref"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def _completions(self, http: Request) -> Response:
        ask = read_request(await _body(http), model=self.model, thinks=self.dialect.thinks)
        answering = self.answer(ask)
        self._count += 1
        head = {"id": f"chatcmpl-{self._count}", "created": 0, "model": self.model}
        if ask.stream:
            return StreamingResponse(self._stream(answering, head), media_type="text/event-stream")
        choice = await run_in_threadpool(self._whole, answering)
        usage = answering.usage()
        return JSONResponse(
            head | {"object": "chat.completion", "choices": [choice], "usage": usage}
        )

    def answer(self, ask: Ask) -> Answering:
        """Begin to answer: ask -> Answering."""
        return Answering(ask, self.brain, self.tokenizer, self.dialect, self.reasoning_field)

    def _whole(self, answering: Answering) -> dict[str, Any]:
        with self._lock:
            return whole(answering)

    def _stream(self, answering: Answering, head: dict[str, Any]) -> Iterator[str]:
        head = head | {"object": "chat.completion.chunk"}

        def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
            choice = {"index": 0, "delta": delta, "finish_reason": finish, **more}
            return f"data: {json.dumps(head | {'choices': [choice]}, ensure_ascii=False)}\n\n"

        with self._lock:
            yield chunk({"role": "assistant", "content": ""})
            for delta, logprobs in answering:
                yield chunk(delta, **({"logprobs": logprobs} if logprobs else {}))
        yield chunk({}, answering.finish)
        if answering.ask.include_usage:
            yield f"data: {json.dumps(head | {'choices': [], 'usage': answering.usage()})}\n\n"
        yield "data: [DONE]\n\n"


async def _body(http: Request) -> Any:
    data = b""
    async for part in http.stream():
        data += part
        if len(data) > MAX_BODY:
            raise Refused("body", f"the body is larger than {MAX_BODY} bytes", 413)
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Refused("body", "the body must be JSON") from None


def _error(refused: Refused) -> JSONResponse:
    kind = {401: "authentication_error", 404: "not_found_error"}
    detail = {
        "message": str(refused),
        "type": kind.get(refused.status, "invalid_request_error"),
        "param": refused.field,
        "code": None,
    }
    return JSONResponse({"error": detail}, status_code=refused.status)


async def _no_route(http: Request, error: Exception) -> JSONResponse:
    """Answer a wrong path or method as other errors: request, error -> response."""
    assert isinstance(error, HTTPException)
    sentence = f"{http.method} {http.url.path}: {error.detail}"
    way_out = "there are POST /v1/chat/completions and GET /v1/models"
    return _error(Refused("path", f"{sentence}; {way_out}", error.status_code))
