"""Normalisation and activations, at the magnitudes where mistakes show."""

from collections.abc import Iterator

import numpy as np

from conformance.cases import Case
from conformance.draw import Draw

SPECIAL = np.array([[0.0, -0.0, 2.0**-126, -(2.0**-126), 2.0**-140, 1.0, -1.0, 88.0, -88.0]])
HUGE = np.array([[100.0, -100.0, 1e4, -1e4, 2.0**100, -(2.0**100), 30.0, -30.0, 17.0]])


def cases(draw: Draw) -> Iterator[Case]:
    """Make the cases of this area: draw -> cases."""
    yield from _norms(draw)
    yield from _activations(draw)


def _norms(draw: Draw) -> Iterator[Case]:
    D = 64
    sweep_TD = draw.normal(8, D) * np.exp2(np.arange(-14, 18, 4))[:, None].astype(np.float32)
    massive_TD = draw.normal(3, D)
    massive_TD[:, 5] = 1024
    zero_TD = draw.normal(3, D)
    zero_TD[1] = 0
    inputs = {
        "ordinary": (draw.normal(4, D), 1e-5, "formula"),
        "magnitudes": (sweep_TD, 1e-6, "eps-inside"),
        "magnitudes-1e-5": (sweep_TD, 1e-5, "eps-inside"),
        "mean": (draw.normal(4, D, mean=3.0), 1e-6, "mean-is-kept"),
        "massive": (massive_TD, 1e-6, "formula"),
        "zero-row": (zero_TD, 1e-6, "eps-inside"),
        "millis": (np.full((1, D), 2.0**-10, np.float32), 1e-6, "eps-inside"),
    }
    for name, (x_TD, eps, behaviour) in inputs.items():
        gain_D = draw.normal(D, spread=0.3, mean=1.0)
        table = {"x_TD": x_TD, "gain_D": gain_D, "eps": eps}
        why = f"rows of {name} at eps {eps:g}"
        yield Case(f"rms_norm-{name}", f"norm:{behaviour}", "rms_norm", "noise", why, table)


def _activations(draw: Draw) -> Iterator[Case]:
    hot = draw.normal(4, 32, spread=12.0)
    for name, x in (
        ("special", SPECIAL),
        ("huge", HUGE),
        ("hot", hot),
        ("calm", draw.normal(4, 32)),
    ):
        table = {"x": x.astype(np.float32)}
        yield Case(f"silu-{name}", "act:silu", "silu", "noise", f"{name} values", table)
    beyond_TF = np.abs(draw.normal(2, 32, spread=300.0)) + 300
    inputs = {
        "ordinary": (draw.normal(4, 32), draw.normal(4, 32)),
        "hot": (hot, draw.normal(4, 32, spread=12.0)),
        "beyond-half": (beyond_TF, draw.normal(2, 32, spread=300.0)),
        "zero-up": (draw.normal(2, 32), np.zeros((2, 32), np.float32)),
    }
    for name, (gate_TF, up_TF) in inputs.items():
        table = {"gate_TF": gate_TF, "up_TF": up_TF}
        yield Case(f"swiglu-{name}", "act:swiglu", "swiglu", "noise", f"{name} gates", table)
    rows = np.stack([draw.normal(9), draw.normal(9, mean=300.0), draw.normal(9, spread=90.0)])
    equal = np.zeros((1, 9), np.float32)
    for name, logits in (("rows", rows), ("equal", equal)):
        yield Case(
            f"softmax-{name}", "act:softmax", "softmax", "noise", "far from 0", {"logits": logits}
        )
