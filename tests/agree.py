"""Assertions on top of `conformance.compare`, the only definition of equal."""

import numpy as np

from conformance import compare
from conformance.results import Verdict


def agree(found: np.ndarray, expected: np.ndarray) -> None:
    """Assert that two float64 computations gave one answer: found, expected."""
    agreement = compare.twins(found, expected)
    assert agreement.verdict is Verdict.PASS, agreement.message


def agree_float32(found: np.ndarray, expected: np.ndarray) -> None:
    """Assert that float32 logits are those of the float64 reference: found, expected."""
    agreement = compare.logits_agree(found, expected)
    assert agreement.verdict is Verdict.PASS, agreement.message
