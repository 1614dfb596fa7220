"""A kernel refuses what it would otherwise read past, in one sentence."""

import numpy as np
import pytest

from k2ref import kernels
from tests.k2ref.kernels.test_mla import case

ONES = np.ones((2, 64), np.float32)
WORDS = np.zeros((3, 8), np.int32)
SCALES = np.ones((3, 2), np.float32)
E4M3 = np.zeros((130, 64), np.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernels.int4_linear(ONES, WORDS[:, :7], SCALES), r"packed_MP .* \[3, 8\]"),
        (lambda: kernels.int4_linear(ONES, WORDS, SCALES[:2]), r"scale_MG .* \[3, 2\]"),
        (lambda: kernels.int4_dequantize(WORDS, SCALES, 96), r"packed_MP .* \[3, 12\]"),
        (lambda: kernels.linear(ONES, ONES[:, 1:]), r"w_ML .* \[2, 64\], got \[2, 63\]"),
        (lambda: kernels.fp8_dequantize(E4M3, SCALES[:1]), r"scale_UJ .* \[2, 1\]"),
        (lambda: kernels.rms_norm(ONES, ONES[0, 1:], 1e-6), r"gain_D .* \[64\]"),
        (lambda: kernels.swiglu(ONES, ONES[:1]), r"up .* \[2, 64\]"),
        (lambda: kernels.rotate(ONES, ONES), r"angle_TZ .* \[2, 32\]"),
        (lambda: kernels.route(ONES, ONES[0], top_k=1, scale=1.0, n_group=3), "3 groups must"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_words_of_another_type_are_refused() -> None:
    with pytest.raises(TypeError, match="packed weights must be int32, got int64"):
        kernels.int4_linear(ONES, WORDS.astype(np.int64), SCALES)


@pytest.mark.parametrize("name", ["key_rope_SR", "q_rope_THR", "w_uk_HNC", "w_uv_HVC"])
def test_attention_refuses_arrays_that_do_not_fit(name: str) -> None:
    arrays = case(1, 2, 3, 9, 16)
    arrays[name] = arrays[name][..., :-1] if name[0] == "w" else arrays[name][:-1]
    with pytest.raises(ValueError, match=f"{name} must have shape"):
        kernels.attend_absorbed(**arrays, scale=1.0, first_query=7)


def test_a_query_beyond_the_cache_sees_all_of_it() -> None:
    arrays = case(1, 1, 1, 9, 16)
    last, beyond = (
        kernels.attend_absorbed(**arrays, scale=1.0, first_query=first) for first in (8, 5000)
    )
    np.testing.assert_array_equal(last, beyond)
