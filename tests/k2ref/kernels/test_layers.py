"""Compiled norms, products and activations against the oracle in float64."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conformance import compare
from k2ref import kernels, oracle
from tests.k2ref.kernels.bounds import LEAST, UNIT, product_agrees, within
from tests.strategies import normal, seeds

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT8 = np.dtype(ml_dtypes.float8_e4m3fn)


@given(
    seed=seeds,
    T=st.sampled_from([1, 2, 8]),
    M=st.integers(1, 7),
    L=st.integers(1, 70),
    exponent=st.integers(-60, 60),
    narrow=st.booleans(),
)
def test_a_product_is_within_the_bound(seed, T, M, L, exponent, narrow) -> None:
    x_TL = normal(seed, T, L, exponent=exponent).astype(np.float32)
    w_ML = normal(seed + 1, M, L).astype(BFLOAT16 if narrow else np.float32)
    product_agrees(kernels.linear(x_TL, w_ML), x_TL, w_ML)


def test_many_rows_and_tokens_fall_into_panels_and_tiles() -> None:
    x_TL, w_ML = normal(1, 29, 48).astype(np.float32), normal(2, 131, 48).astype(np.float32)
    product_agrees(kernels.linear(x_TL, w_ML), x_TL, w_ML)


def test_other_weights_are_raised_and_narrow_results_rounded_once() -> None:
    x_TL, w_ML = normal(1, 2, 20).astype(BFLOAT16), normal(2, 3, 20).astype(np.float16)
    wide_TM = kernels.linear(x_TL.astype(np.float32), w_ML.astype(np.float32))
    np.testing.assert_array_equal(kernels.linear(x_TL, w_ML), wide_TM.astype(BFLOAT16))


def test_no_token_or_no_row_gives_an_empty_product() -> None:
    assert kernels.linear(np.empty((0, 16), np.float32), np.ones((3, 16), np.float32)).size == 0
    assert kernels.linear(np.ones((3, 16), np.float32), np.empty((0, 16), np.float32)).size == 0


@given(
    seed=seeds,
    T=st.integers(1, 2),
    M=st.integers(1, 20),
    L=st.integers(1, 40) | st.sampled_from([16, 48, 144]),
    block=st.sampled_from([(128, 128), (7, 8), (3, 16)]),
)
@example(seed=1, T=1, M=9, L=48, block=(3, 16))
def test_fp8_products_are_within_the_bound(seed, T, M, L, block) -> None:
    values_ML = normal(seed, M, L).astype(FLOAT8)
    scale_UJ = np.abs(normal(seed + 1, -(-M // block[0]), -(-L // block[1]))).astype(np.float32)
    x_TL = normal(seed + 2, T, L).astype(np.float32)
    w_ML = oracle.fp8_dequantize(values_ML, scale_UJ, block=block)
    np.testing.assert_array_equal(kernels.fp8_dequantize(values_ML, scale_UJ, block=block), w_ML)
    product_agrees(kernels.fp8_linear(x_TL, values_ML, scale_UJ, block=block), x_TL, w_ML)


def test_fp8_takes_rows_in_whole_blocks() -> None:
    values_ML = normal(1, 300, 20).astype(FLOAT8)
    scale_UJ = np.abs(normal(2, 3, 1)).astype(np.float32)
    x_TL = normal(3, 1, 20).astype(np.float32)
    w_ML = oracle.fp8_dequantize(values_ML, scale_UJ)
    product_agrees(kernels.fp8_linear(x_TL, values_ML, scale_UJ), x_TL, w_ML)


def test_every_fp8_value_is_read_right() -> None:
    values_ML = np.arange(256, dtype=np.uint8).view(FLOAT8)[None]
    scale_UJ = np.array([[2.0, 0.5]], np.float32)
    found, expected = (ops.fp8_dequantize(values_ML, scale_UJ) for ops in (kernels, oracle))
    np.testing.assert_array_equal(found, expected)
    one_hot_1L = np.eye(1, 16, dtype=np.float32)
    for rows_ML in np.repeat(values_ML.reshape(-1, 4, 1), 16, axis=2):
        found = kernels.fp8_linear(one_hot_1L, rows_ML, scale_UJ)
        np.testing.assert_array_equal(found[0], 2 * rows_ML[:, 0].astype(np.float32))


@given(seed=seeds, T=st.integers(1, 4), D=st.integers(1, 70), exponent=st.integers(-40, 40))
def test_the_norm_is_within_the_bound(seed, T, D, exponent) -> None:
    x_TD = normal(seed, T, D, exponent=exponent).astype(np.float32)
    gain_D = normal(seed + 1, D).astype(BFLOAT16)
    expected = oracle.rms_norm(x_TD.astype(np.float64), gain_D.astype(np.float64), 1e-6)
    # half the error of the mean, then the root, the quotient and the gain; eps in float32
    bound = (compare.gamma(D + 2, UNIT) / 2 + 4 * UNIT) * np.abs(expected) + LEAST
    within(kernels.rms_norm(x_TD, gain_D, 1e-6), expected, bound)


@pytest.mark.parametrize("early", [True, False])
def test_the_norm_rounds_bfloat16_where_it_is_told(early: bool) -> None:
    x_TD, gain_D = normal(1, 3, 40).astype(BFLOAT16), normal(2, 40).astype(BFLOAT16)
    found, expected = (
        ops.rms_norm(x_TD, gain_D, 1e-5, round_before_gain=early) for ops in (kernels, oracle)
    )
    unit = 2.0**-8  # a quotient that float32 puts on the other side of a tie
    off = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    assert found.dtype == BFLOAT16
    assert (off <= 2 * unit * np.abs(expected.astype(np.float64))).all()
    assert (off == 0).mean() > 0.95


@given(seed=seeds, T=st.integers(1, 3), F=st.integers(1, 40), exponent=st.integers(-20, 8))
def test_activations_are_within_the_bound(seed, T, F, exponent) -> None:
    gate_TF = normal(seed, T, F, exponent=exponent).astype(np.float32)
    up_TF = normal(seed + 1, T, F).astype(np.float32)
    expected = oracle.silu(gate_TF.astype(np.float64))
    lost = LEAST * (2 + np.abs(gate_TF))  # the power of e may be that small
    within(kernels.silu(gate_TF), expected, 16 * UNIT * np.abs(expected) + lost)
    expected = oracle.swiglu(gate_TF.astype(np.float64), up_TF.astype(np.float64))
    lost = lost * (1 + np.abs(up_TF))
    within(kernels.swiglu(gate_TF, up_TF), expected, 17 * UNIT * np.abs(expected) + lost)


def test_silu_holds_at_the_ends_of_float32() -> None:
    most = np.finfo(np.float32).max
    x = np.array([0.0, -0.0, most, -most, 1e-45, -1e-45, 100.0, -88.0, -100.0], np.float32)
    expected = oracle.silu(x.astype(np.float64))
    within(kernels.silu(x), expected, 16 * UNIT * np.abs(expected) + 100 * LEAST)
    assert np.isnan(kernels.silu(np.array([np.nan], np.float32))).all()


def test_narrow_activations_are_rounded_as_the_oracle_rounds_them() -> None:
    gate_TF, up_TF = normal(1, 2, 20).astype(BFLOAT16), normal(2, 2, 20).astype(BFLOAT16)
    found, expected = (ops.swiglu(gate_TF, up_TF).astype(np.float64) for ops in (kernels, oracle))
    assert (np.abs(found - expected) <= 2.0**-7 * np.abs(expected)).all()


@given(seed=seeds, T=st.integers(1, 4), S=st.integers(1, 40), exponent=st.integers(-8, 6))
def test_probabilities_are_within_the_bound(seed, T, S, exponent) -> None:
    logits_TS = normal(seed, T, S, exponent=exponent).astype(np.float32)
    logits_TS[:, -1] = logits_TS.max(axis=1)  # a tie
    expected = oracle.softmax(logits_TS.astype(np.float64))
    spread = np.abs(logits_TS - logits_TS.max(axis=1, keepdims=True)).astype(np.float64)
    relative = 16 * UNIT + compare.gamma(S + 2, UNIT) + spread * UNIT
    within(kernels.softmax(logits_TS), expected, relative * expected + 2 * LEAST)
