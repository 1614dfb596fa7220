"""A web server on loopback that plays one answer and keeps what was asked."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Asked(NamedTuple):
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class Played:
    """It answers everything with one body."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.status, self.body, self.media = 200, b"", "application/json"
        played = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers.get("Content-Length", 0))
                data = self.rfile.read(size)
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = json.loads(data) if data else None
                played.asked.append(Asked(self.command, self.path, headers, body))
                self.send_response(played.status)
                self.send_header("Content-Type", played.media)
                self.send_header("Content-Length", str(len(played.body)))
                self.end_headers()
                self.wfile.write(played.body)

            do_GET = do_DELETE = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def play(self, answer: Any) -> None:
        self.body = json.dumps(answer).encode()


@contextmanager
def playing() -> Iterator[Played]:
    made = Played()
    serving = threading.Thread(target=made.server.serve_forever)
    serving.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        serving.join()
        made.server.server_close()
