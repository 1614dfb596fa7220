"""Compiled experts against the oracle, in the three forms of a weight."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2ref import kernels, oracle
from tests.k2ref.kernels.bounds import UNIT, ffn_bound, within
from tests.strategies import normal, seeds

D, F, E = 64, 40, 5


def weight(seed: int, M: int, L: int, form: str) -> oracle.Weight:
    w_ML = (normal(seed, M, L) / np.sqrt(L)).astype(np.float32)
    if form == "int4":
        codes_ML, scale_MG = oracle.int4_quantize(w_ML)
        scales = scale_MG.astype(ml_dtypes.bfloat16)
        return oracle.Int4(oracle.int4_pack(codes_ML), scales, 32, columns=L)
    if form == "fp8":
        values_ML = w_ML.astype(ml_dtypes.float8_e4m3fn)
        return oracle.Fp8(values_ML, np.ones((1, 1), np.float32), (128, 128))
    return w_ML.astype(ml_dtypes.bfloat16)


def experts(seed: int, form: str) -> list[oracle.Expert]:
    shapes = [(F, D), (F, D), (D, F)]
    return [
        oracle.Expert(*(weight(seed + 9 * e + i, *s, form) for i, s in enumerate(shapes)))
        for e in range(E)
    ]


@pytest.mark.parametrize("form", ["int4", "fp8", "bf16"])
def test_an_expert_is_within_the_bound(form: str) -> None:
    x_TD = normal(1, 3, D).astype(np.float32)
    expert = experts(2, form)[0]
    expected = oracle.expert_ffn(x_TD.astype(np.float64), expert)
    within(kernels.expert_ffn(x_TD, expert), expected, ffn_bound(x_TD, expert))
    np.testing.assert_array_equal(kernels.dense(expert.gate), oracle.dense(expert.gate))


@given(seed=seeds, T=st.integers(1, 9))
def test_the_mixture_is_within_the_bound(seed, T) -> None:
    x_TD, pool = normal(seed, T, D).astype(np.float32), experts(seed, "int4")
    # the first two experts get every token, the third none, the others some
    logits_TE = np.hstack([np.full((T, 2), 9.0), np.full((T, 1), -9.0), normal(seed, T, 2)])
    routing = kernels.route(logits_TE.astype(np.float32), np.zeros(E), top_k=3, scale=2.8)
    expected = oracle.moe(x_TD.astype(np.float64), routing, pool)
    bound = 8 * UNIT * np.abs(expected)
    for t in range(T):
        for e, g in zip(routing.experts_TK[t], routing.weights_TK[t], strict=True):
            part = x_TD[t : t + 1]
            size = np.abs(oracle.expert_ffn(part.astype(np.float64), pool[e]))
            bound[t] += g * (ffn_bound(part, pool[e]) + 8 * UNIT * size)[0]
    within(kernels.moe(x_TD, routing, pool), expected, bound)


class Counting:
    """Experts that note the order in which they are asked for."""

    def __init__(self, pool: list[oracle.Expert]) -> None:
        self.pool, self.asked = pool, []

    def __getitem__(self, expert: int) -> oracle.Expert:
        self.asked.append(expert)
        return self.pool[expert]


def test_each_expert_is_asked_for_once_and_in_order() -> None:
    pool = Counting(experts(1, "bf16"))
    routing = oracle.Routing(np.array([[4, 1], [1, 0], [4, 0]]), np.ones((3, 2), np.float32))
    kernels.moe(normal(1, 3, D).astype(np.float32), routing, pool)
    assert pool.asked == [0, 1, 4]


def test_no_token_visits_no_expert() -> None:
    routing = oracle.Routing(np.empty((0, 2), np.int64), np.empty((0, 2), np.float32))
    assert kernels.moe(np.empty((0, D), np.float32), routing, []).shape == (0, D)
