"""Frequencies, angles and the rotation."""

import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2ref import oracle
from k2ref.numerics import Numerics
from k2ref.presets import K2_5, K2_INSTRUCT, K2_THINKING, NANO
from k2ref.rope_table import inv_freq
from k2ref.spec import read_toml, spec_path
from tests.strategies import normal, seeds

PUBLISHED = {"yarn32-beta1": K2_INSTRUCT, "yarn64-beta1": K2_THINKING, "yarn64-beta32": K2_5}
# entries 9, 18, 19, 20 and 31 of the three tables, from 60-digit arithmetic
GOLDEN = {
    "yarn32-beta1": [
        "4.7688612440607e-02",
        "2.2742037565104e-03",
        "1.6217599081160e-03",
        "3.6140467735726e-05",
        "8.7644129115899e-07",
    ],
    "yarn64-beta1": [
        "4.7688612440607e-02",
        "2.2742037565104e-03",
        "1.6217599081160e-03",
        "1.8070233867863e-05",
        "4.3822064557949e-07",
    ],
    "yarn64-beta32": [
        "4.3776655951339e-02",
        "4.0864598749797e-04",
        "1.5837499102695e-04",
        "1.8070233867863e-05",
        "4.3822064557949e-07",
    ],
}
EXACT = Numerics(angle_precision="float64")


def ulps(found_Z: np.ndarray, wanted_Z: np.ndarray) -> np.ndarray:
    return found_Z.view(np.int32).astype(int) - wanted_Z.view(np.int32)


@pytest.mark.parametrize("name", PUBLISHED)
def test_float64_frequencies_have_the_published_digits(name: str) -> None:
    found_Z = inv_freq(PUBLISHED[name], EXACT)[[9, 18, 19, 20, 31]]
    assert [f"{f:.13e}" for f in found_Z] == GOLDEN[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_table_of_a_published_model_is_the_shipped_one(name: str) -> None:
    raw = spec_path(f"rope/{name}.f32").read_bytes()
    tables = {t["file"]: t["sha256"] for t in read_toml("facts.toml")["rope_table"]}
    assert hashlib.sha256(raw).hexdigest() == tables[f"rope/{name}.f32"]
    assert inv_freq(PUBLISHED[name], Numerics()).tobytes() == raw


@pytest.mark.parametrize("name", PUBLISHED)
def test_computed_tables_differ_from_shipped_ones_in_entry_five_by_one_ulp(name: str) -> None:
    rope = PUBLISHED[name].rope
    found_Z = oracle.yarn_inv_freq(
        64, 50000.0, factor=rope.factor, beta_fast=rope.beta_fast, dtype=np.float32
    )
    wanted_Z = np.frombuffer(spec_path(f"rope/{name}.f32").read_bytes(), "<f4")
    assert ulps(found_Z, wanted_Z).tolist() == [0, 0, 0, 0, 0, 1] + [0] * 26


def test_a_factor_of_one_is_plain_rope_and_other_widths_are_computed() -> None:
    plain_Z = oracle.yarn_inv_freq(8, 10000.0)
    np.testing.assert_array_max_ulp(plain_Z, np.array([1, 0.1, 0.01, 0.001]), 1)
    assert inv_freq(NANO, Numerics()).shape == (8,)


def test_a_model_no_longer_than_its_training_may_go_without_yarn() -> None:
    short = dataclasses.replace(K2_THINKING, max_position_embeddings=4096)
    without_Z = inv_freq(short, Numerics(yarn="when_longer", angle_precision="float64"))
    np.testing.assert_array_equal(without_Z, oracle.yarn_inv_freq(64, 50000.0))
    with_Z = inv_freq(short, EXACT)
    np.testing.assert_array_equal(with_Z, inv_freq(K2_THINKING, EXACT))


def test_bands_that_meet_keep_the_ramp_finite() -> None:
    table_Z = oracle.yarn_inv_freq(
        8, 50000.0, factor=4.0, original_positions=6, beta_fast=1.0, beta_slow=1.0
    )
    plain_Z = oracle.yarn_inv_freq(8, 50000.0)
    assert np.isfinite(table_Z).all()
    np.testing.assert_array_equal(table_Z, np.where(np.arange(4) == 0, 1.0, 0.25) * plain_Z)


@pytest.mark.parametrize(
    ("factor", "scale"),
    [
        (1.0, "7.21687836487032e-02"),
        (32.0, "1.30860799962950e-01"),
        (64.0, "1.44679625802689e-01"),
    ],
)
def test_the_softmax_scale_carries_the_square_of_m(factor: float, scale: str) -> None:
    assert f"{192**-0.5 * oracle.yarn_mscale(factor, 1.0) ** 2:.14e}" == scale


@pytest.mark.parametrize(
    ("name", "position", "pair", "angle", "cosine"),
    [
        ("yarn32-beta1", 4095, 1, 2920.18994140625, 0.0794859567),
        ("yarn32-beta1", 131071, 20, 4.736967086791992, 0.0245756319),
        ("yarn64-beta1", 262143, 1, 186937.078125, 0.9686311912),
        ("yarn64-beta1", 262143, 31, 0.11487647145986557, 0.9934089512),
        ("yarn64-beta32", 262143, 15, 699.9752197265625, -0.8253683493),
    ],
)
def test_angles_are_float32_products(name, position, pair, angle, cosine) -> None:
    table_Z = inv_freq(PUBLISHED[name], Numerics())
    found = oracle.angles(np.array([position]), table_Z)[0, pair]
    assert found.dtype == np.float32
    assert float(found) == angle
    assert round(float(np.cos(np.float64(found))), 10) == cosine


def test_pairs_are_neighbours_and_turn_counter_clockwise() -> None:
    x_TR = np.array([[0.0, 1.0, 0.0, 0.0]])
    out_TR = oracle.rotate(x_TR, np.array([[1.0, 0.5]]))
    assert out_TR[0].round(12).tolist() == [-0.841470984808, 0.540302305868, 0, 0]


@given(seeds, st.integers(0, 5))
def test_a_rotation_keeps_the_length_of_every_pair_and_heads_alike(seed: int, heads: int) -> None:
    x_THR, angle_TZ = normal(seed, 3, heads, 8), normal(seed + 1, 3, 4, exponent=6)
    out_THR = oracle.rotate(x_THR, angle_TZ)
    lengths = [np.hypot(a[..., 0::2], a[..., 1::2]) for a in (x_THR, out_THR)]
    np.testing.assert_array_max_ulp(*lengths, 4)
    for head in range(heads):
        np.testing.assert_array_equal(out_THR[:, head], oracle.rotate(x_THR[:, head], angle_TZ))


@given(seeds)
def test_position_zero_changes_nothing(seed: int) -> None:
    x_TR = normal(seed, 2, 8)
    np.testing.assert_array_equal(oracle.rotate(x_TR, np.zeros((2, 4))), x_TR)


def test_amplitude_and_table_precision_reach_the_cosines() -> None:
    x_TR, angle_TZ = np.array([[1.0, 0.0]]), np.array([[1.0]])
    np.testing.assert_array_equal(
        oracle.rotate(x_TR, angle_TZ, amplitude=2.0), 2 * oracle.rotate(x_TR, angle_TZ)
    )
    rounded = oracle.rotate(x_TR, angle_TZ, rope_dtype=np.float16)
    np.testing.assert_array_equal(rounded, [np.array([np.cos(1), np.sin(1)], np.float16)])
