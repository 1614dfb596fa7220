"""RMSNorm, products and activations."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2ref import oracle
from k2ref.oracle.floats import round_bfloat16, wide
from tests.strategies import normal, scaled_arrays, seeds


@pytest.mark.parametrize(("eps", "wanted"), [(1e-6, 0.70710678), (1e-5, 0.30151134)])
def test_eps_is_added_inside_the_root(eps: float, wanted: float) -> None:
    out_TD = oracle.rms_norm(np.full((1, 4), 1e-3), np.ones(4), eps)
    np.testing.assert_array_equal(out_TD.round(8), np.full((1, 4), wanted))


def test_a_row_of_three_and_four_is_divided_by_its_root_mean_square() -> None:
    out_TD = oracle.rms_norm(np.array([[3.0, 4.0]]), np.array([1.0, 10.0]), 0.0)
    root = np.sqrt(12.5)
    np.testing.assert_array_equal(out_TD, [[3 / root, 10 * (4 / root)]])


@given(seeds, st.integers(-20, 20))
def test_the_norm_forgets_a_power_of_two(seed: int, exponent: int) -> None:
    x_TD, gain_D = normal(seed, 3, 8), np.arange(1.0, 9.0)
    moved_TD = oracle.rms_norm(x_TD * 2.0**exponent, gain_D, 0.0)
    np.testing.assert_array_equal(moved_TD, oracle.rms_norm(x_TD, gain_D, 0.0))


@given(scaled_arrays(4, 8))
def test_the_norm_of_the_opposite_is_the_opposite(x_TD: np.ndarray) -> None:
    gain_D = np.arange(1.0, 9.0)
    opposite_TD = oracle.rms_norm(-x_TD, gain_D, 1e-6)
    np.testing.assert_array_equal(opposite_TD, -oracle.rms_norm(x_TD, gain_D, 1e-6))


def test_in_bfloat16_the_quotient_is_rounded_before_the_gain() -> None:
    x_TD = np.array([[1.0, 2.0, 5.0]]).astype(ml_dtypes.bfloat16)
    gain_D = np.array([1.1, 1.3, 0.7]).astype(ml_dtypes.bfloat16)
    unit = wide(x_TD) / np.sqrt(np.float32(10))
    rounded = (round_bfloat16(unit) * wide(gain_D)).astype(ml_dtypes.bfloat16)
    late = (unit * wide(gain_D)).astype(ml_dtypes.bfloat16)
    assert (rounded != late).any()
    np.testing.assert_array_equal(oracle.rms_norm(x_TD, gain_D, 0.0), rounded)
    np.testing.assert_array_equal(oracle.rms_norm(x_TD, gain_D, 0.0, round_before_gain=False), late)


def test_a_weight_is_stored_with_a_row_per_output() -> None:
    w_ML = np.array([[1.0, 2.0, 3.0], [0.0, -1.0, 4.0]])
    np.testing.assert_array_equal(oracle.linear(np.array([[1.0, 10.0, 100.0]]), w_ML), [[321, 390]])


@pytest.mark.parametrize("dtype", [np.float64, np.float32, ml_dtypes.bfloat16])
def test_operations_keep_the_dtype_of_their_input(dtype) -> None:
    x_TL = np.ones((2, 3)).astype(dtype)
    assert oracle.linear(x_TL, np.ones((4, 3), ml_dtypes.bfloat16)).dtype == dtype
    assert oracle.rms_norm(x_TL, np.ones(3, ml_dtypes.bfloat16), 1e-6).dtype == dtype
    assert oracle.swiglu(x_TL, x_TL).dtype == dtype
    assert oracle.softmax(x_TL).dtype == dtype


def test_bfloat16_products_are_summed_in_float32() -> None:
    x_TL = np.ones((1, 512)).astype(ml_dtypes.bfloat16)  # a bfloat16 sum would stop at 256
    assert oracle.linear(x_TL, x_TL) == 512


def test_silu_of_extremes_is_finite() -> None:
    x = np.array([-1e4, -88.0, 0.0, 88.0, 1e4])
    out = oracle.silu(x)
    assert out[0] == 0
    assert (out[2], out[4]) == (0, 1e4)
    assert np.isfinite(out).all()


@given(seeds)
def test_silu_of_a_number_less_that_of_its_opposite_is_the_number(seed: int) -> None:
    x = normal(seed, 20)
    np.testing.assert_array_max_ulp(oracle.silu(x) - oracle.silu(-x), x, 4)


@given(seeds, st.floats(-100, 100))
def test_softmax_ignores_a_common_shift(seed: int, shift: float) -> None:
    z = normal(seed, 3, 7)
    unmoved = oracle.softmax(np.round(z, 3))
    moved = oracle.softmax(np.round(z, 3) + np.round(shift))
    assert np.abs(moved - unmoved).max() <= 1e-13
    np.testing.assert_array_max_ulp(unmoved.sum(axis=1), np.ones(3), 4)


def test_softmax_gives_masked_entries_nothing() -> None:
    np.testing.assert_array_equal(oracle.softmax(np.array([[0.0, -np.inf, 0.0]])), [[0.5, 0, 0.5]])


@given(seeds)
def test_rounding_to_bfloat16_agrees_with_ml_dtypes(seed: int) -> None:
    bits = np.random.default_rng(seed).integers(0, 2**32, 64, np.uint32)
    with np.errstate(over="ignore", invalid="ignore"):
        x = bits.view(np.float32)
        wanted = x.astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(round_bfloat16(x), wanted)


def test_a_tie_rounds_to_the_even_bfloat16_and_nan_stays() -> None:
    x = np.array([1 + 2**-8, 1 + 3 * 2**-8, np.nan, -np.inf], np.float32)
    np.testing.assert_array_equal(round_bfloat16(x), [1, 1 + 2**-6, np.nan, -np.inf])
