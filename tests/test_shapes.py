"""Names carry shapes, and the shapes are true."""

import importlib
import pkgutil
from types import ModuleType

import numpy as np
import pytest

import k2ref.oracle
from tests.shapes import returned_names, unsuffixed_parameters, watch, watched

OPERATIONS = [getattr(k2ref.oracle, name) for name in k2ref.oracle.OPERATIONS]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda f: f.__name__)
def test_an_operation_names_its_shapes_and_says_what_comes_out(operation) -> None:
    assert unsuffixed_parameters(operation) == []
    assert "->" in operation.__doc__.split("\n\n")[0]


def modules() -> list[ModuleType]:
    found = pkgutil.iter_modules(k2ref.oracle.__path__, "k2ref.oracle.")
    return [importlib.import_module(m.name) for m in found]


def test_the_oracle_namespace_lists_every_public_function() -> None:
    public = {
        name
        for module in modules()
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__
        if not name.startswith("_") and name.islower() and module.__name__ != "k2ref.oracle.floats"
    }
    assert public == set(k2ref.oracle.OPERATIONS)


def test_the_watch_catches_a_result_with_a_column_too_many() -> None:
    def linear(x_TL: np.ndarray, w_ML: np.ndarray) -> np.ndarray:
        """Multiply: x_TL, w_ML -> out_TM."""
        return np.zeros((len(x_TL), len(w_ML) + 1))

    assert returned_names(linear) == ["out_TM"]
    with pytest.raises(AssertionError, match="M is 3 and, in out_TM, 4"):
        watched(linear)(np.zeros((2, 5)), np.zeros((3, 5)))


def test_the_watch_catches_arguments_that_do_not_fit() -> None:
    ops = watch(k2ref.oracle, ("linear",))
    with pytest.raises(AssertionError, match="L is 5 and, in w_ML, 6"):
        ops.linear(np.zeros((2, 5)), np.zeros((3, 6)))
