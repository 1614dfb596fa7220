"""The forward pass: embedding, layers, logits, put together from the operations of the oracle.

    h = h + attention(norm(h))
    h = h + feed_forward(norm(h))          dense in the first layers, experts in the others
    logits = head(norm(h))

`ops` is the module the operations come from: `k2ref.oracle`, or `k2ref.kernels` with the same
names.
"""

from types import ModuleType
from typing import Any, Literal

import numpy as np

from k2ref import oracle
from k2ref.cache import LatentCache
from k2ref.checkpoint import Checkpoint
from k2ref.errors import InputError
from k2ref.numerics import Numerics
from k2ref.rope_table import inv_freq
from k2ref.trace import Trace, ignore

HEAD_ROWS = 16384  # rows of lm_head raised to the model's precision at a time
LAST_POSITION = 2**24  # the last integer up to which float32 holds every position


class Model:
    """A checkpoint, and the choices under which it is run."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        ops: ModuleType | Any = oracle,
        dtype: Any = np.float32,
        numerics: Numerics | None = None,
        attention: Literal["absorbed", "expanded"] = "absorbed",
        inv_freq_Z: np.ndarray | None = None,
    ) -> None:
        """Choose how to run a checkpoint: checkpoint -> Model.

        `dtype` is that of activations: float64, float32 or bfloat16. `inv_freq_Z` replaces the
        frequency table of `rope_table`.
        """
        self.checkpoint = checkpoint
        self.config = checkpoint.config
        self.ops = ops
        self.dtype = np.dtype(dtype)
        self.numerics = numerics or Numerics()
        self.attend = getattr(ops, f"attend_{attention}")
        self.inv_freq_Z = inv_freq(self.config, self.numerics) if inv_freq_Z is None else inv_freq_Z
        R = self.config.qk_rope_head_dim
        if self.inv_freq_Z.shape != (R // 2,):
            found = list(self.inv_freq_Z.shape)
            raise InputError(f"the frequency table must have shape [{R // 2}], got {found}")
        fixed = self.numerics.latent_norm_eps != "rms_norm_eps"
        self.latent_eps = 1e-6 if fixed else self.config.rms_norm_eps
        self.scale = self.config.softmax_scale(mscale_key=self.numerics.softmax_mscale)

    def new_cache(self) -> LatentCache:
        """Make an empty cache for this model: -> LatentCache."""
        return LatentCache(self.config, self.dtype)

    def forward(
        self,
        ids_T: np.ndarray,
        position_T: np.ndarray | None = None,
        *,
        cache: LatentCache | None = None,
        trace: Trace = ignore,
        last_only: bool = False,
    ) -> np.ndarray:
        """Run tokens through the model: ids_T -> logits_TW, of the last token only if asked.

        Tokens follow those in `cache`, which grows by them. Positions count on from the last one
        unless given.

        Raises:
            InputError: no token, an id outside the vocabulary, positions that do not increase.
        """
        cache = self.new_cache() if cache is None else cache
        ids_T, position_T = self._check(ids_T, position_T, cache)
        angle_TZ = self.ops.angles(position_T, self.inv_freq_Z)
        hidden_TD = self.checkpoint["model.embed_tokens.weight"][ids_T].astype(self.dtype)
        trace("embed", hidden_TD)
        for layer in range(self.config.num_hidden_layers):
            hidden_TD = self._layer(layer, hidden_TD, angle_TZ, cache, trace)
        cache.advance(position_T)
        if last_only:
            hidden_TD = hidden_TD[-1:]
        hidden_TD = self._norm("model.norm", hidden_TD, self.config.rms_norm_eps)
        trace("final.norm", hidden_TD)
        logits_TW = self._head(hidden_TD)
        trace("logits", logits_TW)
        return logits_TW

    def prefill(
        self,
        ids_T: np.ndarray,
        position_T: np.ndarray | None = None,
        *,
        chunk: int,
        cache: LatentCache | None = None,
        trace: Trace = ignore,
    ) -> np.ndarray:
        """Run a long prompt in chunks, each on top of the last: ids_T -> logits_TW."""
        cache = self.new_cache() if cache is None else cache
        ids_T, position_T = self._check(ids_T, position_T, cache)
        starts = range(0, len(ids_T), chunk)
        return np.concatenate(
            [
                self.forward(
                    ids_T[s : s + chunk], position_T[s : s + chunk], cache=cache, trace=trace
                )
                for s in starts
            ]
        )

    def _layer(
        self,
        layer: int,
        hidden_TD: np.ndarray,
        angle_TZ: np.ndarray,
        cache: LatentCache,
        trace: Trace,
    ) -> np.ndarray:
        base, eps = f"model.layers.{layer}", self.config.rms_norm_eps

        def tap(name: str, array: np.ndarray) -> None:
            trace(f"L{layer}.{name}", array)

        x_TD = self._norm(f"{base}.input_layernorm", hidden_TD, eps)
        tap("attn.norm", x_TD)
        attended_TD = self._attention(layer, x_TD, angle_TZ, cache, tap)
        tap("attn.out", attended_TD)
        hidden_TD = hidden_TD + attended_TD
        tap("attn.residual", hidden_TD)
        x_TD = self._norm(f"{base}.post_attention_layernorm", hidden_TD, eps)
        tap("ffn.norm", x_TD)
        honour = self.numerics.moe_layer_freq == "honoured"
        if self.config.is_sparse(layer, honour_freq=honour):
            out_TD = self._experts(layer, x_TD, tap)
        else:
            out_TD = self._feed_forward(f"{base}.mlp", x_TD)
        tap("ffn.out", out_TD)
        hidden_TD = hidden_TD + out_TD
        tap("out", hidden_TD)
        return hidden_TD

    def _attention(
        self, layer: int, x_TD: np.ndarray, angle_TZ: np.ndarray, cache: LatentCache, tap: Trace
    ) -> np.ndarray:
        base, ops, config = f"model.layers.{layer}.self_attn", self.ops, self.config
        T, H, N = len(x_TD), config.num_attention_heads, config.qk_nope_head_dim

        q_latent_TQ, q_module = x_TD, "q_proj"
        if config.q_lora_rank is not None:
            q_latent_TQ, q_module = self._multiply(f"{base}.q_a_proj", x_TD), "q_b_proj"
            q_latent_TQ = self._norm(f"{base}.q_a_layernorm", q_latent_TQ, self.latent_eps)
        tap("attn.q_latent", q_latent_TQ)
        query_TH = self._multiply(f"{base}.{q_module}", q_latent_TQ).reshape(T, H, -1)
        q_nope_THN, q_rope_THR = query_TH[:, :, :N], self._rotate(query_TH[:, :, N:], angle_TZ)
        tap("attn.q_nope", q_nope_THN)
        tap("attn.q_rope", q_rope_THR)

        compressed_T = self._multiply(f"{base}.kv_a_proj_with_mqa", x_TD)
        latent_TC = compressed_T[:, : config.kv_lora_rank]
        latent_TC = self._norm(f"{base}.kv_a_layernorm", latent_TC, self.latent_eps)
        key_rope_TR = self._rotate(compressed_T[:, config.kv_lora_rank :], angle_TZ)
        tap("attn.latent", latent_TC)
        tap("attn.k_rope", key_rope_TR)

        first_query = len(cache)
        latent_SC, key_rope_SR = cache.extend(layer, latent_TC, key_rope_TR)
        w_uk_HNC, w_uv_HVC = ops.split_kv_b(self._dense(f"{base}.kv_b_proj"), H, N)
        heads_THV = self.attend(
            q_nope_THN,
            q_rope_THR,
            latent_SC,
            key_rope_SR,
            w_uk_HNC=w_uk_HNC,
            w_uv_HVC=w_uv_HVC,
            scale=self.scale,
            first_query=first_query,
        )
        tap("attn.heads", heads_THV)
        return self._multiply(f"{base}.o_proj", heads_THV.reshape(T, -1))

    def _experts(self, layer: int, x_TD: np.ndarray, tap: Trace) -> np.ndarray:
        base, ops, numerics = f"model.layers.{layer}.mlp", self.ops, self.numerics
        in_float32 = numerics.router_dtype == "float32"
        w_ED = self.checkpoint.weight(f"{base}.gate")
        logits_TE = ops.router_logits(x_TD, w_ED, in_float32=in_float32)
        routing = self._route(logits_TE, self.checkpoint[f"{base}.gate.e_score_correction_bias"])
        tap("moe.router.logits", logits_TE)
        tap("moe.router.scores", ops.router_scores(logits_TE))
        tap("moe.router.experts", routing.experts_TK)
        tap("moe.router.weights", routing.weights_TK)
        experts = self.checkpoint.experts(layer, np.unique(routing.experts_TK).tolist())
        out_TD = ops.moe(x_TD, routing, experts, dequant=numerics.dequant)
        tap("moe.routed", out_TD)
        if self.config.n_shared_experts:
            shared_TD = self._feed_forward(f"{base}.shared_experts", x_TD)
            tap("moe.shared", shared_TD)
            out_TD = out_TD + shared_TD
        return out_TD

    def _route(self, logits_TE: np.ndarray, bias_E: np.ndarray) -> oracle.Routing:
        config, numerics = self.config, self.numerics
        single = config.num_experts_per_tok == 1 and numerics.renorm_single == "no"
        return self.ops.route(
            logits_TE,
            bias_E,
            top_k=config.num_experts_per_tok,
            scale=config.routed_scaling_factor,
            n_group=config.n_group,
            topk_group=config.topk_group,
            renormalise=config.norm_topk_prob and not single,
            renorm_eps=float(numerics.renorm_eps),
            mask_fill=float(numerics.mask_fill),
            tie_rule=numerics.tie_rule,
        )

    def _feed_forward(self, module: str, x_TD: np.ndarray) -> np.ndarray:
        expert = self.checkpoint.feed_forward(module)
        return self.ops.expert_ffn(x_TD, expert, dequant=self.numerics.dequant)

    def _multiply(self, module: str, x_TL: np.ndarray) -> np.ndarray:
        weight = self.checkpoint.weight(module)
        return self.ops.multiply(x_TL, weight, dequant=self.numerics.dequant)

    def _dense(self, module: str) -> np.ndarray:
        """Give the matrix of a weight, which attention takes apart: module -> w_ML."""
        return self.ops.dense(self.checkpoint.weight(module), dequant=self.numerics.dequant)

    def _norm(self, module: str, x_TD: np.ndarray, eps: float) -> np.ndarray:
        early = self.numerics.norm_rounding == "before_gain"
        gain_D = self.checkpoint[f"{module}.weight"]
        return self.ops.rms_norm(x_TD, gain_D, eps, round_before_gain=early)

    def _rotate(self, x: np.ndarray, angle_TZ: np.ndarray) -> np.ndarray:
        rope_dtype = self.dtype if self.numerics.rope_dtype == "model" else None
        amplitude = self.config.rope.amplitude
        return self.ops.rotate(x, angle_TZ, amplitude=amplitude, rope_dtype=rope_dtype)

    def _head(self, hidden_TD: np.ndarray) -> np.ndarray:
        tied = self.config.tie_word_embeddings
        name = "model.embed_tokens.weight" if tied else "lm_head.weight"
        blocks = self.checkpoint.row_blocks(name, HEAD_ROWS)
        rows = [self.ops.linear(hidden_TD, w_WD) for w_WD in blocks]
        return np.concatenate(rows, axis=1)

    def _check(
        self, ids_T: np.ndarray, position_T: np.ndarray | None, cache: LatentCache
    ) -> tuple[np.ndarray, np.ndarray]:
        ids_T = np.asarray(ids_T)
        if ids_T.ndim != 1 or len(ids_T) == 0 or ids_T.dtype.kind not in "iu":
            found = f"{ids_T.dtype} {list(ids_T.shape)}"
            raise InputError(f"ids must be one row of at least one integer, got {found}")
        W = self.config.vocab_size
        if ids_T.min() < 0 or ids_T.max() >= W:
            bad = int(ids_T[(ids_T < 0) | (ids_T >= W)][0])
            raise InputError(f"ids must lie in 0 to {W - 1}, got {bad}")
        last = int(cache.position_S[-1]) if len(cache) else -1
        if position_T is None:
            position_T = last + 1 + np.arange(len(ids_T))
        return ids_T, check_positions(np.asarray(position_T), len(ids_T), last)


def check_positions(position_T: np.ndarray, count: int, last: int) -> np.ndarray:
    """Check positions against the number of ids and the last one seen: position_T -> position_T."""
    if position_T.shape != (count,) or position_T.dtype.kind not in "iu":
        found = f"{position_T.dtype} {list(position_T.shape)}"
        raise InputError(f"positions must be {count} integers, one per id, got {found}")
    before_T = np.concatenate([[last], position_T[:-1]])
    if (position_T <= before_T).any():
        place = int(np.argmax(position_T <= before_T))
        after = f"after {before_T[place]}" if before_T[place] >= 0 else "at the start"
        raise InputError(f"positions must increase from 0 on, got {position_T[place]} {after}")
    if position_T[-1] > LAST_POSITION:
        raise InputError(
            f"positions must be at most {LAST_POSITION}, which float32 holds, got {position_T[-1]}"
        )
    return position_T.astype(np.int64)
