"""The tiers that these tests can run, each skipped by name where it is missing."""

import shutil
import sys
from pathlib import Path

import pytest

from k2tools.sandbox import landlock
from k2tools.sandbox.jail import Jail, Tier

WITH_BWRAP = sys.platform == "linux" and shutil.which("bwrap") is not None
WITH_LANDLOCK = sys.platform == "linux" and landlock.abi() >= landlock.NEEDED_ABI
TIERS = [
    pytest.param(
        "bubblewrap",
        marks=pytest.mark.skipif(not WITH_BWRAP, reason="bubblewrap is not installed"),
    ),
    pytest.param(
        "landlock",
        marks=pytest.mark.skipif(not WITH_LANDLOCK, reason="no Landlock of version 6"),
    ),
]


def jail_of(tier: Tier, workspace: Path) -> Jail:
    return Jail(tier, workspace)


ANY_TIER = pytest.mark.skipif(
    not (WITH_BWRAP or WITH_LANDLOCK), reason="neither bubblewrap nor Landlock of version 6"
)
