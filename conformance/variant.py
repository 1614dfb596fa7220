"""One engine, many correct ways to round: every operation with its rounding points open.

An `Arithmetic` says how values are stored between steps and how products are summed. With float32
sums and float32 or bfloat16 storage it is a correct engine of that precision; with storage that
disturbs every value by one unit it measures noise (`conformance.noise`); with one method replaced
it is an engine with a known bug (`conformance.mutants`). Methods call each other through `self`, so
that a replaced one is used everywhere.

It shares with the oracle only what has no freedom: the bits of the format and the angles.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from k2ref import oracle
from k2ref.oracle import Expert, Fp8, Int4, Routing
from k2ref.oracle.floats import round_bfloat16

Rounding = Callable[[np.ndarray], np.ndarray]
Product = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Arithmetic(NamedTuple):
    """How an engine computes."""

    name: str
    work: Any
    """type that arithmetic is done in"""
    store: Rounding
    """what happens to a value that is kept between steps"""
    sum: Rounding
    """what happens to a value of the work's precision"""
    product: Product
    """x_TL, w_ML -> out_TM in the work's precision"""
    partial: Rounding
    """what happens to a partial sum of experts"""


class Variant:
    """The operations of the oracle under one arithmetic."""

    def __init__(self, arithmetic: Arithmetic) -> None:
        self.arithmetic = arithmetic

    def _up(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x).astype(self.arithmetic.work)

    def _keep(self, x: np.ndarray, like: np.ndarray) -> np.ndarray:
        return self.arithmetic.store(x).astype(like.dtype)

    def _total(self, x_TL: np.ndarray) -> np.ndarray:
        """Sum rows as a product sums them: x_TL -> total_T1."""
        return self.arithmetic.product(x_TL, np.ones((1, x_TL.shape[-1]), x_TL.dtype))

    # what has no freedom

    int4_pack = staticmethod(oracle.int4_pack)
    int4_unpack = staticmethod(oracle.int4_unpack)
    int4_quantize = staticmethod(oracle.int4_quantize)
    yarn_inv_freq = staticmethod(oracle.yarn_inv_freq)
    yarn_mscale = staticmethod(oracle.yarn_mscale)
    angles = staticmethod(oracle.angles)
    split_kv_b = staticmethod(oracle.split_kv_b)

    # weights

    def int4_dequantize(
        self,
        packed_MP: np.ndarray,
        scale_MG: np.ndarray,
        columns: int,
        *,
        group_size: int = 32,
        dequant: str = "exact",
    ) -> np.ndarray:
        codes_ML = self.int4_unpack(packed_MP, columns)
        group_L = np.arange(columns) // group_size
        w_ML = codes_ML * scale_MG.astype(np.float32)[:, group_L]
        return round_bfloat16(w_ML) if dequant == "bf16" else w_ML

    def fp8_dequantize(
        self, values_ML: np.ndarray, scale_UJ: np.ndarray, *, block: tuple[int, int] = (128, 128)
    ) -> np.ndarray:
        M, L = values_ML.shape
        rows, columns = np.arange(M) // block[0], np.arange(L) // block[1]
        return values_ML.astype(np.float32) * scale_UJ.astype(np.float32)[rows][:, columns]

    def linear(self, x_TL: np.ndarray, w_ML: np.ndarray) -> np.ndarray:
        return self._keep(self.arithmetic.product(self._up(x_TL), self._up(w_ML)), x_TL)

    def int4_linear(
        self,
        x_TL: np.ndarray,
        packed_MP: np.ndarray,
        scale_MG: np.ndarray,
        *,
        group_size: int = 32,
        dequant: str = "exact",
    ) -> np.ndarray:
        w_ML = self.int4_dequantize(
            packed_MP, scale_MG, x_TL.shape[1], group_size=group_size, dequant=dequant
        )
        return self.linear(x_TL, w_ML)

    def fp8_linear(
        self,
        x_TL: np.ndarray,
        values_ML: np.ndarray,
        scale_UJ: np.ndarray,
        *,
        block: tuple[int, int] = (128, 128),
    ) -> np.ndarray:
        return self.linear(x_TL, self.fp8_dequantize(values_ML, scale_UJ, block=block))

    def dense(self, weight: Any, *, dequant: str = "exact") -> np.ndarray:
        if isinstance(weight, Int4):
            return self.int4_dequantize(
                weight.packed_MP,
                weight.scale_MG,
                weight.columns,
                group_size=weight.group_size,
                dequant=dequant,
            )
        if isinstance(weight, Fp8):
            return self.fp8_dequantize(weight.values_ML, weight.scale_UJ, block=weight.block)
        return np.asarray(weight)

    def multiply(self, x_TL: np.ndarray, weight: Any, *, dequant: str = "exact") -> np.ndarray:
        return self.linear(x_TL, self.dense(weight, dequant=dequant))

    # small parts

    def rms_norm(
        self, x_TD: np.ndarray, gain_D: np.ndarray, eps: float, *, round_before_gain: bool = True
    ) -> np.ndarray:
        a, x = self.arithmetic, self._up(x_TD)
        mean_T1 = self._total(a.sum(x * x)) / a.work(x.shape[-1])
        unit_TD = a.sum(x / np.sqrt(mean_T1 + a.work(eps)))
        if round_before_gain:
            unit_TD = a.store(unit_TD)
        return self._keep(unit_TD * self._up(gain_D), x_TD)

    def silu(self, x: np.ndarray) -> np.ndarray:
        z = self._up(x)
        tail = self.arithmetic.sum(np.exp(-np.abs(z)))
        return self._keep(z * np.where(z >= 0, 1, tail) / (1 + tail), x)

    def swiglu(self, gate_TF: np.ndarray, up_TF: np.ndarray) -> np.ndarray:
        return self._keep(self._up(self.silu(gate_TF)) * self._up(up_TF), gate_TF)

    def softmax(self, logits: np.ndarray) -> np.ndarray:
        z = self._up(logits)
        powers = self.arithmetic.sum(np.exp(z - z.max(axis=-1, keepdims=True)))
        return self._keep(powers / self._total(powers), logits)

    # positions

    def rotate(
        self,
        x: np.ndarray,
        angle_TZ: np.ndarray,
        *,
        amplitude: float = 1.0,
        rope_dtype: Any = None,
    ) -> np.ndarray:
        angle = angle_TZ.astype(np.float64).reshape(len(x), *(1,) * (x.ndim - 2), -1)
        turn = np.exp(1j * angle) * amplitude
        cos, sin = (self._trig(part, rope_dtype) for part in (turn.real, turn.imag))
        pairs = self._up(x).reshape(*x.shape[:-1], -1, 2)
        even = pairs[..., 0] * cos - pairs[..., 1] * sin
        odd = pairs[..., 0] * sin + pairs[..., 1] * cos
        return self._keep(np.stack([even, odd], axis=-1).reshape(x.shape), x)

    def _trig(self, part: np.ndarray, rope_dtype: Any) -> np.ndarray:
        rounded = part if rope_dtype is None else part.astype(rope_dtype)
        return self.arithmetic.sum(self._up(rounded))

    # attention

    def attend_expanded(
        self,
        q_nope_THN: np.ndarray,
        q_rope_THR: np.ndarray,
        latent_SC: np.ndarray,
        key_rope_SR: np.ndarray,
        *,
        w_uk_HNC: np.ndarray,
        w_uv_HVC: np.ndarray,
        scale: float,
        first_query: int,
    ) -> np.ndarray:
        a, heads = self.arithmetic, []
        latent_SC, key_rope_SR = self._up(latent_SC), self._up(key_rope_SR)
        for h in range(q_nope_THN.shape[1]):
            key_SN = a.store(a.product(latent_SC, self._up(w_uk_HNC[h])))
            value_SV = a.store(a.product(latent_SC, self._up(w_uv_HVC[h])))
            score_TS = a.product(self._up(q_nope_THN[:, h]), key_SN)
            score_TS = score_TS + a.product(self._up(q_rope_THR[:, h]), key_rope_SR)
            weights_TS = self._weigh(score_TS, scale, first_query)
            heads.append(a.product(weights_TS, value_SV.T))
        return self._keep(np.stack(heads, axis=1), q_nope_THN)

    def attend_absorbed(
        self,
        q_nope_THN: np.ndarray,
        q_rope_THR: np.ndarray,
        latent_SC: np.ndarray,
        key_rope_SR: np.ndarray,
        *,
        w_uk_HNC: np.ndarray,
        w_uv_HVC: np.ndarray,
        scale: float,
        first_query: int,
    ) -> np.ndarray:
        a, heads = self.arithmetic, []
        latent_SC, key_rope_SR = self._up(latent_SC), self._up(key_rope_SR)
        for h in range(q_nope_THN.shape[1]):
            query_TC = a.store(a.product(self._up(q_nope_THN[:, h]), self._up(w_uk_HNC[h]).T))
            score_TS = a.product(query_TC, latent_SC)
            score_TS = score_TS + a.product(self._up(q_rope_THR[:, h]), key_rope_SR)
            weights_TS = self._weigh(score_TS, scale, first_query)
            seen_TC = a.store(a.product(weights_TS, latent_SC.T))
            heads.append(a.product(seen_TC, self._up(w_uv_HVC[h])))
        return self._keep(np.stack(heads, axis=1), q_nope_THN)

    def _weigh(self, score_TS: np.ndarray, scale: float, first_query: int) -> np.ndarray:
        T, S = score_TS.shape
        score_TS = self.arithmetic.sum(score_TS * scale)
        score_TS = np.where(self.hidden(T, S, first_query), -np.inf, score_TS)
        powers_TS = self.arithmetic.sum(np.exp(score_TS - score_TS.max(axis=-1, keepdims=True)))
        return self.arithmetic.store(powers_TS / self._total(powers_TS))

    def hidden(self, T: int, S: int, first_query: int) -> np.ndarray:
        """Say which places each query must not see: T, S, first_query -> hidden_TS bool."""
        return np.arange(S) > first_query + np.arange(T)[:, None]

    # experts

    def router_logits(
        self, x_TD: np.ndarray, w_ED: np.ndarray, *, in_float32: bool = True
    ) -> np.ndarray:
        logits_TE = self.arithmetic.product(self._up(x_TD), self._up(w_ED))
        if not in_float32:
            logits_TE = logits_TE.astype(x_TD.dtype).astype(self.arithmetic.work)
        return self.arithmetic.sum(logits_TE)

    def router_scores(self, logits_TE: np.ndarray) -> np.ndarray:
        tail = self.arithmetic.sum(np.exp(-np.abs(logits_TE)))
        return self.arithmetic.sum(np.where(logits_TE >= 0, 1, tail) / (1 + tail))

    def route(
        self,
        logits_TE: np.ndarray,
        bias_E: np.ndarray,
        *,
        top_k: int,
        scale: float,
        n_group: int = 1,
        topk_group: int = 1,
        renormalise: bool = True,
        renorm_eps: float = 1e-20,
        mask_fill: float = -np.inf,
        tie_rule: str = "lower_index",
    ) -> Routing:
        scores_TE = self.router_scores(logits_TE)
        choice_TE = scores_TE + bias_E.astype(scores_TE.dtype)
        if n_group > 1:
            choice_TE = self.keep_groups(choice_TE, n_group, topk_group, mask_fill)
        index_E = np.arange(choice_TE.shape[1])
        if tie_rule == "higher_index":
            index_E = -index_E
        experts_TK = np.stack([np.lexsort((index_E, -row))[:top_k] for row in choice_TE])
        weights_TK = np.take_along_axis(scores_TE, experts_TK, axis=1)
        if renormalise:
            weights_TK = weights_TK / (weights_TK.sum(axis=1, keepdims=True) + renorm_eps)
        return Routing(experts_TK, (weights_TK * scale).astype(scores_TE.dtype))

    def keep_groups(
        self, choice_TE: np.ndarray, n_group: int, topk_group: int, fill: float
    ) -> np.ndarray:
        """Fill what is in no kept group: choice_TE, groups, kept, fill -> choice_TE."""
        T, E = choice_TE.shape
        by_group = choice_TE.reshape(T, n_group, -1)
        rank = np.argsort(np.argsort(-self.rate_groups(by_group), axis=1, kind="stable"), axis=1)
        return np.where((rank < topk_group)[:, :, None], by_group, fill).reshape(T, E)

    def rate_groups(self, by_group: np.ndarray) -> np.ndarray:
        """Rate groups by their two best: scores by token and group -> one number each."""
        return np.asarray(np.sort(by_group, axis=2)[:, :, -2:].sum(axis=2))

    def expert_ffn(self, x_TD: np.ndarray, expert: Expert, *, dequant: str = "exact") -> np.ndarray:
        gate_TF = self.multiply(x_TD, expert.gate, dequant=dequant)
        up_TF = self.multiply(x_TD, expert.up, dequant=dequant)
        return self.multiply(self.swiglu(gate_TF, up_TF), expert.down, dequant=dequant)

    def moe(
        self, x_TD: np.ndarray, routing: Routing, experts: Any, *, dequant: str = "exact"
    ) -> np.ndarray:
        out_TD = np.zeros(x_TD.shape, self.arithmetic.work)
        for e in np.unique(routing.experts_TK):
            chosen_TK = routing.experts_TK == e
            tokens = np.flatnonzero(chosen_TK.any(axis=1))
            weight_T = np.where(chosen_TK, routing.weights_TK, 0).sum(axis=1)[tokens]
            part_TD = self._up(self.expert_ffn(x_TD[tokens], experts[int(e)], dequant=dequant))
            added_TD = out_TD[tokens] + weight_T[:, None].astype(out_TD.dtype) * part_TD
            out_TD[tokens] = self.arithmetic.partial(added_TD)
        return self._keep(out_TD, x_TD)
