"""Engines judged by the files they wrote: export, check-dump, bisect."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conformance.__main__ import main
from k2ref import Checkpoint, Model
from k2ref.trace import Recorder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dump") / "export"
    assert main(["export", str(directory)]) == 0
    return directory


@pytest.fixture(scope="module")
def right(exported: Path) -> dict[str, dict[str, np.ndarray]]:
    model = Model(Checkpoint(exported / "checkpoint"), dtype=np.float32)
    found = {}
    for name in ("near", "far"):
        inputs = load_file(exported / f"{name}.safetensors")
        recorder = Recorder()
        model.forward(inputs["ids_T"], inputs["position_T"], trace=recorder)
        found[name] = {tap: recorder[tap] for tap in recorder.names()}
        found[name]["logits_TW"] = found[name].pop("logits")
    return found


@pytest.fixture
def outputs(exported: Path, right: dict[str, dict[str, np.ndarray]]) -> Path:
    """Write what a right engine would write, afresh for each test."""
    folder = exported / "outputs"
    for name, arrays in right.items():
        save_file(arrays, folder / f"{name}.safetensors")
    declared = {"name": "files", "version": "1", "precision": "f32"}
    (folder / "engine.json").write_text(json.dumps(declared))
    return folder


def test_the_files_of_a_right_engine_pass(exported: Path, outputs: Path, capsys) -> None:
    results = exported.parent / "results.jsonl"
    assert main(["check-dump", str(exported), "--results", str(results)]) == 0
    assert "fail" not in capsys.readouterr().out
    assert results.exists()
    assert main(["bisect", f"dump:{exported}"]) == 0


def test_a_changed_tensor_is_named(exported: Path, outputs: Path, capsys) -> None:
    arrays = load_file(outputs / "near.safetensors")
    arrays["L2.moe.shared"][:, 3] *= 1.001
    save_file(arrays, outputs / "near.safetensors")
    assert main(["bisect", f"dump:{exported}"]) == 1
    assert "near: 48 tokens, the first tensor that differs is L2.moe.shared" in (
        capsys.readouterr().out
    )


def test_logits_alone_are_enough_to_be_judged(exported: Path, outputs: Path, capsys) -> None:
    for name in ("near", "far"):
        logits_TW = load_file(outputs / f"{name}.safetensors")["logits_TW"]
        save_file({"logits_TW": logits_TW}, outputs / f"{name}.safetensors")
    assert main(["check-dump", str(exported)]) == 0
    assert "the engine reports no tensor" in capsys.readouterr().out
    assert main(["bisect", f"dump:{exported}"]) == 2


@pytest.mark.parametrize(
    ("arrays", "verdict"),
    [
        ({"hidden": np.zeros(3, np.float32)}, "has no logits_TW"),
        ({"logits_TW": np.zeros((2, 3), np.float32)}, "wanted shape"),
        ({"logits_TW": np.zeros((48, 1024), np.int32)}, "wanted floating-point"),
        ({"logits_TW": np.full((48, 1024), np.nan, np.float32)}, "NaN"),
        ({"logits_TW": np.zeros((48, 1024), ml_dtypes.bfloat16)}, "NMSE 1"),
    ],
)
def test_wrong_files_are_results_of_the_engine(
    exported: Path, outputs: Path, capsys, arrays: dict[str, np.ndarray], verdict: str
) -> None:
    save_file(arrays, outputs / "near.safetensors")
    (outputs / "far.safetensors").unlink()
    assert main(["check-dump", str(exported)]) == 1
    printed = capsys.readouterr().out
    assert verdict in printed
    assert "outputs/far.safetensors was not written" in printed


def test_half_a_file_is_a_result_of_the_engine(exported: Path, outputs: Path, capsys) -> None:
    path = outputs / "near.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert main(["check-dump", str(exported)]) == 1
    assert "not a whole safetensors file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "wanted name, version and precision"),
        ('{"name": 1, "version": 1, "precision": "int3"}', "precision must be one of"),
    ],
)
def test_an_undeclared_engine_is_refused(
    exported: Path, outputs: Path, capsys, text: str, message: str
) -> None:
    (outputs / "engine.json").write_text(text)
    assert main(["check-dump", str(exported)]) == 2
    assert message in capsys.readouterr().err


def test_an_export_never_overwrites(exported: Path, tmp_path: Path, capsys) -> None:
    assert main(["export", str(exported)]) == 2
    assert main(["export", str(tmp_path / "new"), "--profile", "huge"]) == 2
    assert list(tmp_path.iterdir()) == []
    assert main(["check-dump", str(tmp_path)]) == 2
    assert "not written by k2conf export" in capsys.readouterr().err
