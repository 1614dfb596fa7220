"""Bugs of latent attention: scale, mask, heads, cache."""

from typing import Any

import ml_dtypes
import numpy as np

from conformance.bugs import Bug, changing, replace
from conformance.variant import Variant
from k2ref.model import Model
from k2ref.oracle import yarn_mscale

WINDOW = 32
PAGE = 4


def _scaled(change: Any) -> Any:
    """Change the softmax scale of a model: change of model -> change."""

    def model(target: Model) -> None:
        target.scale = change(target.scale, target.config)

    return model


def _m(config: Any) -> float:
    return yarn_mscale(config.rope.factor, 1.0)


def _nope_only(scale: float, config: Any) -> float:
    width = config.qk_nope_head_dim
    return float(scale * ((width + config.qk_rope_head_dim) / width) ** 0.5)


def _mask(change: Any) -> Any:
    """Change what a query must not see: change of hidden, query place, key place -> change."""

    def hidden(original: Any, T: int, S: int, first_query: int) -> np.ndarray:
        query_T1, key_S = first_query + np.arange(T)[:, None], np.arange(S)
        hidden_TS = np.asarray(change(original(T, S, first_query), query_T1, key_S))
        blind_T = hidden_TS.all(axis=1)
        hidden_TS[blind_T] = original(T, S, first_query)[blind_T]
        return hidden_TS

    return changing("hidden", hidden)


def _cached(change: Any) -> Any:
    """Change what was cached before attention reads it: change of latent and key -> change."""

    def ops(variant: Variant) -> None:
        def attend(original: Any, qn: Any, qr: Any, latent: Any, key: Any, **kw: Any) -> Any:
            return original(qn, qr, *change(latent, key), **kw)

        replace(variant, "attend_absorbed", attend)
        replace(variant, "attend_expanded", attend)

    return ops


def _fp8(latent_SC: np.ndarray, key_SR: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return latent_SC.astype(ml_dtypes.float8_e4m3fn).astype(latent_SC.dtype), key_SR


def _pages(latent_SC: np.ndarray, key_SR: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read the latents of the next page: all but the last page, shifted by one."""
    whole = len(latent_SC) // PAGE * PAGE
    moved = latent_SC.copy()
    moved[:whole] = np.roll(latent_SC[:whole], -PAGE, axis=0)
    return moved, key_SR


def _stale(latent_SC: np.ndarray, key_SR: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep an evicted token's entry in the second place."""
    latent_SC, key_SR = latent_SC.copy(), key_SR.copy()
    if len(latent_SC) > 1:
        latent_SC[1], key_SR[1] = latent_SC[0], key_SR[0]
    return latent_SC, key_SR


def _swapped(original: Any, w_ML: np.ndarray, heads: int, nope: int) -> Any:
    w_uk_HNC, w_uv_HVC = original(w_ML, heads, nope)
    return w_uv_HVC, w_uk_HNC


def _flat(original: Any, w_ML: np.ndarray, heads: int, nope: int) -> Any:
    M, C = w_ML.shape
    keys, values = w_ML[: heads * nope], w_ML[heads * nope :]
    return keys.reshape(heads, nope, C), values.reshape(heads, M // heads - nope, C)


def _across(original: Any, w_ML: np.ndarray, heads: int, nope: int) -> Any:
    M, C = w_ML.shape
    return original(w_ML.reshape(M // heads, heads, C).swapaxes(0, 1).reshape(M, C), heads, nope)


def _reversed(original: Any, w_ML: np.ndarray, heads: int, nope: int) -> Any:
    w_uk_HNC, w_uv_HVC = original(w_ML, heads, nope)
    return w_uk_HNC[::-1], w_uv_HVC[::-1]


NO_MSCALE = "huggingface/transformers#47435"
BUGS = [
    Bug("scale_nope", "attention", "scale of the nope width alone", model=_scaled(_nope_only)),
    Bug("no_mscale", "attention", "mscale left out", NO_MSCALE,
        ops=changing("yarn_mscale", lambda original, factor, mscale: 1.0),
        model=_scaled(lambda scale, config: scale / _m(config) ** 2)),
    Bug("mscale1", "attention", "mscale once, not squared",
        model=_scaled(lambda scale, config: scale / _m(config))),
    Bug("mask+1", "attention", "a query sees one place too many", "lablup/mlxcel#618",
        ops=_mask(lambda hidden, q, k: k > q + 1)),
    Bug("mask-1", "attention", "a query does not see itself",
        ops=_mask(lambda hidden, q, k: k > q - 1)),
    Bug("window", "attention", "a sliding window",
        ops=_mask(lambda hidden, q, k: hidden | (k <= q - WINDOW))),
    Bug("chunk_gap", "attention", "the last place of each chunk of 16 is lost",
        "kvcache-ai/ktransformers#1579",
        ops=_mask(lambda hidden, q, k: hidden | ((k % 16 == 15) & (k < q)))),
    Bug("decode_mask", "attention", "the prefill's mask while decoding",
        ops=_mask(lambda hidden, q, k: k > q - q[0])),
    Bug("kvb_swap", "attention", "key and value rows exchanged",
        "ikawrakow/ik_llama.cpp#394", ops=changing("split_kv_b", _swapped)),
    Bug("kvb_flat", "attention", "kv_b split flat", "ggml-org/llama.cpp#13094",
        ops=changing("split_kv_b", _flat)),
    Bug("head_T", "attention", "head and row exchanged", ops=changing("split_kv_b", _across)),
    Bug("head_rev", "attention", "heads in reverse", ops=changing("split_kv_b", _reversed)),
    Bug("kv_fp8", "attention", "latents cached in fp8 without scale", "NVIDIA/TensorRT-LLM#16916",
        ops=_cached(_fp8)),
    Bug("page_off", "attention", "page table off by one", ops=_cached(_pages)),
    Bug("stale_kv", "attention", "an evicted entry is still read",
        ops=_cached(_stale)),
]  # fmt: skip
