"""The checks of endpoints, put to mlx_lm.server with the tape checkpoint: what it does not do."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.api import commands
from conformance.api.exchange import Exchange, Http
from conformance.api.target import Target, run_checks
from conformance.results import Verdict
from k2ref.tokenizer import load_tokenizer
from tests.conformance.api.foreign import write_foreign_tape

pytestmark = pytest.mark.peer
assert commands

# mlx-lm 0.32.2. A case that passes one day fails this test: the list must shrink with the bugs.
FAILS = {
    "models": "lists the folder, answers to default_model",
    "next-turn": "passes the model's ids on, also when they repeat, as those of the tape do",
    "logprobs": "reports another token of a partial sort as the sampled one",
    "arguments": "parses arguments of the history and writes them anew",
    "foreign-ids": "leaves foreign ids in the prompt",
    "broken-role": "takes a message of any role",
    "broken-tools-text": "answers 404 to tools that are no list",
}
LOOSE = {
    "prompt-thinking-tool-loop": "a space in arguments written anew",
    "prompt-thinking-after-answer": "a space in arguments written anew",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    if not importlib.util.find_spec("mlx_lm"):
        pytest.skip("mlx_lm is not installed: pip install 'k2ref[peers]'")
    folder = write_foreign_tape(tmp_path_factory.mktemp("tape"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cache = tmp_path_factory.mktemp("cache")
    (cache / "hub").mkdir()
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(folder / "foreign")]
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        env=os.environ | {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/v1"
    try:
        _wait(url, process)
        yield url, folder / "own"
    finally:
        process.terminate()
        process.wait(10)


def _wait(url: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/models", timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail("mlx_lm.server did not start")


@pytest.mark.timeout(600)
def test_mlx_lm_server_fails_exactly_what_is_known(server: tuple[str, Path]) -> None:
    url, own = server
    target = Target(Exchange(Http(url)), "default_model", tokenizer=load_tokenizer(own))
    target.max_tokens = 40
    results = list(run_checks(target))
    found = {
        verdict: {r.case: r.message for r in results if r.verdict is verdict} for verdict in Verdict
    }
    assert set(found[Verdict.FAIL]) == set(FAILS), found[Verdict.FAIL]
    assert set(found[Verdict.LOOSE]) == set(LOOSE), found[Verdict.LOOSE]
    assert not found[Verdict.ERRORED]
    assert len(found[Verdict.PASS]) >= 35
