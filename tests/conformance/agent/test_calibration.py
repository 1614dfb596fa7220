"""Simulated models through the driver equal their direct simulation, run by run."""

import pytest

from conformance.agent import calibration
from conformance.agent.calibration import (
    Calibrated,
    conditioned_ledger,
    heavy_chase,
    noisy_chase,
    verifier_chase,
)


@pytest.mark.parametrize(
    "calibrated",
    [
        lambda: noisy_chase(12, 30, 0.03),
        lambda: verifier_chase(12, 30, 0.06, 0.7),
        lambda: conditioned_ledger(12, 30, 0.04, 3.0),
        lambda: heavy_chase(4, 20, 0.09, 8),
    ],
    ids=["noisy", "verifier", "self-conditioning", "heavy"],
)
def test_driven_equals_direct(calibrated: object) -> None:
    found: Calibrated = calibrated()  # type: ignore[operator]
    assert found.driven == found.direct
    assert len(set(found.driven)) > 1  # both kinds of end occur, so that equality says something


@pytest.mark.slow
def test_the_closed_form_is_near() -> None:
    for each in calibration.all_calibrations(60):
        assert each.exact, each.name
        assert abs(each.sigmas) < 5, each.name
