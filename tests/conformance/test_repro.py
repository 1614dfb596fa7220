"""`repro` writes one small file that shows a failure without the kit, and agrees without it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conformance.__main__ import main
from conformance.engine import Namespace, open_engine
from conformance.repro import operation
from conformance.repro.extract import extract
from conformance.repro.operation import find_case, smallest
from conformance.repro.shrink import candidates, shrink, sizes
from conformance.repro.text import literal
from k2ref import Checkpoint, InputError, Model, oracle
from k2ref.trace import Recorder
from tests.conformance.forks import FORKS

ROOT = Path(__file__).parents[2]
WRONG = """
from k2ref import oracle
def rms_norm(x_TD, gain_D, eps, **options): return oracle.rms_norm(x_TD, gain_D, 1e-3)
def route(logits_TE, bias_E, *, scale, **options):
    routing = oracle.route(logits_TE, bias_E, scale=scale, **options)
    return routing._replace(weights_TK=routing.weights_TK * scale)
def int4_linear(x_TL, packed_MP, scale_MG, **options):
    return oracle.int4_linear(x_TL, packed_MP, scale_MG[:, ::-1], **options)
def expert_ffn(x_TD, expert, **options):
    return oracle.expert_ffn(x_TD, expert._replace(gate=expert.up, up=expert.gate), **options)
def silu(x): raise RuntimeError("no such kernel")
"""
CLIENT = """
import json, sys
from safetensors.numpy import load_file, save_file
from k2ref import oracle
for line in sys.stdin:
    asked = json.loads(line)
    if asked["cmd"] == "hello":
        print('{"result": {"name": "c", "version": "1", "precision": "f32", "ops": ["rms_norm"]}}')
    elif asked["cmd"] == "op":
        given = load_file(asked["inputs"])
        out = oracle.rms_norm(given["x_TD"], given["gain_D"], 1e-3)
        save_file({"out_TD": out}, asked["outputs"])
        print('{"result": {}}')
    else:
        print('{"result": {}}')
    sys.stdout.flush()
"""


@pytest.fixture
def wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "wrong_engine.py").write_text(WRONG)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.delitem(sys.modules, "wrong_engine", raising=False)
    return "wrong_engine"


def run_file(path: Path) -> tuple[int, str]:
    run = subprocess.run([sys.executable, str(path)], capture_output=True, text=True)
    return run.returncode, run.stdout + run.stderr


@pytest.mark.parametrize(
    "case", ["rms_norm-ordinary", "route-golden", "int4_linear-ordinary", "expert_ffn-ordinary"]
)
def test_a_failing_operation_becomes_a_small_file_that_shows_it(
    wrong: str, tmp_path: Path, case: str
) -> None:
    path = tmp_path / "repro.py"
    assert main(["repro", wrong, case, "--out", str(path)]) == 0
    assert path.stat().st_size < 50_000
    text = path.read_text()
    assert "conformance" not in text
    path.write_text(text.replace(f"MODULE = '{wrong}'", "MODULE = 'k2ref.oracle'"))
    assert run_file(path) == (0, "agrees\n")


def test_an_engine_that_raises_is_reproduced_as_such(
    wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "repro.py"
    assert main(["repro", wrong, "silu-calm", "--out", str(path)]) == 0
    assert "REPRODUCED: raised RuntimeError: no such kernel" in capsys.readouterr().out


def test_an_engine_in_another_process_is_asked_in_its_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    client, path = tmp_path / "client.py", tmp_path / "repro.py"
    client.write_text(CLIENT)
    address = f"stdio:{sys.executable} {client}"
    assert main(["repro", address, "rms_norm-ordinary", "--out", str(path)]) == 0
    client.write_text(CLIENT.replace("1e-3", 'asked["args"]["eps"]'))
    assert run_file(path) == (0, "agrees\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["k2ref.oracle", "rms_norm-ordinary"], "does not fail: pass"),
        (["k2ref.oracle", "rms_norm-never"], "no case 'rms_norm-never'"),
        (["wrong_engine", "rotate-far"], "does not offer rotate"),
    ],
)
def test_what_cannot_be_reproduced_is_said(
    wrong: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    path = tmp_path / "repro.py"
    assert main(["repro", *arguments, "--out", str(path)]) == 2
    assert message in capsys.readouterr().err
    assert not path.exists()


def test_shrinking_halves_every_array_that_has_the_dimension() -> None:
    table = {"x_TL": np.zeros((4, 64)), "packed_MP": np.zeros((8, 8)), "scale_MG": np.zeros((8, 2))}
    found = shrink("int4_linear", table, lambda t: t["x_TL"].size > 0)
    assert {k: v.shape for k, v in found.items()} == {
        "x_TL": (1, 1),
        "packed_MP": (1, 1),
        "scale_MG": (1, 1),
    }


def test_shrinking_keeps_what_is_needed_to_fail() -> None:
    x_TD = np.zeros((16, 8))
    x_TD[11, 5] = 1
    found = shrink("rms_norm", {"x_TD": x_TD}, lambda t: bool(t["x_TD"].any()))
    assert found["x_TD"].tolist() == [[1.0]]


def test_an_input_that_the_reference_refuses_is_no_smaller_case() -> None:
    def fails(table: dict[str, np.ndarray]) -> bool:
        if table["x_TD"].shape[0] < 4:
            raise ValueError("too small")
        return True

    assert shrink("rms_norm", {"x_TD": np.ones((8, 1))}, fails)["x_TD"].shape == (4, 1)
    assert sizes("rotate", {"x": np.zeros((3, 2, 8)), "angle_TZ": np.zeros((3, 4))}) == {
        "T": 3,
        "H": 2,
        "R": 8,
        "Z": 4,
    }
    assert all(len(t["x"]) for t in candidates("silu", {"x": np.ones((2, 2))}))


def test_a_failing_input_gets_much_smaller() -> None:
    ours = {name: getattr(oracle, name) for name in oracle.OPERATIONS}
    engine = Namespace(SimpleNamespace(**ours, PRECISION="f32"))
    engine.offered.rotate = lambda x, angle_TZ, **options: oracle.rotate(x, -angle_TZ, **options)
    table = smallest(engine, find_case("rotate-far"))
    assert table["x"].size <= 4


@pytest.mark.parametrize(
    "array",
    [
        np.arange(5, dtype=np.int32),
        np.linspace(0, 1, 100, dtype=np.float32).reshape(10, 10),
        np.array([np.inf, np.nan, -0.0]),
    ],
)
def test_arrays_survive_as_text_bit_for_bit(array: np.ndarray) -> None:
    template = (ROOT / "conformance/repro/operation.py.txt").read_text()
    decode = re.search(r"def decode.*?\n\n", template, re.S)
    assert decode is not None
    scope: dict[str, object] = {"np": np}
    exec("import base64\n" + decode.group(0), scope)
    found = eval(literal(array), scope)
    assert found.tobytes() == array.tobytes()
    assert (found.dtype, found.shape) == (array.dtype, array.shape)


@pytest.mark.peer
@pytest.mark.parametrize("name", ["rs2", "halfsplit", "no_mscale", "no_bias", "gelu"])
def test_a_fork_s_bug_is_reproduced_without_the_kit(tmp_path: Path, name: str) -> None:
    pytest.importorskip("transformers", reason="transformers is of the extra `peers`")
    patch, path = tmp_path / "fork.py", tmp_path / "repro.py"
    patch.write_text(FORKS[name].source)
    command = [sys.executable, "-m", "conformance", "repro", f"hf:,patch={patch}"]
    run = subprocess.run([*command, "--out", str(path)], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr
    assert FORKS[name].tap.split(".", 1)[1] in run.stdout
    text = path.read_text()
    assert len(text) < 50_000
    assert "conformance" not in text
    assert "k2ref" not in text
    path.write_text(text.replace(FORKS[name].source, ""))
    code, said = run_file(path)
    assert code == 0, said
    assert said.splitlines()[-1] == "agrees" or "agrees" in said


def test_a_file_carries_along_what_asks_a_library_and_nothing_of_this_kit() -> None:
    text = extract("conformance.adapters.hf_ops", "moe")
    assert "def _dense" in text
    assert "class Int4" in text
    assert "import torch" in text
    assert "import transformers" in text
    assert "def route" not in text
    assert not re.search(r"^(from|import) (conformance|k2ref)", text, re.M)
    with pytest.raises(InputError, match="takes oracle as a module"):
        extract("conformance.calls", "parameters")


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("gguf:", "no file for gguf: llama.cpp offers logits alone; build it from source and ask"),
        ("kt:", "no file for kt: the client of kt-kernel is part of this kit"),
        ("https://host/v1", "no file for http: a server offers logits alone"),
    ],
)
def test_an_engine_that_no_file_can_ask_is_refused_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: str, message: str
) -> None:
    assert main(["repro", engine, "--out", str(tmp_path / "repro.py")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "`run --save-failures DIR` writes failing inputs as vectors" in said


@pytest.mark.slow
@pytest.mark.parametrize("alone", [False, True])
def test_files_of_an_engine_are_reproduced_by_the_wrong_row(tmp_path: Path, alone: bool) -> None:
    export, path = tmp_path / "export", tmp_path / "repro.py"
    assert main(["export", str(export)]) == 0
    inputs, recorder = load_file(export / "near.safetensors"), Recorder()
    model = Model(Checkpoint(export / "checkpoint"))
    logits_TW = model.forward(inputs["ids_T"], inputs["position_T"], trace=recorder)
    right = {"logits_TW": logits_TW, "L2.moe.shared": recorder["L2.moe.shared"]}
    wrong = {name: array.copy() for name, array in right.items()}
    name = "logits_TW" if alone else "L2.moe.shared"
    wrong[name][7] *= 1.001
    outputs = export / "outputs"
    for file, arrays in (("near", wrong), ("right", right)):
        kept = {"logits_TW": arrays["logits_TW"]} if alone else arrays
        save_file(kept, outputs / f"{file}.safetensors")
    declared = {"name": "files", "version": "1", "precision": "f32"}
    (outputs / "engine.json").write_text(json.dumps(declared))
    if not alone:  # a tap needs those before it
        save_file({**wrong, "L2.ffn.norm": recorder["L2.ffn.norm"]}, outputs / "near.safetensors")
    assert main(["repro", f"dump:{export}", "--out", str(path)]) == 0
    code, said = run_file(path)
    assert (code, said.split(":")[1]) == (1, f" {name}, row [7]")
    run = [sys.executable, str(path), str(outputs / "right.safetensors")]
    assert subprocess.run(run, capture_output=True, text=True).stdout == "agrees\n"
    save_file(right, outputs / "near.safetensors")
    assert main(["repro", f"dump:{export}", "--out", str(path)]) == 2


@pytest.mark.peer
def test_an_operation_of_a_fork_is_reproduced_without_the_kit(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is of the extra `peers`")
    patch, path = tmp_path / "fork.py", tmp_path / "repro.py"
    patch.write_text(FORKS["rs2"].source)
    command = [sys.executable, "-m", "conformance", "repro", f"hf:,patch={patch}", "route-golden"]
    run = subprocess.run([*command, "--out", str(path)], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr
    text = path.read_text()
    assert len(text) < 50_000
    assert "import conformance" not in text
    path.write_text(text.replace(FORKS["rs2"].source, ""))
    code, said = run_file(path)
    assert (code, said.splitlines()[-1]) == (0, "agrees")


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")  # foreign warnings
@pytest.mark.parametrize("case", ["rms_norm-ordinary", "int4_linear-ordinary", "route-golden"])
def test_an_operation_of_mlx_is_reproduced_without_the_kit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    pytest.importorskip("mlx_lm", reason="mlx-lm is of the extra `peers-mlx`")
    engine, path = open_engine("mlx:"), tmp_path / "repro.py"
    right = engine.operation

    def doubled(name: str) -> Any:
        function = right(name)

        def wrong(*args: Any, **kw: Any) -> Any:
            found = function(*args, **kw)
            return type(found)(*found[:-1], 2 * found[-1]) if name == "route" else 2 * found

        return wrong

    monkeypatch.setattr(engine, "operation", doubled)
    try:
        text, _ = operation.script(engine, "mlx:", find_case(case))
    finally:
        engine.close()
    assert len(text) < 50_000
    path.write_text(text)
    assert run_file(path) == (0, "agrees\n")
    path.write_text(text.replace("mx.array(x.astype(np.float32))", "mx.array(-2 * x)"))
    assert run_file(path)[0] == 1
