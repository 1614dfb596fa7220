"""The adapter of OpenAI-compatible servers, put to real sockets with an oracle behind them."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance.compare import log_probabilities
from conformance.engine import EngineError, NotOffered, open_engine
from k2ref import Checkpoint, InputError, Model
from k2ref.presets import NANO
from k2ref.synth import make_checkpoint

IDS_T = np.array([5, 900, 17, 1, 44])
W = NANO.vocab_size
Answer = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("served") / "nano"
    make_checkpoint(directory, NANO, form="int4", seed=3)
    return directory


@pytest.fixture(scope="module")
def expected_TW(checkpoint: Path) -> np.ndarray:
    return log_probabilities(Model(Checkpoint(checkpoint), dtype=np.float64).forward(IDS_T))


def rows(model: Model, ids: list[int]) -> np.ndarray:
    return log_probabilities(model.forward(np.array(ids)))


def vllm(model: Model, body: dict[str, Any]) -> dict[str, Any]:
    table_TW = rows(model, body["prompt"])
    by_id = [{str(i): {"logprob": p} for i, p in enumerate(row)} for row in table_TW]
    last = {f"token_id:{i}": p for i, p in enumerate(table_TW[-1])}
    return {"prompt_logprobs": [None, *by_id[:-1]], "logprobs": {"top_logprobs": [last]}}


def llama(model: Model, body: dict[str, Any]) -> dict[str, Any]:
    top = [{"id": i, "logprob": p} for i, p in enumerate(rows(model, body["prompt"])[-1])]
    best = max(top, key=lambda entry: entry["logprob"])
    return {"logprobs": {"content": [{**best, "top_logprobs": top}]}}


def names(model: Model, body: dict[str, Any]) -> dict[str, Any]:
    last_W = rows(model, body["prompt"])[-1]
    top = {f"token_id:{i}": p for i, p in enumerate(last_W)}
    return {"logprobs": {"top_logprobs": [top], "tokens": [f"token_id:{last_W.argmax()}"]}}


STYLES = {"vllm": vllm, "llama": llama, "names": names}


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], str]]:
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(200, {"data": [{"id": "tiny"}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                found = answer(body)
                self.reply(*found) if isinstance(found, tuple) else self.reply(200, found)

            def reply(self, code: int, table: Any) -> None:
                data = table if isinstance(table, bytes) else json.dumps(table).encode()
                self.send_response(code)
                if code == 302:
                    self.send_header("Location", "http://127.0.0.1:1/")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_args: Any) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("style", STYLES)
def test_all_log_probabilities_come_back_in_each_of_three_styles(
    serve: Any, checkpoint: Path, expected_TW: np.ndarray, style: str
) -> None:
    model = Model(Checkpoint(checkpoint), dtype=np.float64)
    url = serve(lambda body: {"choices": [STYLES[style](model, body)]})
    engine = open_engine(f"{url},checkpoint={checkpoint}", precision="f32")
    assert engine.info.name == "tiny"
    runner = engine.load(checkpoint)
    assert runner is not None
    np.testing.assert_allclose(runner.forward(IDS_T, np.arange(5)), expected_TW, atol=1e-12)


def test_a_server_runs_only_the_checkpoint_it_serves(serve: Any, checkpoint: Path) -> None:
    engine = open_engine(f"{serve(dict)},checkpoint={checkpoint}")
    assert engine.load(checkpoint.parent) is None
    assert open_engine(serve(dict)).load(checkpoint) is None


def test_greedy_tokens_come_back_as_ids(serve: Any, checkpoint: Path) -> None:
    model = Model(Checkpoint(checkpoint), dtype=np.float64)
    best = int(model.forward(IDS_T)[-1].argmax())
    for style in (llama, names):
        url = serve(lambda body, style=style: {"choices": [style(model, body)]})
        runner = open_engine(f"{url},checkpoint={checkpoint}").load(checkpoint)
        assert runner is not None
        assert runner.generate(IDS_T, max_new=1) == [best]  # type: ignore[attr-defined]


def test_few_log_probabilities_are_a_skip(serve: Any, checkpoint: Path) -> None:
    top = {"logprobs": {"top_logprobs": [{"token_id:1": -0.5, "token_id:2": -1.5}]}}
    runner = open_engine(f"{serve(lambda body: {'choices': [top]})},checkpoint={checkpoint}").load(
        checkpoint
    )
    assert runner is not None
    with pytest.raises(NotOffered, match=f"2 of {W} log-probabilities"):
        runner.forward(IDS_T[:1], np.arange(1))
    with pytest.raises(NotOffered, match="counts positions itself"):
        runner.forward(IDS_T, np.arange(5) + 7)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((500, {"error": "out of memory"}), "HTTP 500.*out of memory"),
        ((302, {}), "HTTP 302"),
        ((200, b"<html>"), "/completions: "),
        ((200, []), "wanted a JSON object, got list"),
        ({"choices": []}, "no choices"),
        ({"choices": [{"logprobs": None}]}, "no log-probabilities with ids"),
        ({"choices": [{"logprobs": {"top_logprobs": [{"the": -1.0}]}}]}, "wanted token ids"),
        ({"choices": [{"prompt_logprobs": [None, 7]}]}, "wanted ids with logprob"),
    ],
)
def test_a_bad_answer_is_the_engines_error(
    serve: Any, checkpoint: Path, answer: Any, message: str
) -> None:
    runner = open_engine(f"{serve(lambda body: answer)},checkpoint={checkpoint}").load(checkpoint)
    assert runner is not None
    with pytest.raises(EngineError, match=message):
        runner.forward(IDS_T[:2], np.arange(2))


def test_the_number_of_requests_is_bounded(serve: Any, checkpoint: Path) -> None:
    url = serve(lambda body: {"choices": [{"logprobs": {"top_logprobs": [{"token_id:1": -1}]}}]})
    engine = open_engine(f"{url},checkpoint={checkpoint},max_requests=2")
    runner = engine.load(checkpoint)
    assert runner is not None
    runner.generate(IDS_T, max_new=1)  # type: ignore[attr-defined]
    with pytest.raises(EngineError, match="max_requests is used up"):
        runner.generate(IDS_T, max_new=1)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:1/v1", "does not answer as OpenAI's"),
        ("http://127.0.0.1:1/v1,key_env=NO_SUCH_VARIABLE", "no variable NO_SUCH_VARIABLE"),
        ("http://127.0.0.1:1/v1,speed=9", "no option 'speed'"),
    ],
)
def test_a_server_that_cannot_be_opened_is_named(address: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_engine(address)
