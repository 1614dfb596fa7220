"""Engines in this process: what they offer, and how badly they may behave."""

import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from conformance.engine import EngineError, Namespace, attempt, open_engine
from k2ref import oracle
from k2ref.errors import InputError


def test_an_object_with_one_function_is_an_engine() -> None:
    engine = Namespace(SimpleNamespace(silu=oracle.silu, other=print, PRECISION="bf16"))
    assert engine.operation("silu") is oracle.silu
    assert engine.operation("swiglu") is None
    assert engine.operation("other") is None
    assert engine.info.precision == "bf16"


def test_an_engine_is_opened_by_its_module() -> None:
    for text in ("module:k2ref.oracle", "k2ref.oracle", "k2ref:oracle"):
        assert open_engine(text).operation("silu") is oracle.silu
    with pytest.raises(InputError, match=r"no engine k2ref\.nothing"):
        open_engine("k2ref.nothing")
    with pytest.raises(InputError, match="precision must be one of"):
        open_engine("k2ref.oracle", precision="f31")


def test_an_engine_that_raises_leaves_or_hangs_is_an_error_of_the_engine() -> None:
    def fails() -> None:
        raise KeyError("x")

    with pytest.raises(EngineError, match="KeyError: 'x'"):
        attempt(fails)
    with pytest.raises(EngineError, match="SystemExit: 3"):
        attempt(sys.exit, 3)
    with pytest.raises(EngineError, match=r"no answer within 0\.01 s"):
        attempt(time.sleep, 0.5, timeout_s=0.01)
    assert attempt(np.add, 1, 2) == 3
