"""The checks of endpoints, put to foreign servers with the tape checkpoint: what they do not do."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conformance.api import run, schemas
from conformance.api.exchange import Exchange, Http
from conformance.api.target import Target, run_checks
from conformance.results import Verdict
from k2ref.tokenizer import load_tokenizer
from tests.conformance.api import llama_tape
from tests.conformance.api.foreign import write_foreign_tape

pytestmark = [pytest.mark.peer, pytest.mark.timeout(600)]
assert run

# A case that passes one day fails the test: the lists must shrink with the bugs.
BOTH = {
    "next-turn": "passes the model's ids on, also when they repeat, as those of the tape do",
    "arguments": "parses arguments of the history and writes them anew",
    "foreign-ids": "leaves foreign ids in the prompt",
    "broken-role": "takes a message of any role",
}
MLX = BOTH | {  # mlx-lm 0.32.2
    "models": "lists the folder, answers to default_model",
    "logprobs": "reports another token of a partial sort as the sampled one",
    "broken-tools-text": "answers 404 to tools that are no list",
}
LLAMA = BOTH | {  # llama.cpp b11549, as xllamacpp 2026.10
    "history-reasoning": "drops the field reasoning of the history without a word",
    "broken-temperature": "takes a temperature of -1",
    "broken-top-p": "takes a top_p of 7",
    "broken-tools-text": "answers 500 to tools that are no list",
    "schema-self-reference": "refuses a schema that refers to itself",
    "generated": "refuses a schema that refers to itself",
}
LOOSE = {
    "prompt-thinking-tool-loop": "a space in arguments written anew",
    "prompt-thinking-after-answer": "a space in arguments written anew",
}


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tokenizers", reason="pip install 'k2ref[peers]'")
    return write_foreign_tape(tmp_path_factory.mktemp("tape"))


@contextmanager
def running(command: list[str], **environment: str) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        command,
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait(url: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/models", timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"{process.args} did not start")


def judge(url: str, model: str, tape: Path, fails: dict[str, str]) -> None:
    tokenizer = load_tokenizer(tape / "own")
    target = Target(Exchange(Http(url)), model, tokenizer=tokenizer, max_tokens=40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schemas, "GENERATED", 8)  # the tape's tokens are bytes: prompts are long
        patch.setattr(schemas, "TOGETHER", 2)
        results = list(run_checks(target))
    found = {
        verdict: {r.case: r.message for r in results if r.verdict is verdict} for verdict in Verdict
    }
    assert set(found[Verdict.FAIL]) == set(fails), found[Verdict.FAIL]
    assert set(found[Verdict.LOOSE]) == set(LOOSE), found[Verdict.LOOSE]
    assert not found[Verdict.ERRORED]
    assert len(found[Verdict.PASS]) >= 35


def test_mlx_lm_server_fails_exactly_what_is_known(tape: Path, tmp_path: Path) -> None:
    if not importlib.util.find_spec("mlx_lm"):
        pytest.skip("mlx_lm is not installed: pip install 'k2ref[peers-mlx]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    (tmp_path / "hub").mkdir()
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(tape / "foreign")]
    offline = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    with running([*command, "--port", port], **offline) as process:
        url = f"http://127.0.0.1:{port}/v1"
        wait(url, process)
        judge(url, "default_model", tape, MLX)


def test_llama_server_fails_exactly_what_is_known(tape: Path) -> None:
    for module in ("gguf", "xllamacpp"):
        if not importlib.util.find_spec(module):
            pytest.skip(f"{module} is not installed: pip install 'k2ref[peers-llama]'")
    path = llama_tape.write_tape_gguf(tape)
    with running([sys.executable, str(Path(llama_tape.__file__)), str(path)]) as process:
        assert process.stdout
        url = process.stdout.readline().decode().strip() + "/v1"
        wait(url, process)
        judge(url, str(path), tape, LLAMA)
