"""Compiled rotation and attention against the oracle in float64."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from k2ref import kernels, oracle
from tests.k2ref.kernels.bounds import LEAST, UNIT, attention_bound, within
from tests.strategies import normal, seeds

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
N, V, R = 8, 6, 8


def case(seed: int, T: int, H: int, S: int, C: int, *, size: float = 1.0) -> dict[str, np.ndarray]:
    """Draw queries, a cache and weights: -> arguments of attention, in float32."""
    w_uk_HNC, w_uv_HVC = oracle.split_kv_b(normal(seed, H * (N + V), C) / np.sqrt(C), H, N)
    drawn = {
        "q_nope_THN": size * normal(seed + 1, T, H, N),
        "q_rope_THR": size * normal(seed + 2, T, H, R),
        "latent_SC": normal(seed + 3, S, C),
        "key_rope_SR": normal(seed + 4, S, R),
        "w_uk_HNC": w_uk_HNC,
        "w_uv_HVC": w_uv_HVC,
    }
    return {name: array.astype(np.float32) for name, array in drawn.items()}


def attention_agrees(arrays: dict[str, np.ndarray], **options: float) -> None:
    wide = {name: array.astype(np.float64) for name, array in arrays.items()}
    expected = oracle.attend_expanded(**wide, **options)
    bound = attention_bound(**wide, **options)
    within(kernels.attend_absorbed(**arrays, **options), expected, bound)


@given(
    seed=seeds,
    T=st.integers(1, 5),
    H=st.sampled_from([1, 3, 4]),
    before=st.integers(0, 70),
    C=st.sampled_from([5, 16, 32]),
    size=st.sampled_from([0.0, 1.0, 8.0]),
)
@example(seed=0, T=1, H=1, before=0, C=16, size=1.0)
@example(seed=0, T=4, H=3, before=61, C=32, size=8.0)
def test_attention_is_within_the_bound(seed, T, H, before, C, size) -> None:
    attention_agrees(case(seed, T, H, before + T, C, size=size), scale=0.3, first_query=before)


def test_places_after_the_query_do_not_count() -> None:
    arrays = case(1, 2, 3, 9, 16)
    options = {"scale": 0.3, "first_query": 4}
    found = kernels.attend_absorbed(**arrays, **options)
    arrays["latent_SC"][6:], arrays["key_rope_SR"][6:] = np.nan, np.inf
    np.testing.assert_array_equal(kernels.attend_absorbed(**arrays, **options), found)


@pytest.mark.parametrize("block", [1, 16, 64, 100])
def test_blocks_of_any_size_give_one_answer(block: int) -> None:
    arrays = case(2, 3, 2, 90, 32)
    wide = {name: array.astype(np.float64) for name, array in arrays.items()}
    options = {"scale": 0.5, "first_query": 87}
    bound = attention_bound(**wide, **options)
    found = kernels.attend_absorbed(**arrays, **options, block=block)
    within(found, oracle.attend_absorbed(**wide, **options), bound)


def test_one_growing_score_rescales_what_was_summed() -> None:
    arrays = case(3, 1, 1, 200, 16)
    arrays["key_rope_SR"] *= np.linspace(0, 4, 200, dtype=np.float32)[:, None]
    attention_agrees(arrays, scale=1.0, first_query=199)


def test_a_cache_in_bfloat16_is_read_as_it_is() -> None:
    arrays = {name: array.astype(BFLOAT16) for name, array in case(4, 2, 2, 40, 32).items()}
    wide = {name: array.astype(np.float32) for name, array in arrays.items()}
    options = {"scale": 0.3, "first_query": 38}
    expected = kernels.attend_absorbed(**wide, **options).astype(BFLOAT16)
    np.testing.assert_array_equal(kernels.attend_absorbed(**arrays, **options), expected)


@given(seed=seeds, T=st.integers(1, 4), H=st.integers(0, 3), position=st.integers(0, 262_143))
def test_a_rotation_is_within_the_bound(seed, T, H, position) -> None:
    shape = (T, H, R) if H else (T, R)
    x = normal(seed, *shape).astype(np.float32)
    inv_freq_Z = oracle.yarn_inv_freq(R, 50_000.0, factor=64.0, dtype=np.float32)
    angle_TZ = kernels.angles(position + np.arange(T), inv_freq_Z)
    expected = oracle.rotate(x.astype(np.float64), angle_TZ)
    pairs = np.abs(x.astype(np.float64)).reshape(*shape[:-1], -1, 2).sum(axis=-1)
    bound = 3 * UNIT * np.repeat(pairs, 2, axis=-1) + LEAST
    within(kernels.rotate(x, angle_TZ), expected, bound)


def test_cosines_are_rounded_and_amplified_as_told() -> None:
    x_TR, angle_TZ = normal(1, 3, R).astype(np.float32), normal(2, 3, R // 2)
    found, expected = (
        ops.rotate(x_TR, angle_TZ, amplitude=1.25, rope_dtype=BFLOAT16) for ops in (kernels, oracle)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=6 * UNIT * np.abs(x_TR).max())
