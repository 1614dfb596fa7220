"""The command line, in this process, on the small tools."""

import argparse
import csv
import json
from pathlib import Path

import pytest

from conformance.agent.commands import add_commands
from conformance.agent.families import chase
from conformance.agent.mock import StrictEndpoint, serve
from conformance.agent.simulated import Oracle
from k2ref.errors import InputError


def k2conf(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(required=True))
    given = parser.parse_args(["agent", *words])
    return int(given.run(given))


SMALL = ("--server", "small", "--simulate")


def test_a_run_writes_record_and_verdict(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = str(tmp_path / "out")
    assert k2conf("run", "chase", "-n", "12", *SMALL, "oracle", "--out", out) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("chase-12-1: PASS (done)\n  outcome    right\n")
    assert "12 steps, 12 calls" in printed
    assert json.loads((tmp_path / "out" / "verdict.json").read_text())["passed"] is True
    assert k2conf("show", f"{out}/turns.jsonl") == 0
    for form in ("atif", "graph", "mermaid"):
        assert k2conf("export", f"{out}/turns.jsonl", "--format", form) == 0
    with pytest.raises(InputError, match="--resume takes it up"):
        k2conf("run", "chase", "-n", "12", *SMALL, "oracle", "--out", out)
    assert k2conf("run", "chase", "-n", "12", *SMALL, "oracle", "--out", out, "--resume") == 0


def test_a_failed_run_has_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = str(tmp_path / "out")
    assert k2conf("run", "chase", "-n", "12", *SMALL, "stopper:3", "--out", out) == 1
    assert "FAIL" in capsys.readouterr().out


def test_an_endpoint_needs_its_url_and_its_name_only(tmp_path: Path) -> None:
    task = chase.make("1", 12)
    endpoint = StrictEndpoint(Oracle(task.policy))
    words = ["run", "chase", "-n", "12", "--server", "small", "--model", "m"]
    with serve(endpoint) as url:
        assert k2conf(*words, "--base-url", url, "--out", str(tmp_path / "a")) == 0
        assert k2conf(*words, "--base-url", url, "--no-stream", "--out", str(tmp_path / "b")) == 0
    assert endpoint.breaches == []
    assert endpoint.bodies[0]["model"] == "m"
    assert [body["stream"] for body in endpoint.bodies].count(False) == 13


def test_heavy_and_sweep_and_compare(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = str(tmp_path / "heavy")
    k2conf("heavy", "chase", "-n", "10", *SMALL, "oracle", "--count", "3", "--out", out)
    assert "3 of 3 right" in capsys.readouterr().out
    for name, model in (("one", "oracle"), ("two", "noisy:0.2")):
        out = str(tmp_path / name)
        words = ["sweep", "chase", *SMALL, model, "--lengths", "10,20", "--tasks", "3"]
        assert k2conf(*words, "--out", out) == 0
    assert "check of the instrument" in (tmp_path / "one" / "success_by_length.svg").read_text()
    capsys.readouterr()
    assert k2conf("compare", str(tmp_path / "one/runs.csv"), str(tmp_path / "two/runs.csv")) == 0
    assert "McNemar exact p = " in capsys.readouterr().out


def test_a_sweep_varies_what_it_is_told_to(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "grid"
    words = ["sweep", "chase", *SMALL, "noisy:0.05", "--lengths", "12", "--tasks", "2"]
    axes = ["--vary", "steps=6,40", "--vary", "heavy=1,3"]
    assert k2conf(*words, *axes, "--out", str(out)) == 0
    printed = capsys.readouterr().out
    assert "steps=6 heavy=3: n=12: 0.00" in printed
    assert "front: steps=40 heavy=" in printed
    rows = list(csv.DictReader((out / "runs.csv").read_text().splitlines()))
    assert len(rows) == 8
    assert {row["status"] for row in rows if "steps=6" in row["setting"]} == {"max_steps"}
    one, three = ([r for r in rows if r["setting"] == f"steps=40 heavy={k}"] for k in (1, 3))
    assert int(three[0]["steps"]) == 36
    assert int(one[0]["steps"]) == 12
    assert (out / "front.svg").exists()
    assert k2conf(*words, *axes, "--out", str(out), "--resume") == 0
    assert len(list(csv.DictReader((out / "runs.csv").read_text().splitlines()))) == 8
    assert k2conf("front", str(out / "runs.csv")) == 0


def test_a_heavy_run_is_taken_up_where_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["heavy", "proof", "-n", "12", *SMALL, "oracle", "--aggregate", "verify"]
    out = tmp_path / "heavy"
    assert k2conf(*words, "--count", "2", "--out", str(out)) == 0
    assert "spent      24 steps, 24 calls" in capsys.readouterr().out
    assert k2conf(*words, "--count", "3", "--out", str(out), "--resume") == 0
    assert "spent      36 steps, 36 calls" in capsys.readouterr().out
    with pytest.raises(InputError, match="--resume takes it up"):
        k2conf(*words, "--count", "3", "--out", str(out))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--simulate", "sage"], "no simulated model is called 'sage'"),
        (["--simulate", "noisy"], "wanted noisy:P"),
        (["--simulate", "noisy:x"], "must be numbers"),
        (["--base-url", "ftp://x", "--model", "m"], "must start with http"),
        ([], "name a model"),
    ],
)
def test_wrong_words_are_explained(tmp_path: Path, words: list[str], message: str) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(InputError, match=message):
        k2conf("run", "chase", "-n", "12", "--server", "small", *words, "--out", out)


def test_one_server_is_no_place_for_several_worlds(tmp_path: Path) -> None:
    words = ["--server", "http://127.0.0.1:9/mcp", "--simulate", "oracle", "--out", str(tmp_path)]
    with pytest.raises(InputError, match="trajectories of ledger write, and would share the world"):
        k2conf("heavy", "ledger", "-n", "12", *words)
    with pytest.raises(InputError, match="a sweep has many worlds"):
        k2conf("sweep", "chase", *words)


def test_the_tables_end_well(capsys: pytest.CaptureFixture) -> None:
    assert k2conf("calibrate", "--tasks", "4") == 0
    assert "equal" in capsys.readouterr().out
    assert k2conf("server", "--server", "small", "-n", "16") == 1  # the small one fails S4
