"""The forward pass as a whole: caches, chunks, positions, precisions, taps."""

import dataclasses
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.compare import divergence, nmse
from k2ref import Checkpoint, InputError, Model, Numerics, oracle
from k2ref.presets import K2_5
from k2ref.spec import read_toml
from k2ref.synth import make_checkpoint
from k2ref.tensors import tensors
from k2ref.trace import Recorder, tap_names
from tests.agree import agree, agree_float32
from tests.shapes import watch

IDS = np.random.default_rng(1).integers(0, 96, 11)
FAR = np.array([0, 1, 2, 99, 4095, 4096, 65535, 131071, 200001, 262142, 262143])


@pytest.fixture(scope="module")
def model(tiny: Checkpoint) -> Model:
    return Model(tiny, dtype=np.float64)


def test_every_tap_has_the_listed_name_and_shape(model: Model) -> None:
    recorder = Recorder()
    model.forward(IDS, trace=recorder)
    assert recorder.names() == tap_names(model.config)
    shapes = {tap["name"]: tap["shape"] for tap in read_toml("taps.toml")["tap"]}
    config = model.config
    sizes = {"T": 11, "D": 64, "Q": 24, "H": 2, "N": 8, "R": 8, "C": 16, "V": 8, "W": 96}
    sizes |= {"E": config.n_routed_experts, "K": config.num_experts_per_tok}
    for name in recorder.names():
        plain = name.split(".", 1)[1] if name[0] == "L" else name
        assert recorder[name].shape == tuple(sizes[letter] for letter in shapes[plain])


def test_taps_add_up_along_the_residual_stream(model: Model) -> None:
    tap = Recorder()
    model.forward(IDS, trace=tap)
    for layer, before in ((0, "embed"), (1, "L0.out"), (2, "L1.out")):
        name = f"L{layer}"
        np.testing.assert_array_equal(
            tap[f"{name}.attn.residual"], tap[before] + tap[f"{name}.attn.out"]
        )
        np.testing.assert_array_equal(
            tap[f"{name}.out"], tap[f"{name}.attn.residual"] + tap[f"{name}.ffn.out"]
        )
    np.testing.assert_array_equal(tap["L2.ffn.out"], tap["L2.moe.routed"] + tap["L2.moe.shared"])


def test_shapes_hold_in_every_operation_of_a_forward_pass(tiny: Checkpoint) -> None:
    ops = watch(oracle, oracle.OPERATIONS)
    np.testing.assert_array_equal(Model(tiny, ops=ops).forward(IDS), Model(tiny).forward(IDS))


@given(cut=st.integers(1, 11))
def test_prefill_in_chunks_equals_prefill_at_once(model: Model, cut: int) -> None:
    agree(model.prefill(IDS, FAR, chunk=cut), model.forward(IDS, FAR))


def test_decoding_one_token_at_a_time_equals_prefill(model: Model) -> None:
    cache = model.new_cache()
    steps = [model.forward(IDS[t : t + 1], cache=cache) for t in range(len(IDS))]
    agree(np.concatenate(steps), model.forward(IDS))
    assert len(cache) == len(IDS)
    assert cache.nbytes >= 3 * len(IDS) * (16 + 8) * 8


def test_the_cache_holds_the_latents_of_all_chunks(model: Model) -> None:
    cache, taps = model.new_cache(), Recorder("attn.latent")
    for part_T in np.split(IDS, [1, 4]):
        model.forward(part_T, cache=cache, trace=taps)
    latent_SC, key_rope_SR = cache.rows(2)
    np.testing.assert_array_equal(latent_SC, taps["L2.attn.latent"])
    assert key_rope_SR.shape == (len(IDS), 8)


@given(length=st.integers(1, 10))
def test_a_prefix_does_not_know_what_follows(model: Model, length: int) -> None:
    agree(model.forward(IDS[:length], FAR[:length]), model.forward(IDS, FAR)[:length])


def test_absorbed_attention_equals_expanded(tiny: Checkpoint, model: Model) -> None:
    expanded = Model(tiny, dtype=np.float64, attention="expanded")
    agree(model.forward(IDS, FAR), expanded.forward(IDS, FAR))


@given(shift=st.integers(0, 250_000))
def test_only_distances_between_positions_matter(tiny: Checkpoint, shift: int) -> None:
    exact = Model(tiny, dtype=np.float64, numerics=Numerics(angle_precision="float64"))
    # the angles themselves are rounded once: 250,000 rad x 2^-53 each
    assert nmse(exact.forward(IDS, shift + np.arange(11)), exact.forward(IDS)) <= 1e-18


def test_the_order_of_context_tokens_matters(model: Model) -> None:
    swapped = IDS.copy()
    swapped[[2, 3]] = swapped[[3, 2]]
    assert nmse(model.forward(swapped)[-1:], model.forward(IDS)[-1:]) > 1e-3


@pytest.mark.parametrize("form", ["int4", "fp8", "bf16", "f32"])
def test_float32_follows_float64_in_every_form(tiny_dirs: dict[str, Path], form: str) -> None:
    checkpoint = Checkpoint(tiny_dirs[form])
    agree_float32(
        Model(checkpoint).forward(IDS, FAR),
        Model(checkpoint, dtype=np.float64).forward(IDS, FAR),
    )


def test_packed_and_dequantised_weights_are_one_model(tiny_dirs: dict[str, Path]) -> None:
    int4, f32 = (Model(Checkpoint(tiny_dirs[f]), dtype=np.float64) for f in ("int4", "f32"))
    np.testing.assert_array_equal(int4.forward(IDS), f32.forward(IDS))
    rounded = Model(int4.checkpoint, dtype=np.float64, numerics=Numerics(dequant="bf16"))
    bf16 = Model(Checkpoint(tiny_dirs["bf16"]), dtype=np.float64)
    np.testing.assert_array_equal(rounded.forward(IDS), bf16.forward(IDS))


def test_bfloat16_runs_and_stays_near(tiny: Checkpoint, model: Model) -> None:
    half = Model(tiny, dtype=ml_dtypes.bfloat16)
    logits_TW = half.forward(IDS)
    assert logits_TW.dtype == ml_dtypes.bfloat16
    assert half.new_cache()._latent_LSC[0].dtype == ml_dtypes.bfloat16
    assert divergence(logits_TW.astype(np.float64), model.forward(IDS)).mean() < 0.1


QUESTIONS = [
    ("latent_norm_eps=rms_norm_eps", np.float64),
    ("angle_precision=float64", np.float64),
    ("rope_dtype=model", ml_dtypes.bfloat16),
    ("norm_rounding=after_gain", ml_dtypes.bfloat16),
    ("router_dtype=model", ml_dtypes.bfloat16),
    ("dequant=bf16", np.float64),
]


@pytest.mark.parametrize(("question", "dtype"), QUESTIONS, ids=[q for q, _ in QUESTIONS])
def test_every_question_that_can_show_does(tiny: Checkpoint, question: str, dtype) -> None:
    key, value = question.split("=")
    changed = Model(tiny, dtype=dtype, numerics=Numerics(**{key: value}))
    assert (changed.forward(IDS, FAR) != Model(tiny, dtype=dtype).forward(IDS, FAR)).any()


@pytest.mark.parametrize(("freq", "layers"), [("honoured", [2]), ("ignored", [1, 2])])
def test_the_layer_frequency_is_a_question(tmp_path: Path, tiny_config, freq, layers) -> None:
    config = dataclasses.replace(tiny_config, moe_layer_freq=2)
    assert [n for n in range(3) if config.is_sparse(n, honour_freq=freq == "honoured")] == layers
    make_checkpoint(tmp_path / "freq", config, form="bf16", seed=0)
    recorder = Recorder()
    Model(Checkpoint(tmp_path / "freq")).forward(IDS, trace=recorder)
    assert recorder.names() == tap_names(config)


def test_a_single_expert_keeps_its_score_where_the_question_says_so(tmp_path, tiny_config) -> None:
    config = dataclasses.replace(tiny_config, num_experts_per_tok=1)
    make_checkpoint(tmp_path / "one", config, form="bf16", seed=0)
    for answer, wanted in (("yes", True), ("no", False)):
        model, tap = (
            Model(
                Checkpoint(tmp_path / "one"),
                dtype=np.float64,
                numerics=Numerics(renorm_single=answer),
            ),
            Recorder(),
        )
        model.forward(IDS, trace=tap)
        weights = tap["L1.moe.router.weights"]
        assert bool((np.abs(weights - 2.827) < 1e-12).all()) is wanted


def test_variants_of_the_family_run(tmp_path: Path, tiny_config) -> None:
    plain = dataclasses.replace(
        tiny_config,
        q_lora_rank=None,
        n_shared_experts=0,
        tie_word_embeddings=True,
        n_group=4,
        topk_group=2,
        rope=dataclasses.replace(K2_5.rope, factor=1.0),
    )
    make_checkpoint(tmp_path / "plain", plain, form="bf16", seed=1)
    checkpoint = Checkpoint(tmp_path / "plain")
    recorder = Recorder()
    logits_TW = Model(checkpoint).forward(IDS, trace=recorder)
    assert recorder.names() == tap_names(checkpoint.config)
    assert "L1.moe.shared" not in recorder.names()
    assert np.isfinite(logits_TW).all()
    assert "lm_head.weight" not in {t.name for t in tensors(checkpoint.config)}


def test_names_may_carry_the_prefix_of_the_multimodal_models(tmp_path, tiny_config, tiny) -> None:
    prefixed = dataclasses.replace(tiny_config, model_type="kimi_k25", prefix="language_model.")
    make_checkpoint(tmp_path / "k25", prefixed, form="int4", seed=3)
    checkpoint = Checkpoint(tmp_path / "k25")
    assert checkpoint.config.prefix == "language_model."
    np.testing.assert_array_equal(Model(checkpoint).forward(IDS), Model(tiny).forward(IDS))


def test_a_table_of_the_callers_own_replaces_the_computed_one(tiny: Checkpoint) -> None:
    still = Model(tiny, inv_freq_Z=np.zeros(4, np.float32))
    np.testing.assert_array_equal(still.forward(IDS, FAR), still.forward(IDS))
    with pytest.raises(InputError, match=r"must have shape \[4\], got \[5\]"):
        Model(tiny, inv_freq_Z=np.zeros(5, np.float32))


@pytest.mark.parametrize(
    ("ids", "positions", "message"),
    [
        ([], None, r"at least one integer, got float64 \[0\]"),
        ([[1]], None, r"one row of at least one integer, got int64 \[1, 1\]"),
        ([1.5], None, "got float64"),
        ([1, 96], None, "ids must lie in 0 to 95, got 96"),
        ([-1], None, "ids must lie in 0 to 95, got -1"),
        ([1, 2], [0], r"positions must be 2 integers, one per id, got int64 \[1\]"),
        ([1, 2], [0.0, 1.0], "got float64"),
        ([1, 2], [3, 3], "positions must increase from 0 on, got 3 after 3"),
        ([1, 2], [-1, 3], "positions must increase from 0 on, got -1 at the start"),
        ([1], [2**24 + 1], "at most 16777216, which float32 holds, got 16777217"),
    ],
)
def test_wrong_input_gets_a_sentence(model: Model, ids, positions, message: str) -> None:
    given_positions = None if positions is None else np.array(positions)
    with pytest.raises(InputError, match=message):
        model.forward(np.array(ids), given_positions)


def test_positions_must_lie_after_those_in_the_cache(model: Model) -> None:
    cache = model.new_cache()
    model.forward(IDS[:2], np.array([5, 9]), cache=cache)
    with pytest.raises(InputError, match="got 9 after 9"):
        model.forward(IDS[2:3], np.array([9]), cache=cache)
    model.forward(IDS[2:3], cache=cache)
    assert cache.position_S.tolist() == [5, 9, 10]
