"""Requests to an endpoint: sent or replayed, kept as they were, never more than the budget allows.

A cassette is a file of JSON lines, one exchange each: the request without its key, and the answer
with status and raw body. A run can be judged again from it, offline and by anyone.
"""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from k2ref.errors import InputError

MAX_BODY = 64 << 20


class BudgetError(Exception):
    """The next request would pass what the user allowed."""


class TransportError(Exception):
    """No answer came, or a broken one."""


@dataclass(frozen=True)
class Answer:
    """An answer as it came."""

    status: int
    content_type: str
    body: str
    seconds: float = 0.0

    def json(self) -> Any:
        """Read the body: -> value, or None if it is no JSON."""
        return _json(self.body)

    def events(self) -> tuple[list[Any], bool]:
        """Read server-sent events: -> data of each, and whether `[DONE]` ended them."""
        found, done = [], False
        for block in self.body.replace("\r\n", "\n").split("\n"):
            data = block.removeprefix("data:").strip()
            if not block.startswith("data:") or not data:
                continue
            if data == "[DONE]":
                done = True
                continue
            found.append(_json(data))
        return found, done


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


class Transport(Protocol):
    """What answers a request."""

    def __call__(self, method: str, path: str, body: Any) -> Answer:
        """Send a request: method, path, body (JSON value, text as it is, or None) -> Answer."""
        ...


@dataclass(frozen=True)
class Http:
    """An endpoint over HTTP."""

    base_url: str
    api_key: str = ""
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise InputError(f"an endpoint starts with http:// or https://, got {self.base_url!r}")

    def __call__(self, method: str, path: str, body: Any) -> Answer:
        """Send a request: method, path, body -> Answer."""
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        data = None if body is None else (body if isinstance(body, str) else json.dumps(body))
        request = urllib.request.Request(
            self.base_url.rstrip("/") + path,
            None if data is None else data.encode(),
            headers,
            method=method,
        )
        started = time.monotonic()
        try:
            with _open(request, self.timeout_s) as response:
                raw = response.read(MAX_BODY)
                status, kind = response.status, response.headers.get_content_type()
        except (OSError, http.client.HTTPException) as error:
            raise TransportError(f"{method} {path}: {type(error).__name__}: {error}") from None
        return Answer(status, kind, raw.decode("utf-8", "replace"), time.monotonic() - started)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer: followed, it would carry the key to another host."""

    def redirect_request(self, *arguments: Any, **more: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _open(request: urllib.request.Request, timeout_s: float) -> Any:
    try:
        return _OPENER.open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        return error  # an answer like any other


@dataclass
class Budget:
    """What a run may use. Prices are per million tokens."""

    max_requests: int | None = None
    max_cost: float | None = None
    price_in: float = 0.0
    price_out: float = 0.0
    requests: int = 0
    cost: float = 0.0

    def spend(self, body: Any) -> None:
        """Refuse a request whose worst case is too much: body.

        Raises:
            BudgetError: the number of requests or the cost would pass its cap.
        """
        if self.max_requests is not None and self.requests >= self.max_requests:
            raise BudgetError(f"{self.max_requests} requests are used up (--max-requests)")
        worst = self.worst(body)
        if self.max_cost is not None and self.cost + worst > self.max_cost:
            raise BudgetError(
                f"the next request may cost {worst:.4f} and {self.cost:.4f} of {self.max_cost:.4f} "
                "are used (--max-cost)"
            )
        self.requests += 1

    def worst(self, body: Any) -> float:
        """Estimate the most a request can cost: body -> price."""
        if not isinstance(body, dict):
            return 0.0
        limits = [body.get(name) for name in ("max_tokens", "max_completion_tokens")]
        tokens_out = max([0, *(limit for limit in limits if isinstance(limit, int))])
        return self.price(tokens_of(body), tokens_out * (body.get("n") or 1))

    def price(self, tokens_in: float, tokens_out: float) -> float:
        """Price tokens: in, out -> cost."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6

    def settle(self, body: Any, answer: Answer) -> None:
        """Count what a request did cost, by its usage or else its worst case: body, answer."""
        usage = usage_of(answer)
        if usage and "completion_tokens" in usage:
            self.cost += self.price(usage["prompt_tokens"], usage["completion_tokens"])
        elif answer.status < 400:
            self.cost += self.worst(body)


def tokens_of(body: Any) -> float:
    """Estimate the tokens of a request, 1 for 3 bytes of its JSON: body -> number."""
    return len(json.dumps(body, ensure_ascii=False).encode()) / 3


def usage_of(answer: Answer) -> dict[str, int] | None:
    """Find the usage of an answer, streamed or not: answer -> usage, None without a count."""
    whole = answer.json()
    parts = [whole] if whole is not None else answer.events()[0]
    for part in reversed(parts):
        usage = counts(part.get("usage")) if isinstance(part, dict) else {}
        if "prompt_tokens" in usage:
            return usage
    return None


def counts(usage: Any) -> dict[str, int]:
    """Read the counts of a usage that are numbers of tokens: value -> tokens by name."""
    given = usage.items() if isinstance(usage, dict) else ()
    return {name: value for name, value in given if type(value) is int and value >= 0}


@dataclass
class Exchange:
    """A transport with a budget and a cassette."""

    transport: Transport
    budget: Budget = field(default_factory=Budget)
    record: Path | None = None

    def __call__(self, method: str, path: str, body: Any = None) -> Answer:
        """Send a request and keep it: method, path, body -> Answer."""
        if method == "POST":
            self.budget.spend(body)
        answer = self.transport(method, path, body)
        if method == "POST":
            self.budget.settle(body, answer)
        if self.record:
            entry = {"method": method, "path": path, "request": body, "answer": asdict(answer)}
            with self.record.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        return answer


class Cassette:
    """The answers of a recorded run, given again to equal requests in their order."""

    def __init__(self, path: Path) -> None:
        self._answers: dict[str, list[Answer]] = defaultdict(list)
        for entry in _entries(path):
            key = _key(entry["method"], entry["path"], entry["request"])
            self._answers[key].append(Answer(**entry["answer"]))

    def __call__(self, method: str, path: str, body: Any) -> Answer:
        """Answer from the record: method, path, body -> Answer.

        Raises:
            TransportError: this request was not recorded, or not as often.
        """
        answers = self._answers[_key(method, path, body)]
        if not answers:
            raise TransportError("not on the cassette; record the run again")
        return answers.pop(0)


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            yield {k: entry[k] for k in ("method", "path", "request", "answer")}
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path}, line {number}: not a recorded exchange") from None


def _key(method: str, path: str, body: Any) -> str:
    return json.dumps([method, path, body], sort_keys=True)
