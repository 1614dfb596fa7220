"""Checkpoints on disk: what is read, what is not, and what a broken one is told."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from k2ref import Checkpoint, InputError, Model, oracle
from k2ref.cli import main
from k2ref.config import write_config
from k2ref.presets import NANO
from k2ref.shards import INDEX, SINGLE
from k2ref.synth import make_checkpoint
from k2ref.tensors import tensors
from k2ref.trace import Recorder

SHARD = "model-00001.safetensors"
EXPERT = "model.layers.1.mlp.experts.7"
BIAS = "model.layers.2.mlp.gate.e_score_correction_bias"


@pytest.fixture
def broken(tiny_dirs: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dirs["int4"], tmp_path / "broken"))


def stored(directory: Path) -> dict[str, np.ndarray]:
    """Read every tensor of the only shard, bfloat16 and FP8 as their own types."""
    checkpoint = Checkpoint(directory)
    with safe_open(directory / SHARD, framework="numpy") as file:
        return {name: checkpoint[name].copy() for name in file.keys()}  # noqa: SIM118


def rewrite(directory: Path, **changes: np.ndarray | None) -> None:
    """Replace or drop tensors of the shard; keys spell dots as double underscores."""
    arrays = stored(directory)
    for key, array in changes.items():
        name = key.replace("__", ".")
        arrays.pop(name, None)
        if array is not None:
            arrays[name] = array
    save_file(arrays, directory / SHARD)
    index = json.loads((directory / INDEX).read_text())
    index["weight_map"] = dict.fromkeys(arrays, SHARD)
    (directory / INDEX).write_text(json.dumps(index))


def test_arrays_are_views_in_their_stored_type(tiny: Checkpoint) -> None:
    embedding = tiny["model.embed_tokens.weight"]
    assert embedding.dtype == ml_dtypes.bfloat16
    assert not embedding.flags.owndata
    assert not embedding.flags.writeable
    packed = tiny.weight(f"{EXPERT}.gate_proj")
    assert isinstance(packed, oracle.Int4)
    assert (packed.packed_MP.dtype, packed.scale_MG.dtype) == (np.int32, ml_dtypes.bfloat16)
    assert (packed.group_size, packed.columns) == (32, 64)


def test_the_library_reads_the_same_values(tiny_dirs: dict[str, Path]) -> None:
    library = load_file(tiny_dirs["f32"] / SHARD)
    checkpoint = Checkpoint(tiny_dirs["f32"])
    assert set(library) == {tensor.name for tensor in tensors(checkpoint.config)}
    for name, array in library.items():
        np.testing.assert_array_equal(checkpoint[name], array)


def test_the_four_forms_have_the_published_names_and_types(tiny_dirs: dict[str, Path]) -> None:
    names = {form: Checkpoint(path).entry for form, path in tiny_dirs.items()}
    down = f"{EXPERT}.down_proj"
    assert names["int4"](f"{down}.weight_packed")[1:3] == ("I32", (64, 5))
    assert names["int4"](f"{down}.weight_scale")[1:3] == ("BF16", (64, 2))
    assert names["int4"](f"{down}.weight_shape")[1:3] == ("I64", (2,))
    assert names["fp8"](f"{down}.weight")[1:3] == ("F8_E4M3", (64, 40))
    assert names["fp8"](f"{down}.weight_scale_inv")[1:3] == ("F32", (1, 1))
    assert names["fp8"]("model.layers.0.self_attn.o_proj.weight").dtype == "F8_E4M3"
    assert names["bf16"](f"{down}.weight").dtype == "BF16"
    for entry in names.values():
        assert entry(BIAS).dtype == "F32"


def test_only_chosen_experts_are_read(tiny_dirs: dict[str, Path]) -> None:
    checkpoint, recorder = Checkpoint(tiny_dirs["int4"]), Recorder(".experts")
    Model(checkpoint).forward(np.array([3, 4]), trace=recorder)
    read = {name.split(".experts.")[1].split(".")[0] for name in checkpoint.bytes_read if
            name.startswith("model.layers.1.mlp.experts.")}  # fmt: skip
    chosen = {str(e) for e in recorder["L1.moe.router.experts"].ravel()}
    assert read == chosen
    assert len(chosen) < 12
    per_expert = sum(
        checkpoint.entry(f"{EXPERT}.{part}_proj.weight_{kind}").nbytes
        for part in ("gate", "up", "down")
        for kind in ("packed", "scale", "shape")
    )
    expert_bytes = [
        n for name, n in checkpoint.bytes_read.items() if "layers.1.mlp.experts" in name
    ]
    assert sum(expert_bytes) == len(chosen) * per_expert
    assert checkpoint.nbytes == sum(
        f.stat().st_size - 8 - int.from_bytes(f.read_bytes()[:8], "little")
        for f in tiny_dirs["int4"].glob("*.safetensors")
    )


def test_a_single_file_needs_no_index(tiny_dirs: dict[str, Path], broken: Path) -> None:
    (broken / INDEX).unlink()
    (broken / SHARD).rename(broken / SINGLE)
    ids = np.array([1, 2])
    np.testing.assert_array_equal(
        Model(Checkpoint(broken)).forward(ids), Model(Checkpoint(tiny_dirs["int4"])).forward(ids)
    )


@pytest.mark.parametrize("dtype", [np.int32, np.int16, np.uint8])
def test_the_shape_of_packed_weights_may_be_any_integer(broken: Path, dtype) -> None:
    key = f"{EXPERT}.up_proj.weight_shape".replace(".", "__")
    rewrite(broken, **{key: np.array([40, 64], dtype)})
    assert isinstance(Checkpoint(broken).weight(f"{EXPERT}.up_proj"), oracle.Int4)


def test_columns_need_not_fill_words_or_groups(tmp_path: Path, tiny_config) -> None:
    make_checkpoint(tmp_path / "a", tiny_config, form="int4", seed=0)
    codes_ML = np.random.default_rng(0).integers(-8, 8, (64, 40))
    key = f"{EXPERT}.down_proj".replace(".", "__")
    rewrite(tmp_path / "a", **{f"{key}__weight_packed": oracle.int4_pack(codes_ML)})
    weight = Checkpoint(tmp_path / "a").weight(f"{EXPERT}.down_proj")
    scale_ML = np.repeat(weight.scale_MG.astype(np.float32), 32, axis=1)[:, :40]
    np.testing.assert_array_equal(oracle.dense(weight), codes_ML * scale_ML)


def truncate(directory: Path) -> None:
    content = (directory / SHARD).read_bytes()
    (directory / SHARD).write_bytes(content[: len(content) // 2])


def drop_shard(directory: Path) -> None:
    (directory / SHARD).rename(directory / "elsewhere")


def edit_index(directory: Path, change: Callable[[dict], None]) -> None:
    index = json.loads((directory / INDEX).read_text())
    change(index)
    (directory / INDEX).write_text(json.dumps(index))


def edit_config(directory: Path, **values) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **values}))


def change(name: str, array: np.ndarray | None) -> Callable[[Path], None]:
    return lambda directory: rewrite(directory, **{name.replace(".", "__"): array})


NORM = "model.layers.0.input_layernorm.weight"
PACKED = f"{EXPERT}.up_proj.weight_packed"
CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncate, f"{SHARD}: not a whole safetensors file"),
    "shard missing": (drop_shard, f"{INDEX}: names the shard {SHARD}, which is not there"),
    "nothing there": (
        lambda d: (d / INDEX).unlink(),
        f"neither {INDEX} nor {SINGLE} is there",
    ),
    "index without map": (
        lambda d: edit_index(d, dict.clear),
        f"{INDEX}: weight_map must be an object, got None",
    ),
    "index leaves the folder": (
        lambda d: edit_index(d, lambda i: i["weight_map"].update({NORM: "../x"})),
        "must be file names in the same folder, got '../x'",
    ),
    "index promises too much": (
        lambda d: edit_index(d, lambda i: i["weight_map"].update({"more": SHARD})),
        f"says that more is in {SHARD}, which does not hold it",
    ),
    "tensor missing": (change(NORM, None), f"no tensor {NORM}"),
    "wrong shape": (
        change(NORM, np.ones(65, np.float32)),
        rf"{SHARD}: {NORM} must have shape \[64\], found \[65\]",
    ),
    "wrong dtype": (
        change(NORM, np.ones(64, np.int32)),
        f"{NORM} must be BF16 or F32 or F16 or F64, found I32",
    ),
    "unknown dtype": (change(NORM, np.ones(64, np.complex64)), "type C64, which is not known here"),
    "packed as bytes": (
        change(PACKED, np.ones((40, 8), np.uint8)),
        f"{PACKED} must be I32, found U8",
    ),
    "NaN in the bias": (
        change(BIAS, np.array([0.0] * 11 + [np.nan], np.float32)),
        f"{BIAS} must be finite, found NaN or infinity",
    ),
    "config wants more layers": (
        lambda d: edit_config(d, num_hidden_layers=4),
        "no tensor model.layers.3.input_layernorm.weight",
    ),
    "config wants other heads": (
        lambda d: edit_config(d, num_attention_heads=3),
        r"q_b_proj.weight must have shape \[48, 24\], found \[32, 24\]",
    ),
    "config without quantisation": (
        lambda d: edit_config(d, quantization_config=None),
        "experts.0.gate_proj is packed INT4, but config.json does not quantise it",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_broken_checkpoint_ends_in_one_sentence(
    broken: Path, case: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    damage, message = CASES[case]
    damage(broken)
    with pytest.raises(InputError, match=message):
        Checkpoint(broken)
    command = ["forward", str(broken), "--ids", "1", "--logits", str(tmp_path / "out.npy")]
    assert main(command) == 2
    output = capsys.readouterr()
    assert output.err.startswith("k2ref: error: ")
    assert output.err.count("\n") <= 1 + output.err.count("Error while")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken"]


def test_a_packed_shape_that_contradicts_the_config_is_refused_when_used(broken: Path) -> None:
    change(f"{EXPERT}.up_proj.weight_shape", np.array([40, 63]))(broken)
    with pytest.raises(InputError, match=r"weight_shape must say \[40, 64\], it says \[40, 63\]"):
        Checkpoint(broken).weight(f"{EXPERT}.up_proj")


def test_plain_weights_where_the_config_says_int4_are_refused(tiny_dirs, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(tiny_dirs["bf16"], tmp_path / "plain"))
    config = json.loads((tiny_dirs["int4"] / "config.json").read_text())
    edit_config(directory, quantization_config=config["quantization_config"])
    with pytest.raises(InputError, match=r"gate_proj is INT4, but there is no model\.layers\.1"):
        Checkpoint(directory)


def test_making_a_checkpoint_twice_gives_the_same_bytes(tiny_dirs, tmp_path, tiny_config) -> None:
    make_checkpoint(tmp_path / "again", tiny_config, form="int4", seed=3)
    for path in tiny_dirs["int4"].iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_shards_are_cut_at_their_size(tmp_path, tiny_config, tiny, monkeypatch) -> None:
    monkeypatch.setattr("k2ref.synth.SHARD_BYTES", 20_000)
    make_checkpoint(tmp_path / "many", tiny_config, form="int4", seed=3)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    many = Checkpoint(tmp_path / "many")
    np.testing.assert_array_equal(many["model.norm.weight"], tiny["model.norm.weight"])


def test_every_group_of_a_synthetic_expert_holds_an_extreme_code(tiny: Checkpoint) -> None:
    weight = tiny.weight(f"{EXPERT}.gate_proj")
    codes_ML = oracle.int4_unpack(weight.packed_MP, 64)
    assert (np.abs(codes_ML.reshape(-1, 32)).max(axis=1) == 7).all()
    spread = float(oracle.dense(weight).std() * math.sqrt(64))
    assert 0.9 < spread < 1.2


def test_a_made_checkpoint_is_whole_or_not_there(tmp_path, tiny_config, monkeypatch) -> None:
    def fail(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr("k2ref.synth.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        make_checkpoint(tmp_path / "new", tiny_config, form="int4", seed=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "form", "message"),
    [
        (NANO, "int3", "quant must be one of int4, fp8, bf16, f32, got 'int3'"),
        (dataclasses.replace(NANO, moe_intermediate_size=63), "int4", "must be multiples of 8"),
    ],
)
def test_a_checkpoint_that_cannot_be_made_is_refused(tmp_path, config, form, message) -> None:
    with pytest.raises(InputError, match=message):
        make_checkpoint(tmp_path / "x", config, form=form, seed=0)
    with pytest.raises(InputError, match="exists already"):
        make_checkpoint(tmp_path, NANO, form="int4", seed=0)


def test_a_written_config_is_in_the_published_style() -> None:
    table = write_config(NANO, quant="int4")
    assert table["rope_scaling"]["type"] == "yarn"
    assert table["quantization_config"]["format"] == "pack-quantized"
