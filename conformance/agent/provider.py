"""A model behind an OpenAI-compatible endpoint, on the standard library.

Both dialects are read, `reasoning_content` and `reasoning`, streamed or not; the name received is
the name sent back. Deltas of a call are joined by their index. Connection failures, timeouts, 429
and 5xx are retried three times; anything else ends the run with the endpoint's own words.
"""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from conformance.agent.messages import REASONING_FIELDS, Call, Model, Reply, Request, Usage

RETRIES = 3
RETRY_STATUS = {408, 409, 429, 500, 502, 503, 504, 529}
MAX_LINE = 16 << 20


class ProviderError(Exception):
    """The endpoint refused or failed; `status` is the HTTP status, 0 without one."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status

    @property
    def can_retry(self) -> bool:
        return self.status == 0 or self.status in RETRY_STATUS


@dataclass
class Retrying:
    """Ask again after a failure that may pass, with growing pauses."""

    model: Model
    retries: int = RETRIES
    pause: Callable[[float], None] = time.sleep
    failures: list[str] = field(default_factory=list)

    def __call__(self, request: Request) -> Reply:
        for attempt in range(self.retries + 1):
            try:
                return self.model(request)
            except ProviderError as error:
                self.failures.append(str(error))
                if attempt == self.retries or not error.can_retry:
                    raise
            self.pause(2.0**attempt)
        raise AssertionError("unreachable")


@dataclass(frozen=True)
class Endpoint:
    """A chat completions endpoint; call it with a request."""

    base_url: str
    model: str
    api_key: str = ""
    stream: bool = True
    timeout_s: float = 600.0
    extra: dict[str, Any] = field(default_factory=dict)

    def __call__(self, request: Request) -> Reply:
        body = self._body(request)
        try:
            with urllib.request.urlopen(self._http(body), timeout=self.timeout_s) as response:
                raw = list(_events(response)) if self.stream else json.load(response)
        except urllib.error.HTTPError as error:
            text = error.read(4_000).decode("utf-8", "replace")
            raise ProviderError(f"HTTP {error.code}: {text}", error.code) from None
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
            raise ProviderError(f"{type(error).__name__}: {error}") from None
        return _joined(raw) if isinstance(raw, list) else _plain(raw)

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": list(request.messages),
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            "stream": self.stream,
        }
        if self.stream:
            body["stream_options"] = {"include_usage": True}
        if request.tools:
            body |= {"tools": list(request.tools), "tool_choice": "auto"}
        return body | self.extra

    def _http(self, body: dict[str, Any]) -> urllib.request.Request:
        url = self.base_url.rstrip("/") + "/chat/completions"
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"the base URL must start with http:// or https://, got {url!r}")
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return urllib.request.Request(url, json.dumps(body).encode(), headers)


def _events(response: Any) -> Iterator[dict[str, Any]]:
    """Read server-sent events up to `[DONE]`."""
    while line := response.readline(MAX_LINE):
        data = line.strip().removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or not data:
            continue
        if data == b"[DONE]":
            return
        yield json.loads(data)
    raise ProviderError("the stream ended without [DONE]")


def _usage(raw: dict[str, Any] | None) -> Usage | None:
    if not raw:
        return None
    prompt = raw.get("prompt_tokens_details") or {}
    completion = raw.get("completion_tokens_details") or {}
    return Usage(
        raw.get("prompt_tokens") or 0,
        raw.get("completion_tokens") or 0,
        prompt.get("cached_tokens") or raw.get("cached_tokens") or 0,
        completion.get("reasoning_tokens") or 0,
    )


def _reasoning(part: dict[str, Any]) -> tuple[str | None, str]:
    for name in REASONING_FIELDS:
        if part.get(name) is not None:
            return part[name], name
    return None, REASONING_FIELDS[0]


def _plain(raw: dict[str, Any]) -> Reply:
    """Read a whole completion."""
    try:
        choice = raw["choices"][0]
        message = choice["message"]
        calls = tuple(
            Call(c["id"], c["function"]["name"], c["function"].get("arguments") or "")
            for c in message.get("tool_calls") or []
        )
    except (KeyError, IndexError, TypeError) as error:
        raise ProviderError(f"not a chat completion ({error!r}): {str(raw)[:200]}") from None
    reasoning, name = _reasoning(message)
    content = message.get("content") or ""
    finish = choice.get("finish_reason") or ""
    return Reply(content, reasoning, calls, finish, _usage(raw.get("usage")), name)


def _joined(chunks: Iterable[dict[str, Any]]) -> Reply:
    """Join the deltas of a stream."""
    content, finish, reasoning, name = "", "", None, REASONING_FIELDS[0]
    usage: Usage | None = None
    calls: dict[int, list[str]] = {}
    for chunk in chunks:
        if "error" in chunk:
            raise ProviderError(f"error inside the stream: {chunk['error']}")
        usage = _usage(chunk.get("usage")) or usage
        for choice in chunk.get("choices") or []:
            delta = choice.get("delta") or {}
            part, found = _reasoning(delta)
            if part is not None:
                reasoning, name = (reasoning or "") + part, found
            content += delta.get("content") or ""
            finish = choice.get("finish_reason") or finish
            for call in delta.get("tool_calls") or []:
                _join_call(calls, call)
    joined = tuple(Call(*calls[index]) for index in sorted(calls))
    return Reply(content, reasoning, joined, finish, usage, name)


def _join_call(calls: dict[int, list[str]], delta: dict[str, Any]) -> None:
    function = delta.get("function") or {}
    parts = calls.setdefault(delta.get("index") or 0, ["", "", ""])
    for slot, text in enumerate((delta.get("id"), function.get("name"), function.get("arguments"))):
        parts[slot] += text or ""
