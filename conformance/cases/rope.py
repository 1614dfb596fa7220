"""Rotary positions: the table, the angles in float32, the pairs; always beyond position 0."""

from collections.abc import Iterator

import numpy as np

from conformance.cases import Case
from conformance.draw import Draw
from k2ref.oracle import angles, yarn_inv_freq

LONG = np.array([0, 1, 2, 100, 4095, 4096, 65535, 131071, 200001, 262143])
K2 = {"rope_width": 64, "base": 50000.0, "original_positions": 4096, "beta_slow": 1.0}
TABLES = {
    "instruct": {**K2, "factor": 32.0, "beta_fast": 1.0},
    "thinking": {**K2, "factor": 64.0, "beta_fast": 1.0},
    "k2.5": {**K2, "factor": 64.0, "beta_fast": 32.0},
    "nano": {**K2, "rope_width": 16, "factor": 64.0, "beta_fast": 1.0},
    "plain": {"rope_width": 64, "base": 50000.0, "factor": 1.0},
    "other-base": {**K2, "base": 1e6, "factor": 4.0, "beta_fast": 32.0},
}


def cases(draw: Draw) -> Iterator[Case]:
    """Make the cases of this area: draw -> cases."""
    for name, table in TABLES.items():
        why = f"the frequencies of {name}"
        yield Case(
            f"yarn_inv_freq-{name}", "rope:table", "yarn_inv_freq", "units", why, dict(table),
        )  # fmt: skip
    for factor, mscale in ((32.0, 1.0), (64.0, 1.0), (40.0, 0.707), (1.0, 1.0)):
        table = {"factor": factor, "mscale": mscale}
        why = "sharpens the softmax; 1 without YaRN"
        id_ = f"yarn_mscale-{factor:g}-{mscale:g}"
        yield Case(id_, "rope:mscale", "yarn_mscale", "units", why, table)
    yield from _angles(draw)
    yield from _rotations(draw)


def _angles(draw: Draw) -> Iterator[Case]:
    position_T = np.sort(np.unique(np.append(LONG, draw.integers(0, 262144, 6))))
    for name in ("thinking", "k2.5"):
        table_Z = _table(name)
        table = {"position_T": position_T, "inv_freq_Z": table_Z}
        why = "the product is rounded to float32, which at the far end is 0.017 rad from ideal"
        yield Case(
            f"angles-{name}", "rope:angle-in-float32", "angles", "exact", why, table,
        )  # fmt: skip


def _table(name: str) -> np.ndarray:
    return yarn_inv_freq(**TABLES[name], dtype=np.float32)  # type: ignore[arg-type]


def _rotations(draw: Draw) -> Iterator[Case]:
    unit_TR = np.zeros((2, 8), np.float32)
    unit_TR[:, 1] = 1
    first_TZ = np.zeros((2, 4), np.float32)
    first_TZ[1, 0] = 1
    far_TZ = angles(LONG, _table("thinking"))
    near_TZ = angles(draw.integers(1, 4096, 6), _table("nano"))
    inputs = {
        "unit": (unit_TR, first_TZ, {}, "dimension 1 turns into dimension 0"),
        "still": (draw.normal(3, 8), np.zeros((3, 4), np.float32), {}, "angle 0 changes nothing"),
        "far": (draw.normal(len(LONG), 64), far_TZ, {}, "positions to 262,143"),
        "heads": (draw.normal(6, 3, 16), near_TZ, {}, "several heads share an angle"),
        "amplitude": (draw.normal(6, 16), near_TZ, {"amplitude": 1.25}, "YaRN's amplitude"),
    }
    for name, (x, angle_TZ, options, why) in inputs.items():
        requirement = "rope:amplitude" if options else "rope:interleaved-pairs"
        table = {"x": x, "angle_TZ": angle_TZ, **options}
        yield Case(f"rotate-{name}", requirement, "rotate", "noise", why, table)
