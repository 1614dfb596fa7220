"""conformance/api/exchange.py: over HTTP, on record, and within a budget."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.api.exchange import (
    Answer,
    Budget,
    BudgetError,
    Cassette,
    Exchange,
    Http,
    TransportError,
    usage_of,
)
from k2ref.errors import InputError


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with what it got; 418 to GET, and a redirect from /old."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._answer(200, json.dumps({"key": self.headers.get("Authorization"), "got": body}))

    def do_GET(self) -> None:
        if self.path.endswith("/old"):
            self.send_response(302)
            self.send_header("Location", "/v1/new")
            self.end_headers()
            return
        self._answer(418, "short and stout")

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def test_requests_carry_the_key_and_errors_are_answers(url: str) -> None:
    answer = Http(url, api_key="secret")("POST", "/x", {"a": 1})
    assert answer.json() == {"key": "Bearer secret", "got": '{"a": 1}'}
    assert answer.content_type == "application/json"
    assert Http(url)("POST", "/x", "{").json()["got"] == "{"
    refused = Http(url)("GET", "/x", None)
    assert (refused.status, refused.body, refused.json()) == (418, "short and stout", None)
    assert Http(url, api_key="secret")("GET", "/old", None).status == 302


def test_no_connection_is_a_transport_error() -> None:
    with pytest.raises(TransportError, match="POST /x: "):
        Http("http://127.0.0.1:9", timeout_s=2)("POST", "/x", {})
    with pytest.raises(InputError, match="starts with http"):
        Http("ftp://x")


def test_a_cassette_gives_equal_answers_without_the_key(url: str, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    live = Exchange(Http(url, api_key="secret"), record=path)
    first = [live("POST", "/x", {"b": 1, "a": 2}), live("GET", "/x")]
    text = path.read_text().replace(json.dumps(first[0].body), '""')
    assert "secret" not in text
    replayed = Exchange(Cassette(path))
    assert [replayed("POST", "/x", {"a": 2, "b": 1}), replayed("GET", "/x")] == first
    with pytest.raises(TransportError, match="not on the cassette"):
        replayed("GET", "/x")
    path.write_text("{}\n")
    with pytest.raises(InputError, match="line 1: not a recorded exchange"):
        Cassette(path)


def answering(usage: object) -> Answer:
    return Answer(200, "application/json", json.dumps({"usage": usage}))


def test_a_budget_counts_usage_and_refuses_the_worst_case() -> None:
    budget = Budget(max_cost=1.0, price_in=1e6, price_out=2e6)
    exchange = Exchange(
        lambda *a: answering({"prompt_tokens": 0.0, "completion_tokens": 0}), budget
    )
    with pytest.raises(BudgetError, match=r"may cost .* \(--max-cost\)"):
        exchange("POST", "/x", {"max_tokens": 1})
    budget = Budget(max_cost=100.0, price_in=1e6, price_out=2e6)
    exchange = Exchange(lambda *a: answering({"prompt_tokens": 3, "completion_tokens": 4}), budget)
    exchange("POST", "/x", {"max_tokens": 5})
    assert (budget.requests, budget.cost) == (1, 11.0)
    exchange.transport = lambda *a: answering(None)
    exchange("POST", "/x", {"max_tokens": 5})
    assert budget.cost > 21.0
    before = budget.cost
    exchange.transport = lambda *a: Answer(400, "", "")
    exchange("POST", "/x", "{")
    assert budget.cost == before


def test_usage_is_found_in_streams() -> None:
    parts = ['{"usage": null}', '{"usage": {"prompt_tokens": 5}}', "x", "[DONE]"]
    body = "".join(f"data: {part}\r\n\r\n" for part in parts)
    answer = Answer(200, "text/event-stream", body)
    assert usage_of(answer) == {"prompt_tokens": 5}
    assert answer.events() == ([{"usage": None}, {"usage": {"prompt_tokens": 5}}, None], True)
    assert usage_of(Answer(200, "", "[]")) is None
