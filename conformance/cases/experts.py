"""Feed-forward networks from packed weights, and their weighted sum."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from conformance.calls import PARTS
from conformance.cases import Case
from conformance.draw import Draw

D, F, E = 64, 32, 6


def cases(draw: Draw) -> Iterator[Case]:
    """Make the cases of this area: draw -> cases."""
    for name, spread, why in (("ordinary", 1.0, "one packed expert"), ("hot", 20.0, "large gates")):
        table = {"x_TD": draw.normal(4, D, spread=spread), "dequant": "exact"}
        table |= {k: v[0] if isinstance(v, np.ndarray) else v for k, v in packed(draw, 1).items()}
        yield Case(f"expert_ffn-{name}", "moe:expert", "expert_ffn", "noise", why, table)
    dense = {
        "gate.w_ML": draw.weight(F, D),
        "up.w_ML": draw.weight(F, D),
        "down.w_ML": draw.weight(D, F),
    }
    table = {"x_TD": draw.normal(4, D), **dense}
    yield Case("expert_ffn-dense", "moe:expert", "expert_ffn", "noise", "plain weights", table)
    yield from _sums(draw)


def packed(draw: Draw, count: int) -> dict[str, Any]:
    """Draw packed experts stacked along E: count -> named arrays."""
    table: dict[str, Any] = {}
    for part in PARTS:
        M, L = (D, F) if part == "down" else (F, D)
        pairs = [draw.int4(M, L) for _ in range(count)]
        table[f"{part}.packed_MP"] = np.stack([p for p, _ in pairs])
        table[f"{part}.scale_MG"] = np.stack([s for _, s in pairs])
        table[f"{part}.columns"] = L
    return table


def _sums(draw: Draw) -> Iterator[Case]:
    random_TK = np.stack([draw.random.permutation(E)[:3] for _ in range(8)])
    same_TK = np.tile(np.array([[4, 1, 2]]), (8, 1))
    for name, experts_TK, why in (
        ("ordinary", random_TK, "three of six experts"),
        ("crowded", same_TK, "all tokens choose the same experts"),
        ("last", np.full((3, 1), E - 1), "one expert, the last"),
    ):
        weights_TK = np.abs(draw.normal(*experts_TK.shape)) + np.float32(0.1)
        table = {"x_TD": draw.normal(len(experts_TK), D), "dequant": "exact", **packed(draw, E)}
        table |= {"experts_TK": experts_TK, "weights_TK": weights_TK}
        yield Case(f"moe-{name}", "moe:weighted-sum", "moe", "noise", why, table)
