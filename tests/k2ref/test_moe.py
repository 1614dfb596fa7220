"""Experts: the network, the weighted sum, and what must not change it."""

import ml_dtypes
import numpy as np
from hypothesis import given

from k2ref import oracle
from tests.agree import agree
from tests.strategies import normal, seeds


def experts(seed: int, count: int = 6) -> list[oracle.Expert]:
    """Make dense experts: width 4, inner width 3."""
    shapes = (3, 4), (3, 4), (4, 3)
    return [
        oracle.Expert(*(normal(seed + 3 * e + i, *shape) for i, shape in enumerate(shapes)))
        for e in range(count)
    ]


def routing(seed: int, tokens: int, count: int = 6) -> oracle.Routing:
    return oracle.route(normal(seed, tokens, count), np.zeros(count), top_k=2, scale=2.827)


def test_a_network_of_ones_by_hand() -> None:
    ones = oracle.Expert(np.array([[1.0]]), np.array([[3.0]]), np.array([[10.0]]))
    silu = 2 / (1 + np.exp(-2.0))
    np.testing.assert_array_equal(oracle.expert_ffn(np.array([[2.0]]), ones), [[silu * 6 * 10]])


@given(seeds)
def test_the_sum_is_that_over_tokens_and_places(seed: int) -> None:
    x_TD, chosen, every = normal(seed, 3, 4), routing(seed, 3), experts(seed)
    wanted = np.zeros((3, 4))
    for t in range(3):
        for e, weight in zip(chosen.experts_TK[t], chosen.weights_TK[t], strict=True):
            wanted[t] += weight * oracle.expert_ffn(x_TD[t : t + 1], every[e])[0]
    agree(oracle.moe(x_TD, chosen, every), wanted)


@given(seeds)
def test_identical_experts_give_the_scale_times_one(seed: int) -> None:
    x_TD, one = normal(seed, 3, 4), experts(seed, 1)[0]
    agree(oracle.moe(x_TD, routing(seed, 3), [one] * 6), 2.827 * oracle.expert_ffn(x_TD, one))


@given(seeds)
def test_tokens_and_experts_may_be_reordered_and_split(seed: int) -> None:
    x_TD, chosen, every = normal(seed, 5, 4), routing(seed, 5), experts(seed)
    whole = oracle.moe(x_TD, chosen, every)
    order_T, order_E = np.random.default_rng(seed).permutation(5), [3, 0, 5, 1, 2, 4]
    moved = oracle.Routing(chosen.experts_TK[order_T], chosen.weights_TK[order_T])
    agree(oracle.moe(x_TD[order_T], moved, every), whole[order_T])
    places = np.argsort(order_E)
    relabelled = oracle.Routing(places[chosen.experts_TK], chosen.weights_TK)
    agree(oracle.moe(x_TD, relabelled, [every[e] for e in order_E]), whole)
    shards = [  # each device holds half of the experts and contributes its part
        oracle.moe(x_TD, chosen._replace(weights_TK=np.where(held, chosen.weights_TK, 0)), every)
        for held in (chosen.experts_TK < 3, chosen.experts_TK >= 3)
    ]
    agree(sum(shards), whole)


def test_only_chosen_experts_are_asked_for_and_each_once() -> None:
    every, asked = experts(1), []

    class Counting:
        def __getitem__(self, expert: int, /) -> oracle.Expert:
            asked.append(expert)
            return every[expert]

    chosen = oracle.Routing(np.array([[4, 1], [1, 4], [4, 5]]), np.ones((3, 2)))
    oracle.moe(normal(2, 3, 4), chosen, Counting())
    assert asked == [1, 4, 5]


def test_a_weight_is_multiplied_in_the_form_it_is_stored_in() -> None:
    x_TL, codes_ML = normal(3, 2, 40), np.random.default_rng(4).integers(-8, 8, (5, 40))
    scale_MG = np.ones((5, 2), np.float32)
    packed = oracle.Int4(oracle.int4_pack(codes_ML), scale_MG, 32, 40)
    values = oracle.Fp8(codes_ML.astype(ml_dtypes.float8_e4m3fn), np.ones((1, 1)), (128, 128))
    for weight in (codes_ML.astype(np.float32), packed, values):
        np.testing.assert_array_equal(oracle.dense(weight), codes_ML)
        agree(oracle.multiply(x_TL, weight), x_TL @ codes_ML.T)
