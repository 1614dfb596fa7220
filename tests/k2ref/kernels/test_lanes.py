"""The vectors of 16 lanes: what is compiled does what the NumPy version says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2ref.kernels import _lanes
from k2ref.kernels._jit import COMPILED, kernel, lanes
from tests.k2ref.kernels.bounds import LEAST, UNIT
from tests.strategies import normal, seeds

compiled = pytest.mark.skipif(not COMPILED, reason="NUMBA_DISABLE_JIT is set")


@kernel
def read_words(words, row, column, n, out):
    lanes.store(lanes.codes(lanes.load_rows(words, row, column, 2), n), out, 0, 0)


@kernel
def read_pairs(words, x, n, c, out):
    pairs = lanes.code_pairs(lanes.load_rows(words, 0, 0, 2), n)
    lanes.store(
        lanes.fused_pairs(pairs, lanes.load_rows(x, 0, 0, 1), lanes.load(c, 0, 2)), out, 0, 0
    )


@kernel
def read_rows(a, row, column, out):
    lanes.fetch(a, row + 9, column, 1)
    lanes.store(lanes.load_rows(a, row, column, 2), out, 0, 0)
    lanes.store(lanes.load_across(a, row, column, 2), out, 1, 0)


@kernel
def read_scales(a, out):
    lanes.store(lanes.load_scales(a, 1, 2, 2), out, 0, 0)


@kernel
def arithmetic(a, out):
    x, y = lanes.load(a, 0, 2), lanes.load(a, 32, 2)
    one = lanes.load(a, 64, 1)
    lanes.store(lanes.added(x, y), out, 0, 0)
    lanes.store(lanes.product(x, y), out, 1, 0)
    lanes.store(lanes.fused(x, y, lanes.zeros(2)), out, 2, 0)
    lanes.store(lanes.fused(x, one, lanes.zeros(2)), out, 3, 0)
    lanes.store(lanes.fused_outer(x, y, lanes.zeros(4)), out, 4, 0)
    lanes.store_totals(lanes.fused_outer(x, y, lanes.zeros(4)), out, 5, 0, 2)
    out[7, 0] = lanes.total(one)


@kernel
def fill(a, out):
    lanes.store(lanes.splat(a, 1, 3, 2), out, 0, 0)


@kernel
def powers(a, out):
    lanes.store(lanes.exp(lanes.load(a, 0, 1)), out, 0, 0)
    lanes.store(lanes.silu(lanes.load(a, 0, 1)), out, 1, 0)


def test_a_nibble_is_a_code_least_significant_first() -> None:
    words = np.full((3, 20), 0xFEDCBA98, np.uint32)
    words[1] = 0x76543210
    out = np.empty((1, 32), np.float32)
    for n in range(8):
        read_words(words, 1, 2, n, out)
        assert out[0, :16].tolist() == [n - 8] * 16
        assert out[0, 16:].tolist() == [n] * 16


@compiled
def test_bits_in_a_significand_give_the_same_codes_as_the_table(monkeypatch) -> None:
    from k2ref.kernels import _lanes_llvm

    monkeypatch.setattr(_lanes_llvm, "_has", lambda feature: False)
    words = np.random.default_rng(1).integers(0, 2**32, (2, 16), np.uint32)
    out = np.empty((1, 32), np.float32)
    fresh = kernel(
        lambda w, n, o: lanes.store(lanes.codes(lanes.load_rows(w, 0, 0, 2), n), o, 0, 0)
    )
    for n in range(8):
        fresh(words, n, out)
        np.testing.assert_array_equal(out[0].reshape(2, 16), _lanes.codes(words, n))


@pytest.mark.skipif(not lanes.PAIRS, reason="the processor multiplies no pairs of bfloat16")
@given(seed=seeds, n=st.integers(0, 3))
def test_pairs_are_multiplied_in_float32(seed, n) -> None:
    random = np.random.default_rng(seed)
    words, x = random.integers(0, 2**32, (2, 16), np.uint32), normal(seed, 32).astype(np.float32)
    bits = x.view(np.uint32) & np.uint32(0xFFFF0000)
    pairs = (bits[16:] | bits[:16] >> 16).reshape(1, 16)
    c, out = normal(seed + 1, 32).astype(np.float32), np.empty((1, 32), np.float32)
    read_pairs(words, pairs, n, c, out)
    low, high = (_lanes.codes(words, i).astype(np.float64) for i in (n, n + 4))
    x_low, x_high = bits.view(np.float32).astype(np.float64).reshape(2, 16)
    expected = c.reshape(2, 16) + low * x_low + high * x_high
    size = np.abs(c.reshape(2, 16)) + np.abs(low * x_low) + np.abs(high * x_high)
    assert (np.abs(out.reshape(2, 16) - expected) <= 3 * UNIT * size).all()


@compiled
def test_the_table_is_one_instruction() -> None:
    from llvmlite import ir

    from k2ref.kernels import _lanes_llvm

    module = ir.Module()
    words = ir.VectorType(ir.IntType(32), 16)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [words]), "f")
    builder = ir.IRBuilder(function.append_basic_block())
    _lanes_llvm._table_lookup(builder, function.args[0])
    assert "llvm.x86.avx512.permvar.sf.512" in str(module)


@compiled
def test_the_number_of_vectors_must_be_known() -> None:
    from numba.core.errors import TypingError

    unknown = kernel(lambda n, out: lanes.store(lanes.zeros(n), out, 0, 0))
    with pytest.raises(TypingError, match="must be known while compiling"):
        unknown(2, np.empty((1, 32), np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_rows_are_read_as_float32_or_bfloat16(dtype) -> None:
    a = normal(1, 4, 40).astype(np.float32)
    bits = (a.view(np.uint32) >> 16).astype(np.uint16)
    values = (bits.astype(np.uint32) << 16).view(np.float32)
    given, expected = (a, a) if dtype is np.float32 else (bits, values)
    out = np.empty((2, 32), np.float32)
    read_rows(given, 1, 3, out)
    np.testing.assert_array_equal(out[0].reshape(2, 16), expected[1:3, 3:19])
    np.testing.assert_array_equal(out[1], expected[1, 3:35])
    read_scales(bits, out[:1])
    np.testing.assert_array_equal(out[0].reshape(2, 4, 4), np.repeat(values[1:3, 2:6, None], 4, 2))


@given(seed=seeds)
def test_arithmetic_goes_lane_by_lane(seed) -> None:
    a = normal(seed, 80).astype(np.float32)
    out = np.zeros((8, 64), np.float32)
    arithmetic(a, out)
    x, y, one = a[:32].reshape(2, 16), a[32:64].reshape(2, 16), a[64:]
    np.testing.assert_array_equal(out[0, :32], (x + y).reshape(-1))
    np.testing.assert_array_equal(out[1, :32], (x * y).reshape(-1))
    np.testing.assert_array_equal(out[2, :32], (x * y).reshape(-1))
    np.testing.assert_array_equal(out[3, :32], (x * one).reshape(-1))
    outer = x[:, None] * y[None]
    np.testing.assert_array_equal(out[4], outer.reshape(-1))
    totals = outer.reshape(4, 16)
    np.testing.assert_array_equal(out[5:7, :2], _lanes._totals(totals).reshape(2, 2).T)
    assert out[7, 0] == _lanes.total(one[None])


def test_one_value_fills_a_vector() -> None:
    out = np.empty((1, 32), np.float32)
    fill(np.arange(12, dtype=np.float32).reshape(2, 6), out)
    assert out[0].tolist() == [9] * 16 + [10] * 16


@given(values=st.lists(st.floats(-120, 0, width=32), min_size=16, max_size=16))
def test_powers_are_within_four_units(values) -> None:
    out = np.empty((2, 16), np.float32)
    a = np.array(values, np.float32)
    powers(a, out)
    expected = np.exp(a.astype(np.float64))
    assert (np.abs(out[0] - expected) <= 4 * UNIT * expected + LEAST).all()
    gated = a / (1 + np.exp(-a.astype(np.float64)))
    assert (np.abs(out[1] - gated) <= 8 * UNIT * np.abs(gated) + LEAST * (1 - a)).all()
