"""Hypothesis profiles: `ci` repeats itself exactly, `dev` explores, `nightly` explores for long."""

import os

from hypothesis import HealthCheck, settings

# The first call of a compiled kernel outlasts any deadline, so there is none.
_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile(
    "ci", derandomize=True, max_examples=25, database=None, print_blob=True, **_common
)
settings.register_profile("dev", max_examples=50, **_common)
settings.register_profile("nightly", max_examples=10_000, print_blob=True, **_common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
