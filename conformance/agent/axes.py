"""The axes of a sweep beside the length: what a run may use, and how many runs make an answer.

`steps=30,300` and `heavy=1,8` make four settings. A setting overrides the flags of the same name;
`heavy` counts the trajectories that vote, so the runs of the largest count serve the smaller ones.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from k2ref.errors import InputError

AXES = ("steps", "reasoning", "window", "keep-last", "output", "heavy")
USAGE = "NAME=V1,V2,… of " + ", ".join(AXES)


class Setting(NamedTuple):
    """One point of the grid: flags to override, and the counts of trajectories to try."""

    flags: Mapping[str, int]
    heavy: Sequence[int]

    def name(self, heavy: int) -> str:
        """Name the setting with one count of trajectories, "" when nothing varies."""
        parts = [f"{name}={value}" for name, value in self.flags.items()]
        return " ".join(parts + ([f"heavy={heavy}"] if len(self.heavy) > 1 else []))


def grid(texts: Sequence[str]) -> list[Setting]:
    """Read the axes and multiply them: texts -> settings."""
    axes = dict(_axis(text) for text in texts)
    heavy = sorted(axes.pop("heavy", [1]))
    names = [name.replace("-", "_") for name in axes]
    values = itertools.product(*axes.values())
    return [Setting(dict(zip(names, chosen, strict=True)), heavy) for chosen in values]


def _axis(text: str) -> tuple[str, list[int]]:
    name, _, values = text.partition("=")
    try:
        numbers = [int(value) for value in values.split(",")]
    except ValueError:
        raise InputError(f"an axis is {USAGE}, with whole numbers; got {text!r}") from None
    if name not in AXES or (name == "heavy" and min(numbers) < 1):
        raise InputError(f"an axis is {USAGE}, and heavy is at least 1; got {text!r}")
    return name, numbers
