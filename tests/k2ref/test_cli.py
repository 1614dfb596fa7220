"""The command `k2ref`, as everything that checks from outside calls it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from k2ref import Checkpoint, Model, Numerics
from k2ref.cli import main
from k2ref.shards import find_entries
from k2ref.trace import tap_names

IDS = "3,1,4,1,5"


@pytest.fixture
def directory(tiny_dirs: dict[str, Path]) -> str:
    return str(tiny_dirs["int4"])


def test_forward_writes_logits_of_every_token(directory: str, tiny, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.array([3, 1, 4, 1, 5]))
    np.save(tmp_path / "positions.npy", np.array([0, 5, 6, 100, 262143]))
    np.save(tmp_path / "table.npy", Model(tiny).inv_freq_Z)
    arguments = ["--ids-file", "ids.npy", "--positions", "positions.npy", "--inv-freq", "table.npy"]
    files = [str(tmp_path / a) if a.endswith(".npy") else a for a in arguments]
    outputs = ["--logits", str(tmp_path / "l.npy"), "--routing", str(tmp_path / "r.npz")]
    outputs += ["--trace", str(tmp_path / "t.safetensors")]
    options = ["--dtype", "float64", "--numerics", "dequant=bf16", "--chunk", "2"]
    assert main(["forward", directory, *files, *outputs, *options]) == 0

    model = Model(tiny, dtype=np.float64, numerics=Numerics(dequant="bf16"))
    positions = np.array([0, 5, 6, 100, 262143])
    wanted = model.prefill(np.array([3, 1, 4, 1, 5]), positions, chunk=2)
    np.testing.assert_array_equal(np.load(tmp_path / "l.npy"), wanted)
    routing = np.load(tmp_path / "r.npz")
    assert routing["experts"].shape == routing["weights"].shape == (2, 5, 3)
    assert routing["layers"].tolist() == [1, 2]
    with safe_open(tmp_path / "t.safetensors", framework="numpy") as file:
        assert set(file.keys()) == set(tap_names(tiny.config))
        np.testing.assert_array_equal(file.get_tensor("logits"), wanted)


def test_bfloat16_logits_are_stored_as_float32(directory: str, tmp_path: Path) -> None:
    output = tmp_path / "l.npy"
    command = ["forward", directory, "--ids", IDS, "--dtype", "bfloat16", "--logits", str(output)]
    assert main(command) == 0
    logits_TW = np.load(output)
    assert (logits_TW.dtype, logits_TW.shape) == (np.float32, (5, 96))
    assert not (logits_TW.view(np.uint32) & 0xFFFF).any()


@pytest.mark.parametrize("ops", ["oracle", "kernels"])
def test_the_first_tensor_that_is_not_finite_is_named(
    tiny_dirs: dict[str, Path], ops: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    broken = shutil.copytree(tiny_dirs["f32"], tmp_path / "broken")
    name = "model.layers.1.post_attention_layernorm.weight"
    entry = find_entries(broken)[name]
    with entry.path.open("r+b") as file:
        file.seek(entry.start)
        file.write(np.array([np.inf], np.float32).tobytes())
    output = tmp_path / "l.npy"
    command = ["forward", str(broken), "--ids", IDS, "--ops", ops, "--logits", str(output)]
    assert main(command) == 0
    assert capsys.readouterr().err == "k2ref: NaN or infinity from L1.ffn.norm on\n"
    assert not np.isfinite(np.load(output)).all()
    assert main(["generate", str(broken), "--ids", IDS, "--ops", ops, "--max-new", "4"]) == 2
    assert "the logits are not finite" in capsys.readouterr().err


def test_generate_prints_ids(directory: str, tiny, capsys: pytest.CaptureFixture) -> None:
    assert main(["generate", directory, "--ids", IDS, "--max-new", "4"]) == 0
    printed = capsys.readouterr().out.strip().split(",")
    first = Model(tiny).forward(np.array([3, 1, 4, 1, 5]))[-1].argmax()
    assert int(printed[0]) == first
    assert len(printed) <= 4


def test_generate_uses_kernels_and_the_oracle_gives_the_same(directory, capsys) -> None:
    printed = []
    for options in ([], ["--ops", "oracle"], ["--dtype", "float64"]):
        assert main(["generate", directory, "--ids", IDS, "--max-new", "3", *options]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] == printed[2]


def test_info_counts(directory: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["info", directory]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["family"] == "deepseek_v3, 3 layers, 1 dense"
    assert lines["weights"] == "int4"
    assert lines["cache"].startswith("24 values per token and layer, 144 bytes per token")


def test_make_checkpoint_writes_what_was_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "made"
    command = ["make-checkpoint", str(target), "--layers", "2", "--quant", "fp8", "--seed", "5"]
    assert main(command) == 0
    assert Checkpoint(target).config.num_hidden_layers == 2
    assert main(command) == 2


def test_the_demo_shows_logits_routing_and_decoding(capsys: pytest.CaptureFixture) -> None:
    assert main(["demo"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    for part in ("After the prompt of 8 tokens", "Routing", "experts, ", "Greedy continuation: "):
        assert part in output
    assert "equals one prefill of all 20" in output
    assert "The compiled kernels differ from NumPy by" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ids", "1,x"], "wanted integers like 1,2,3, got '1,x'"),
        (["--ids", "1", "--dtype", "float16"], "invalid choice: 'float16'"),
        (["--ids", "1", "--ops", "fast"], "invalid choice: 'fast'"),
        (["--ids", "1", "--chunk", "0"], "wanted a positive integer, got '0'"),
        ([], "one of the arguments --ids --ids-file is required"),
    ],
)
def test_arguments_without_meaning_are_refused(directory, options, message, capsys) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["forward", directory, "--logits", "out.npy", *options])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ids", "1", "--ops", "kernels", "--dtype", "float64"], "float64 needs --ops oracle"),
        (["--ids", "99"], "ids must lie in 0 to 95, got 99"),
        (["--ids", "1", "--numerics", "dequant=int8"], "dequant must be one of exact, bf16"),
        (["--ids", "1", "--numerics", "colour=red"], "no key 'colour'; the keys are"),
        (["--ids-file", "missing.npy"], "missing.npy: not a readable .npy file"),
        (["--ids-file", "several.npz"], "several.npz: wanted one array (.npy), found several"),
        (["--ids", "1", "--trace", "nowhere/t.safetensors"], "not a file in an existing folder"),
        (["--ids", "1,2", "--positions", "falling.npy"], "positions must increase"),
    ],
)
def test_wrong_input_exits_with_2_and_leaves_no_file(
    directory, options, message, capsys, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("several.npz", a=np.zeros(1), b=np.zeros(1))
    np.save("falling.npy", np.array([2, 1]))
    assert main(["forward", directory, "--logits", "out.npy", *options]) == 2
    assert message in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["falling.npy", "several.npz"]


def test_an_output_that_fails_half_way_leaves_nothing(directory, tmp_path, monkeypatch) -> None:
    def fail(file, array):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "save", fail)
    assert main(["forward", directory, "--ids", "1", "--logits", str(tmp_path / "l.npy")]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_one_sentence(capsys: pytest.CaptureFixture) -> None:
    assert main(["info", "nowhere"]) == 2
    assert "nowhere/config.json: not a readable JSON file" in capsys.readouterr().err
