"""The schemas of `spec/`: what the kit writes and says fits them, and what is wrong does not."""

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from conformance.__main__ import main
from conformance.adapters.k2cp import SubprocessEngine
from conformance.adapters.lines import LineProcess
from conformance.profiles import build_tiny
from k2ref.spec import read_toml, spec_path
from tests.conformance.test_k2cp import CACHING

ROOT = Path(__file__).parents[2]


def schema(name: str, part: str = "") -> jsonschema.Draft202012Validator:
    table = json.loads(spec_path(f"{name}.schema.json").read_text(encoding="utf-8"))
    chosen = {**table, "oneOf": [{"$ref": f"#/$defs/{part}"}]} if part else table
    return jsonschema.Draft202012Validator(chosen)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", ["k2cp.1", "requirements.1", "results.1", "vectors.1"])
def test_the_schemas_are_schemas(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(name).schema)


def test_every_file_of_vectors_fits_and_a_broken_one_does_not() -> None:
    rules = schema("vectors.1")
    tables = [json.loads(p.read_text("utf-8")) for p in spec_path("vectors").glob("*.json")]
    for table in tables:
        rules.validate(table)
    assert {t["schema"] for t in tables} == {"vectors.1", "manifest.1"}
    breaks: list[Callable[[dict[str, Any]], Any]] = [
        lambda case: case.pop("expected"),
        lambda case: case.update(compare="roughly"),
        lambda case: case["inputs"].update(x={"dtype": "float32", "shape": [1]}),
        lambda case: case.update(links=["a forum"]),
        lambda case: case["limits"].update(f32={"tau": 6}),
    ]
    good = next(t for t in tables if t.get("op") == "silu")
    for change in breaks:
        bad = copy.deepcopy(good)
        change(bad["cases"][0])
        assert not rules.is_valid(bad)


def test_requirements_fit() -> None:
    table = read_toml("requirements.toml")
    schema("requirements.1").validate(table)
    table["requirement"][0]["level"] = "L9"
    assert not schema("requirements.1").is_valid(table)


def test_results_fit_those_of_failing_engines_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import numpy as np\ndef silu(x): return np.full_like(x, np.nan)\n"
    (tmp_path / "nan_engine.py").write_text(source + "def rms_norm(*_, **__): raise OSError\n")
    monkeypatch.syspath_prepend(tmp_path)
    results, saved = tmp_path / "r.jsonl", tmp_path / "saved"
    asked = ["--only", "silu", "--only", "rms_norm", "--only", "route", "--seed", "1"]
    wanted = ["--properties", "--results", str(results), "--save-failures", str(saved)]
    assert main(["run", "nan_engine", *asked, *wanted]) == 1
    header, *rows = lines(results)
    schema("results.1", "header").validate(header)
    for row in rows:
        schema("results.1", "result").validate(row)
    assert {"fail", "errored", "skipped"} <= {row["verdict"] for row in rows}
    assert "inf" in {row["measure"] for row in rows}
    assert not schema("results.1", "result").is_valid({**rows[0], "verdict": "fine"})
    for path in saved.glob("*.json"):
        schema("vectors.1").validate(json.loads(path.read_text("utf-8")))


def test_messages_of_the_protocol_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[dict[str, Any], dict[str, Any]]] = []
    ask = LineProcess.ask

    def heard(self: LineProcess, message: dict[str, Any]) -> dict[str, Any]:
        said.append((message, ask(self, message)))
        return said[-1][1]

    monkeypatch.setattr(LineProcess, "ask", heard)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    client = tmp_path / "client.py"
    offered = CACHING.replace("CACHE", "True").replace('"ops": []', '"ops": ["route"]')
    client.write_text(offered)
    engine = SubprocessEngine(f"{sys.executable} {client}")
    try:
        runner = engine.load(build_tiny(tmp_path, seed=0))
        assert runner is not None
        engine.forward(np.arange(3), cache=engine.new_cache())
        with pytest.raises(Exception, match="not a whole safetensors file"):
            engine.operation("route")(np.ones((1, 4)), np.ones(4), top_k=2, scale=1.0)
    finally:
        engine.close()
    assert [question["cmd"] for question, _ in said] == ["hello", "load", "forward", "op", "bye"]
    for question, answer in said:
        schema("k2cp.1", "question").validate(question)
        schema("k2cp.1", "answer").validate(answer)
    schema("k2cp.1", "greeting").validate(said[0][1])
    assert not schema("k2cp.1", "question").is_valid({"cmd": "op", "op": "silu"})
    assert not schema("k2cp.1", "answer").is_valid({"done": 1})
    assert not schema("k2cp.1", "greeting").is_valid({"result": {"name": "x"}})
