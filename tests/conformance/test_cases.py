"""Cases: the same from every seed, each of one requirement, each with a reference that agrees."""

import numpy as np
import pytest

from conformance.cases import all_cases
from conformance.compare import PRECISIONS, Precision, routing_margin
from conformance.judge import biased_scores
from conformance.noise import call, disturbing, in_float64
from conformance.spec import requirements
from conformance.variant import Variant
from k2ref import oracle

EXACT = Variant(disturbing(Precision("none", np.float64, 0.0, 0.0), 0))


def test_ids_are_unique_and_independent_of_the_seed() -> None:
    ids = [c.id for c in all_cases(0)]
    assert len(set(ids)) == len(ids)
    assert [c.id for c in all_cases(77)] == ids


def test_a_seed_repeats_itself_and_another_gives_other_inputs() -> None:
    first, again, other = (
        next(c for c in all_cases.__wrapped__(seed) if c.id == "silu-hot") for seed in (4, 4, 5)
    )
    assert (first.table["x"] == again.table["x"]).all()
    assert (first.table["x"] != other.table["x"]).any()


def test_every_case_cites_a_requirement() -> None:
    assert {c.requirement for c in all_cases(0)} <= set(requirements())


@pytest.mark.parametrize("seed", [0, 1])
def test_oracle_and_variant_agree_on_every_case(seed: int) -> None:
    for case in all_cases(seed):
        if case.is_question:
            continue
        table = in_float64(case.inputs(PRECISIONS["f64"]))
        wanted, found = call(oracle, case.op, table), call(EXACT, case.op, table)
        for name, array in wanted.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-12, atol=1e-12, err_msg=case.id)


def test_required_choices_are_clear() -> None:
    for case in all_cases(0):
        if case.rule == "route" and not case.is_question:
            margin_T = routing_margin(biased_scores(case), case.table["top_k"])
            assert margin_T.min() >= 2.0**-15, case.id


def test_activations_are_bfloat16_values_in_every_precision() -> None:
    for case in all_cases(0):
        single = case.inputs(PRECISIONS["f32"])
        half = case.inputs(PRECISIONS["bf16"])
        for name in ("x_TD", "x_TL", "q_nope_THN", "latent_SC"):
            if name in single:
                assert (half[name].astype(np.float32) == single[name]).all(), case.id
