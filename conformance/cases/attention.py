"""Latent attention: prefill, decoding, a chunk on top of a cache, and more rows than a block."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from conformance.cases import Case
from conformance.draw import Draw

H, N, R, C, V = 3, 8, 4, 16, 8  # nope and value heads as wide as each other, as in K2

# name -> tokens, visible tokens, width of the queries, why
CALLS = {
    "prefill": (6, 6, 1.0, "each query sees itself and what came before"),
    "decode": (1, 9, 1.0, "the last of nine"),
    "chunk": (3, 8, 1.0, "three queries on top of five that are cached"),
    "sharp": (5, 5, 12.0, "one key wins: the softmax must not overflow"),
    "blank": (4, 7, 0.0, "a zero query sees the mean of all values up to its own"),
    "long": (70, 90, 1.0, "more rows than a block of 64, with a cache"),
}


def cases(draw: Draw) -> Iterator[Case]:
    """Make the cases of this area: draw -> cases."""
    for name, (T, S, width, why) in CALLS.items():
        table = _call(draw, T, S, width)
        for form in ("absorbed", "expanded"):
            op = f"attend_{form}"
            yield Case(f"{op}-{name}", "mla:attention", op, "noise", why, dict(table))
    rows = H * (N + V)
    w_ML = draw.weight(rows, C)
    table = {"w_ML": w_ML, "heads": H, "nope": N}
    why = "per head N rows of keys, then V rows of values"
    yield Case(
        "split_kv_b-heads", "mla:kv-b-rows", "split_kv_b", "exact", why, table,
    )  # fmt: skip


def _call(draw: Draw, T: int, S: int, width: float) -> dict[str, Any]:
    return {
        "q_nope_THN": draw.normal(T, H, N, spread=width) if width else np.zeros((T, H, N), "f4"),
        "q_rope_THR": draw.normal(T, H, R, spread=width) if width else np.zeros((T, H, R), "f4"),
        "latent_SC": draw.normal(S, C),
        "key_rope_SR": draw.normal(S, R),
        "w_uk_HNC": draw.normal(H, N, C, spread=C**-0.5),
        "w_uv_HVC": draw.normal(H, V, C, spread=C**-0.5),
        "scale": 0.4,
        "first_query": S - T,
    }
