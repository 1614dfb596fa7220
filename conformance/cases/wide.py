"""Operations at the width of the published models: what overflows, tiles or loses sums only there.

No part of the frozen vectors, for their size: drawn from the seed of a run (`--profile wide`). A
whole layer of this width is 9.9 GB; `k2conf run --checkpoint DIR` puts one to an engine.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

from conformance.cases import Case
from conformance.draw import Draw
from k2ref.presets import K2_THINKING as K2

TOKENS, SEEN = 2, 64


@cache
def wide_cases(seed: int) -> tuple[Case, ...]:
    """Make the cases of the real width: seed -> cases."""
    return tuple(_cases(Draw(seed, "wide"), seed))


def _cases(draw: Draw, seed: int) -> Iterator[Case]:
    D, F = K2.hidden_size, K2.moe_intermediate_size

    def case(id_: str, requirement: str, rule: Any, table: dict[str, Any]) -> Case:
        op = id_.removesuffix("-down")
        why = "the width of the published models"
        return Case(f"{id_}-wide", requirement, op, rule, why, table, seed=seed)

    x_TD = draw.normal(TOKENS, D)
    table = {"x_TD": x_TD, "gain_D": draw.normal(D, spread=0.3, mean=1.0), "eps": K2.rms_norm_eps}
    yield case("rms_norm", "norm:formula", "noise", table)
    for id_, M, L in (("int4_linear", F, D), ("int4_linear-down", D, F)):
        packed_MP, scale_MG = draw.int4(M, L)
        table = {"x_TL": draw.normal(TOKENS, L), "packed_MP": packed_MP, "scale_MG": scale_MG}
        yield case(id_, "int4:product", "bound", {**table, "dequant": "exact"})
    table = {"x_TD": x_TD, "w_ED": draw.weight(K2.n_routed_experts, D)}
    yield case("router_logits", "route:logits", "noise", table)
    yield case("expert_ffn", "moe:expert", "noise", {"x_TD": x_TD, **_expert(draw, D, F)})
    for form in ("absorbed", "expanded"):
        yield case(f"attend_{form}", "mla:attention", "noise", _attention(draw))


def _expert(draw: Draw, D: int, F: int) -> dict[str, Any]:
    table: dict[str, Any] = {"dequant": "exact"}
    for part, M, L in (("gate", F, D), ("up", F, D), ("down", D, F)):
        packed_MP, scale_MG = draw.int4(M, L)
        table |= {f"{part}.packed_MP": packed_MP, f"{part}.scale_MG": scale_MG}
        table[f"{part}.columns"] = L
    return table


def _attention(draw: Draw) -> dict[str, Any]:
    H, N, R = K2.num_attention_heads, K2.qk_nope_head_dim, K2.qk_rope_head_dim
    C, V = K2.kv_lora_rank, K2.v_head_dim
    return {
        "q_nope_THN": draw.normal(TOKENS, H, N),
        "q_rope_THR": draw.normal(TOKENS, H, R),
        "latent_SC": draw.normal(SEEN, C),
        "key_rope_SR": draw.normal(SEEN, R),
        "w_uk_HNC": draw.normal(H, N, C, spread=C**-0.5),
        "w_uv_HVC": draw.normal(H, V, C, spread=C**-0.5),
        "scale": (N + R) ** -0.5,
        "first_query": SEEN - TOKENS,
    }
