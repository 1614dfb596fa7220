"""Compiled INT4 products against the oracle in float64, within the provable bound."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from k2ref import kernels, oracle
from k2ref.kernels import int4
from tests.k2ref.kernels.bounds import product_agrees
from tests.strategies import seeds

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def matrix(
    seed: int, M: int, L: int, group: int, *, exponent: int = -5, codes: str = "any"
) -> tuple[np.ndarray, np.ndarray]:
    """Draw packed codes and bfloat16 scales; `codes` may be one code for all."""
    random = np.random.default_rng(seed)
    drawn = random.integers(-8, 8, (M, L)) if codes == "any" else np.full((M, L), int(codes))
    scale_MG = random.standard_normal((M, -(-L // group))) * 2.0**exponent
    return oracle.int4_pack(drawn), scale_MG.astype(BFLOAT16)


def activations(seed: int, T: int, L: int, kind: str) -> np.ndarray:
    """Draw activations: normal, denormal, huge, with an outlier, or one-hot."""
    x = np.random.default_rng(seed + 1).standard_normal((T, L)).astype(np.float32)
    scale = {"denormal": 2.0**-140, "huge": 2.0**90}.get(kind, 1.0)
    x = (x * scale).astype(np.float32)
    if kind == "outlier":
        x[0, 0] = 1e6
    return np.eye(T, L, L - 1, dtype=np.float32) if kind == "one-hot" else x


kinds = st.sampled_from(["normal", "denormal", "huge", "outlier", "one-hot"])


@given(
    seed=seeds,
    T=st.sampled_from([1, 2, 3, 7, 13]),
    M=st.integers(1, 9),
    L=st.integers(1, 300),
    group=st.sampled_from([32, 64, 128]),
    exponent=st.integers(-30, 30),
    codes=st.sampled_from(["any", "any", "-8", "0", "7"]),
    kind=kinds,
    narrow=st.booleans(),
)
@example(seed=0, T=1, M=1, L=1, group=32, exponent=0, codes="any", kind="normal", narrow=False)
@example(seed=0, T=1, M=5, L=128, group=32, exponent=0, codes="0", kind="outlier", narrow=False)
@example(
    seed=0, T=2, M=5, L=256, group=32, exponent=-30, codes="any", kind="denormal", narrow=False
)
@example(seed=0, T=1, M=4, L=128, group=32, exponent=0, codes="any", kind="denormal", narrow=True)
@example(seed=0, T=1, M=9, L=300, group=64, exponent=9, codes="any", kind="outlier", narrow=True)
@example(seed=0, T=1, M=5, L=129, group=32, exponent=30, codes="any", kind="huge", narrow=False)
def test_a_product_is_within_the_bound(seed, T, M, L, group, exponent, codes, kind, narrow) -> None:
    packed_MP, scale_MG = matrix(seed, M, L, group, exponent=exponent, codes=codes)
    x_TL = activations(seed, T, L, kind)
    if narrow:
        x_TL = x_TL.astype(BFLOAT16).astype(np.float32)
    out_TM = kernels.int4_linear(x_TL, packed_MP, scale_MG, group_size=group)
    product_agrees(out_TM, x_TL, oracle.int4_dequantize(packed_MP, scale_MG, L, group_size=group))


@pytest.mark.parametrize(
    ("value", "pairs"),
    [
        *((value, True) for value in (1.0, 0.0, -0.0, 2.0**-100, -3.0, 2.0**127)),
        *((value, False) for value in (1 + 2.0**-8, 2.0**-101, 2.0**-140, np.inf, np.nan)),
    ],
)
def test_pairs_are_for_values_that_bfloat16_holds(monkeypatch, value: float, pairs: bool) -> None:
    monkeypatch.setattr(int4.lanes, "PAIRS", True)
    x_1L = np.ones((1, 128), np.float32)
    x_1L[0, 77] = value
    x, _ = int4._prepared(x_1L)
    assert (x.dtype == np.uint32) == pairs
    if pairs:  # column 77 = 8 · 9 + 5 is the upper of nibbles 1 and 5 in word 9
        assert (x[0, 16 * 1 + 9] & np.uint32(0xFFFF0000)).view(np.float32) == np.float32(value)
    monkeypatch.setattr(int4.lanes, "PAIRS", False)
    assert int4._prepared(x_1L)[0].dtype == np.float32


def test_a_difference_below_the_normal_numbers_is_not_lost() -> None:
    packed_MP = oracle.int4_pack(np.array([[1, -1] + [0] * 126] * 4))
    x_1L = np.zeros((1, 128), np.float32)
    x_1L[0, :2] = 1.5 * 2.0**-126, 2.0**-126
    out_1M = kernels.int4_linear(x_1L, packed_MP, np.ones((4, 4), np.float32))
    assert out_1M.tolist() == [[2.0**-127] * 4]


@pytest.mark.parametrize("T", [1, 2, 4, 6, 8, 10, 12, 25])
def test_every_width_of_a_tile_is_right(T: int) -> None:
    packed_MP, scale_MG = matrix(T, 131, 256, 32)
    x_TL = activations(T, T, 256, "normal")
    out_TM = kernels.int4_linear(x_TL, packed_MP, scale_MG)
    product_agrees(out_TM, x_TL, oracle.int4_dequantize(packed_MP, scale_MG, 256))


@pytest.mark.parametrize("dequant", ["exact", "bf16"])
@pytest.mark.parametrize("group", [16, 32])
def test_the_plain_path_is_right(group: int, dequant: oracle.int4.Dequant) -> None:
    packed_MP, scale_MG = matrix(group, 140, 70, group)
    x_TL = activations(group, 2, 70, "normal")
    out_TM = kernels.int4_linear(x_TL, packed_MP, scale_MG, group_size=group, dequant=dequant)
    w_ML = oracle.int4_dequantize(packed_MP, scale_MG, 70, group_size=group, dequant=dequant)
    product_agrees(out_TM, x_TL, w_ML)


def test_scales_in_float32_are_taken_as_they_are() -> None:
    packed_MP, scale_MG = matrix(3, 4, 64, 32)
    x_TL = activations(3, 1, 64, "normal")
    exact = kernels.int4_linear(x_TL, packed_MP, scale_MG)
    np.testing.assert_array_equal(
        kernels.int4_linear(x_TL, packed_MP, scale_MG.astype(np.float32)), exact
    )
    finer = scale_MG.astype(np.float32) * np.float32(1 + 2.0**-20)
    out_TM = kernels.int4_linear(x_TL, packed_MP, finer)
    product_agrees(out_TM, x_TL, oracle.int4_dequantize(packed_MP, finer, 64))


@given(seed=seeds, M=st.integers(1, 5), L=st.integers(1, 70), exponent=st.integers(-130, 100))
def test_dequantised_weights_are_the_oracles_bit_by_bit(seed, M, L, exponent) -> None:
    packed_MP, scale_MG = matrix(seed, M, L, 32, exponent=exponent)
    scale_MG[0, 0] = [np.nan, np.inf, 0.0, 1.0][seed % 4]
    for dequant in ("exact", "bf16"):
        with np.errstate(invalid="ignore"):  # 0 · infinity
            found, expected = (
                ops.int4_dequantize(packed_MP, scale_MG, L, dequant=dequant)
                for ops in (kernels, oracle)
            )
        np.testing.assert_array_equal(found, expected)


def test_no_token_row_or_column_gives_nothing() -> None:
    packed_MP, scale_MG = matrix(1, 3, 64, 32)
    assert kernels.int4_linear(np.empty((0, 64), np.float32), packed_MP, scale_MG).shape == (0, 3)
    x_TL = np.ones((2, 64), np.float32)
    assert kernels.int4_linear(x_TL, packed_MP[:0], scale_MG[:0]).shape == (2, 0)
    assert not kernels.int4_linear(x_TL[:, :0], packed_MP, scale_MG).any()


def test_a_row_of_another_matrix_never_leaks_in() -> None:
    packed_MP, scale_MG = matrix(5, 9, 72, 32)
    x_TL = activations(5, 1, 72, "normal")
    alone = kernels.int4_linear(x_TL, packed_MP, scale_MG)
    packed_MP, scale_MG = packed_MP.copy(), scale_MG.copy()
    scale_MG[4:] = np.nan
    found = kernels.int4_linear(x_TL, packed_MP, scale_MG)
    np.testing.assert_array_equal(found[:, :4], alone[:, :4])


def test_narrow_activations_are_summed_in_float32_and_rounded_once() -> None:
    packed_MP, scale_MG = matrix(7, 6, 96, 32)
    x_TL = activations(7, 2, 96, "normal").astype(BFLOAT16)
    out_TM = kernels.int4_linear(x_TL, packed_MP, scale_MG)
    wide_TM = kernels.int4_linear(x_TL.astype(np.float32), packed_MP, scale_MG)
    assert out_TM.dtype == BFLOAT16
    np.testing.assert_array_equal(out_TM, wide_TM.astype(BFLOAT16))


def test_float64_is_refused_with_the_way_out() -> None:
    packed_MP, scale_MG = matrix(1, 3, 64, 32)
    with pytest.raises(TypeError, match="compute in float32, got float64; the oracle takes"):
        kernels.int4_linear(np.ones((1, 64)), packed_MP, scale_MG)
