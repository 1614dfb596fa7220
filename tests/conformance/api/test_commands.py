"""conformance/api/commands.py and tape.py: from a checkpoint on disk to a judged endpoint."""

import argparse
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from conformance.__main__ import main
from conformance.api import commands, schemas
from conformance.api.exchange import Exchange, Http
from conformance.api.run import REQUESTS
from conformance.api.tape import CALL, write_tape
from conformance.api.target import Target, run_checks
from conformance.results import Verdict
from k2ref.errors import InputError
from k2ref.tokenizer import load_tokenizer


def run(*arguments: object) -> int:
    return main(["run", *map(str, arguments)])


def parse(*arguments: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    commands.add_commands(parser.add_subparsers(required=True))
    return parser.parse_args([str(a) for a in arguments])


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tape(tmp_path_factory.mktemp("tape") / "model")


@pytest.fixture(scope="module")
def url(tape: Path) -> Iterator[str]:
    app = commands.make_oracle(parse("endpoint-oracle", tape)).app()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        server.should_exit = True
        thread.join(120)
        assert not thread.is_alive()


FAST = ["api:models", "api:stream-form", "api:tool-call", "api:length", "api:errors", "api:usage"]


def only(*requirements: str) -> list[str]:
    return [word for id_ in requirements for word in ("--only", id_)]


def test_a_checkpoint_behind_the_oracle_passes_over_http_and_again_from_its_record(
    url: str, tape: Path, tmp_path: Path, capsys: Any
) -> None:
    record, results = tmp_path / "run.jsonl", tmp_path / "results.jsonl"
    command = ["--model", "k2", "--tokenizer", tape, "--max-tokens", 40, *only(*FAST)]
    assert run(url, *command, "--record", record, "--results", results) == 0
    live = capsys.readouterr().out
    assert "get_weather" not in live, "nothing is wrong, so nothing is quoted"
    kinds = {json.loads(line)["requirement"] for line in results.read_text().splitlines()[1:]}
    assert kinds == set(FAST)
    assert run("https://gone.example/v1", *command, "--replay", record) == 0
    again = capsys.readouterr().out
    assert [x for x in again.splitlines() if x.startswith("L6")] == [
        x for x in live.splitlines() if x.startswith("L6")
    ]


def test_known_failures_of_an_endpoint_may_not_pass(
    url: str, tape: Path, tmp_path: Path, capsys: Any
) -> None:
    known = tmp_path / "known.toml"
    known.write_text('[[known]]\ncase = "models"\nreason = "none"\n')
    command = [url, "--model", "k2", "--tokenizer", tape, *only("api:models")]
    assert run(*command) == 0
    assert "passed 1 of 1" in capsys.readouterr().out
    assert run(*command, "--known", known) == 2
    assert "stale: " in capsys.readouterr().err


def test_rates_are_judged_behind_the_checks(url: str, capsys: Any) -> None:
    assert run(url, "--model", "k2", "--max-tokens", 30, "--samples", 2, *only("api:models")) == 1
    out = capsys.readouterr().out
    assert "schema-accuracy" in out
    assert "get_weather' was not declared" in out


def test_an_estimate_asks_nobody(capsys: Any) -> None:
    prices = ["--price-in", 1, "--price-out", 2, "--max-requests", 5, "--max-cost", 0.1]
    command = ["--model", "m", "--estimate", "--max-tokens", 1000, "--samples", 90, *prices]
    assert run("https://gone.example/v1", *command) == 0
    assert capsys.readouterr().err == (
        "about 210 requests, at most 0.51 with 1000 tokens each; "
        "capped at 5 requests and cost 0.1\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["http://x/v1"], "an endpoint needs --model NAME"),
        (
            ["http://x/v1", "--model", "m", "--only", "api:nothing"],
            "api:nothing is not tested at an endpoint",
        ),
        (
            ["http://x/v1", "--model", "m", "--only", "int4:nibble-order"],
            "--only takes one of api:",
        ),
        (["http://x/v1", "--model", "m", "--api-key-env", "NO_SUCH_KEY"], "has no NO_SUCH_KEY"),
        (["http://x/v1", "--model", "m", "--record", "FILE"], "exists already; give a new file"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: Any
) -> None:
    existing = tmp_path / "run.jsonl"
    existing.write_text("")
    assert run(*[str(existing) if a == "FILE" else a for a in arguments]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_the_oracle_reads_its_key_and_refuses_foreign_vocabularies(
    tape: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("K2_KEY", "secret")
    oracle = commands.make_oracle(
        parse("endpoint-oracle", tape, "--api-key-env", "K2_KEY", "--dialect", "k2.5")
    )
    assert (oracle.api_key, oracle.dialect.name) == ("secret", "k2.5")
    (tmp_path / "model").mkdir()
    for path in tape.iterdir():
        (tmp_path / "model" / path.name).symlink_to(path)
    ranks = tmp_path / "model" / "tiktoken.model"
    text = ranks.read_text()
    ranks.unlink()
    count = len(text.splitlines())
    ranks.write_text(text + f"enp6 {count}\n")
    names = tmp_path / "model" / "tokenizer_config.json"
    table = json.loads(names.read_text())["added_tokens_decoder"]
    names.unlink()
    moved = {str(int(n) + 1): entry for n, entry in table.items()}
    names.write_text(json.dumps({"added_tokens_decoder": moved}))
    with pytest.raises(InputError, match=r"the tokenizer has \d+ ids, the model \d+"):
        commands.make_oracle(parse("endpoint-oracle", tmp_path / "model"))


def test_the_oracle_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    served: list[Any] = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: served.append(options))
    options = parse("endpoint-oracle", tmp_path / "new", "--tape", "--port", 8765)
    assert options.run(options) == 0
    assert served == [{"host": "127.0.0.1", "port": 8765, "log_level": "warning"}]
    assert capsys.readouterr().err == "http://127.0.0.1:8765/v1 serves k2\n"


@pytest.mark.slow
def test_a_checkpoint_behind_the_oracle_passes_every_check(
    url: str, tape: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model that runs plays its tape, so what it is not asked for stays open."""
    monkeypatch.setattr(schemas, "GENERATED", 4)  # the tape's tokens are bytes: prompts are long
    monkeypatch.setattr(schemas, "TOGETHER", 2)
    target = Target(Exchange(Http(url)), "k2", tokenizer=load_tokenizer(tape), max_tokens=40)
    results = list(run_checks(target))
    allowed = (Verdict.PASS, Verdict.SKIPPED, Verdict.QUESTION)
    other = {r.case: r.verdict for r in results if r.verdict not in allowed}
    assert set(other.values()) == {Verdict.INCONCLUSIVE}
    assert len(results) - len(other) >= 45
    assert target.exchange.budget.requests <= REQUESTS


def test_extra_fields_are_an_object() -> None:
    parser = argparse.ArgumentParser()
    commands.add_endpoint_options(parser)
    assert parser.parse_args(["--extra", '{"seed": 1}']).extra == {"seed": 1}
    with pytest.raises(SystemExit):
        parser.parse_args(["--extra", "[]"])


def test_a_tape_has_each_token_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="stands there once"):
        write_tape(tmp_path / "x", ["a", "b", "a"])
    assert len(set(CALL)) == len(CALL)
