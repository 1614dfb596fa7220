"""Kimi Code, the real agent, against a scripted model on loopback: 300 calls, 300 answers."""

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from k2tools.runlog import verify
from k2tools.settings import Settings
from tests.k2tools.npm import node, script
from tests.k2tools.processes import ROOT, serve

pytestmark = pytest.mark.slow

CALLS = 300


class ScriptedModel:
    """An OpenAI-compatible endpoint whose model always makes one more call, then stops."""

    def __init__(self) -> None:
        self.answers: list[str] = []  # of tools, as the model saw them
        self.made = 0

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        results = [m for m in body["messages"] if m["role"] == "tool"]
        if not body.get("tools"):
            return self._reply(
                body, {"content": "A title"}, "stop"
            )  # a side question of the client
        self.answers += [json.dumps(m["content"]) for m in results[len(self.answers) :]]
        name = next(
            tool["function"]["name"]
            for tool in body["tools"]
            if tool["function"]["name"].endswith("read_file") and "k2" in tool["function"]["name"]
        )
        if self.made == CALLS:
            return self._reply(body, {"content": "done"}, "stop")
        self.made += 1
        arguments = json.dumps({"path": "a.txt", "line": self.made})
        call = {
            "index": 0,
            "id": f"functions.{name}:{self.made}",
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        delta = {"reasoning_content": f"step {self.made}", "tool_calls": [call]}
        return self._reply(body, delta, "tool_calls")

    def _reply(self, body: dict[str, Any], delta: dict[str, Any], reason: str) -> Response:
        head = {"id": "x", "created": 0, "model": "stub"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        if not body.get("stream"):
            message = {"role": "assistant", "content": None, **delta}
            choice = {"index": 0, "message": message, "finish_reason": reason}
            whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            return JSONResponse(whole)
        chunks = (
            {
                "choices": [
                    {"index": 0, "delta": {"role": "assistant", **delta}, "finish_reason": None}
                ]
            },
            {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "usage": usage},
        )
        lines = [
            f"data: {json.dumps({**head, 'object': 'chat.completion.chunk', **chunk})}\n\n"
            for chunk in chunks
        ]
        return StreamingResponse(iter([*lines, "data: [DONE]\n\n"]), media_type="text/event-stream")

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "stub", "object": "model"}]})


@contextmanager
def listening(model: ScriptedModel) -> Iterator[str]:
    """Serve the model from a thread: -> its base URL."""
    routes = [
        Route("/v1/chat/completions", model.chat, methods=["POST"]),
        Route("/v1/models", model.models),
    ]
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_level="error"))
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            thread.join()


def test_kimi_code_makes_300_calls_and_sees_300_answers(settings: Settings, tmp_path: Path) -> None:
    kimi = script("@moonshot-ai/kimi-code", "dist/main.mjs")
    (settings.workspace / "a.txt").write_text("".join(f"text {n}\n" for n in range(1, CALLS + 1)))
    command, *arguments = serve(settings, "--run", "kimi")
    started = {"command": command, "args": arguments, "cwd": str(ROOT)}
    home = tmp_path / "home"
    home.mkdir()
    (home / "mcp.json").write_text(json.dumps({"mcpServers": {"k2tools": started}}))
    model = ScriptedModel()
    with listening(model) as url:
        run = subprocess.run(
            [node(), kimi, "-p", "Read every line.", "--output-format", "stream-json"],
            env={
                "PATH": f"{Path(node()).parent}:/usr/bin:/bin",
                "HOME": str(home),
                "KIMI_CODE_HOME": str(home),
                "KIMI_MODEL_NAME": "stub",
                "KIMI_MODEL_API_KEY": "x",
                "KIMI_MODEL_PROVIDER_TYPE": "openai",
                "KIMI_MODEL_BASE_URL": url,
            },
            cwd=home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
    assert run.returncode == 0, run.stderr[-2000:]
    assert model.made == CALLS
    seen = [n for n, answer in enumerate(model.answers, 1) if f"text {n}" in answer]
    assert len(seen) == CALLS
    verdict = verify(settings.state / "runs" / "kimi")
    assert not verdict.problems
    assert [record["status"] for record in verdict.records] == ["ok"] * CALLS
