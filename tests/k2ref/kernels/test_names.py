"""Kernels are the oracle's operations by name and docstring; threads change nothing."""

import inspect

import numba
import numpy as np
import pytest

from k2ref import kernels, oracle
from k2ref.kernels._jit import threads
from tests.k2ref.kernels import test_int4, test_mla, test_moe
from tests.strategies import normal


@pytest.mark.parametrize("name", oracle.OPERATIONS)
def test_an_operation_has_the_oracles_arguments_and_first_line(name: str) -> None:
    ours, theirs = getattr(kernels, name), getattr(oracle, name)
    assert str(inspect.signature(ours)) == str(inspect.signature(theirs))
    line = theirs.__doc__.splitlines()[0].removesuffix(" or wider.").removesuffix(".")
    assert ours.__doc__.splitlines()[0].startswith(line)


def test_kernels_export_what_the_oracle_exports() -> None:
    assert kernels.__all__ == oracle.__all__
    assert all(hasattr(kernels, name) for name in oracle.__all__)


def results() -> list[np.ndarray]:
    """Run everything that is spread over threads once: -> results."""
    packed_MP, scale_MG = test_int4.matrix(1, 301, 296, 32)
    x = normal(1, 27, 296).astype(np.float32)
    pool = test_moe.experts(1, "int4")
    routing = kernels.route(normal(3, 27, 5).astype(np.float32), np.zeros(5), top_k=2, scale=1.0)
    attention = test_mla.case(5, 9, 4, 80, 32)
    return [
        kernels.int4_linear(x[:1], packed_MP, scale_MG),
        kernels.int4_linear(x, packed_MP, scale_MG),
        kernels.linear(x, normal(2, 131, 296).astype(np.float32)),
        kernels.rms_norm(x, np.ones(296, np.float32), 1e-6),
        kernels.swiglu(x, x),
        *routing,
        kernels.moe(normal(4, 27, 64).astype(np.float32), routing, pool),
        kernels.attend_absorbed(**attention, scale=0.3, first_query=71),
    ]


def test_one_thread_and_two_give_the_same_bits() -> None:
    with threads(1):
        alone = results()
    with threads(2):
        together = results()
    for one, two in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_number_of_threads_is_put_back() -> None:
    before = numba.get_num_threads()
    with threads(1):
        assert numba.get_num_threads() == 1
    assert numba.get_num_threads() == before
