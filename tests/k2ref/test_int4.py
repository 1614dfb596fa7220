"""INT4 packing, the two ways to dequantise and the two to quantise."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2ref import oracle
from tests.strategies import codes, normal, seeds

SCALE = np.float32(0.01177978515625)  # bfloat16 3c41
GROUP = np.zeros((1, 32), np.float32)
GROUP[0, :4] = 0.69921875, -0.349609375, 0.049072265625, 0.050048828125
GROUP[0, 4:8] = 0.051025390625, -0.69921875, 0.150390625, -0.150390625


def words(packed_MP: np.ndarray) -> list[str]:
    return [f"{word & 0xFFFFFFFF:08x}" for row in packed_MP.tolist() for word in row]


def test_the_first_code_lies_in_the_lowest_bits() -> None:
    packed_MP = oracle.int4_pack(np.arange(-8, 8)[None])
    assert words(packed_MP) == ["76543210", "fedcba98"]
    assert packed_MP.tolist() == [[1985229328, -19088744]]
    assert packed_MP.astype("<i4").tobytes().hex(" ") == "10 32 54 76 98 ba dc fe"


@pytest.mark.parametrize(("place", "word"), [(0, "88888889"), (1, "88888898"), (7, "98888888")])
def test_a_single_one_sits_in_its_nibble(place: int, word: str) -> None:
    assert words(oracle.int4_pack(np.eye(1, 8, place, int))) == [word]


def test_a_row_of_eleven_ends_in_zero_nibbles_that_are_cut() -> None:
    row = np.arange(-8, 3)[None]
    packed_MP = oracle.int4_pack(row)
    assert words(packed_MP) == ["76543210", "00000a98"]
    np.testing.assert_array_equal(oracle.int4_unpack(packed_MP, 11), row)


@given(codes())
def test_unpacking_undoes_packing(codes_ML: np.ndarray) -> None:
    packed_MP = oracle.int4_pack(codes_ML)
    np.testing.assert_array_equal(oracle.int4_unpack(packed_MP, codes_ML.shape[1]), codes_ML)


def test_dequantising_is_exact_or_rounded_once() -> None:
    packed_MP = oracle.int4_pack(np.array([[1, 2, 3, 4, 5, 6, 7, -8]]))
    exact = oracle.int4_dequantize(packed_MP, SCALE[None, None], 8)
    np.testing.assert_array_equal(exact, [np.array([1, 2, 3, 4, 5, 6, 7, -8]) * np.float64(SCALE)])
    rounded = oracle.int4_dequantize(packed_MP, SCALE[None, None], 8, dequant="bf16")
    bits = [f"{b >> 16:04x}" for b in rounded.view(np.uint32)[0].tolist()]
    assert bits == ["3c41", "3cc1", "3d11", "3d41", "3d71", "3d91", "3da9", "bdc1"]


@pytest.mark.parametrize(
    ("rule", "scale", "first", "word"),
    [
        ("compressed-tensors", 0.09326171875, [7, -4, 1, 1, 1, -8, 2, -2], "6a09994f"),
        ("k2", 0.10009765625, [7, -3, 0, 0, 1, -7, 2, -2], "6a19885f"),
    ],
)
def test_the_two_quantisers_differ_as_published(rule, scale, first, word) -> None:
    codes_ML, scale_MG = oracle.int4_quantize(GROUP, rule=rule)
    assert scale_MG.tolist() == [[scale]]
    assert codes_ML[0, :8].tolist() == first
    assert words(oracle.int4_pack(codes_ML)) == [word, *["88888888"] * 3]


@pytest.mark.parametrize("rule", ["k2", "compressed-tensors"])
def test_a_group_of_zeros_has_a_finite_scale_and_zero_codes(rule) -> None:
    codes_ML, scale_MG = oracle.int4_quantize(np.zeros((2, 40), np.float32), rule=rule)
    assert codes_ML.shape == (2, 40)
    assert not codes_ML.any()
    assert (scale_MG == 0.0078125).all()


@given(seeds, st.integers(1, 100))
def test_requantising_exact_weights_changes_nothing(seed: int, columns: int) -> None:
    w_ML = normal(seed, 3, columns).astype(np.float32)
    codes_ML, scale_MG = oracle.int4_quantize(w_ML)
    again_ML = oracle.int4_dequantize(oracle.int4_pack(codes_ML), scale_MG, columns)
    codes_2, scale_2 = oracle.int4_quantize(again_ML)
    np.testing.assert_array_equal(codes_2, codes_ML)
    np.testing.assert_array_equal(scale_2, scale_MG)


@given(seeds, st.integers(1, 70), st.sampled_from([32, 8, 16]), st.sampled_from(["exact", "bf16"]))
def test_the_product_is_that_of_the_dequantised_matrix(seed, columns, size, dequant) -> None:
    random = np.random.default_rng(seed)
    codes_ML = random.integers(-8, 8, (5, columns))
    scale_MG = random.uniform(0.5, 2, (5, -(-columns // size))).astype(ml_dtypes.bfloat16)
    w_ML = codes_ML * scale_MG.astype(np.float64).repeat(size, axis=1)[:, :columns]
    if dequant == "bf16":
        w_ML = w_ML.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)
    x_TL = normal(seed, 2, columns)
    found = oracle.int4_linear(
        x_TL, oracle.int4_pack(codes_ML), scale_MG, group_size=size, dequant=dequant
    )
    np.testing.assert_array_equal(found, x_TL @ w_ML.T)


@given(st.integers(0, 2), st.integers(0, 1))
def test_a_scale_touches_its_row_and_its_group_alone(row: int, group: int) -> None:
    packed_MP = oracle.int4_pack(np.full((3, 40), 7))
    scale_MG = np.ones((3, 2), np.float32)
    before = oracle.int4_dequantize(packed_MP, scale_MG, 40)
    scale_MG[row, group] = 2
    change = oracle.int4_dequantize(packed_MP, scale_MG, 40) - before
    wanted = np.zeros((3, 40))
    wanted[row, group * 32 : group * 32 + 32] = 7
    np.testing.assert_array_equal(change, wanted)
