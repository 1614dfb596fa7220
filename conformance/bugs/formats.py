"""Bugs of the packed format: nibbles, offsets, scales, groups."""

from typing import Any

import numpy as np

from conformance.bugs import Bug, changing
from k2ref.oracle import int4_quantize
from k2ref.oracle.floats import round_bfloat16


def _words(change: Any) -> Any:
    """Apply a change to the codes of whole words: change of [M, words, 8] -> method change."""

    def unpack(original: Any, packed_MP: np.ndarray, columns: int) -> np.ndarray:
        codes = original(packed_MP, 8 * packed_MP.shape[1]).reshape(len(packed_MP), -1, 8)
        changed: np.ndarray = change(codes).reshape(len(packed_MP), -1)
        return changed[:, :columns]

    return changing("int4_unpack", unpack)


def _scales(change: Any) -> Any:
    """Apply a change to the scales before they are used: change of [M, G] -> method change."""

    def dequantize(original: Any, packed: Any, scale_MG: Any, columns: int, **kw: Any) -> Any:
        return original(packed, change(scale_MG), columns, **kw)

    return changing("int4_dequantize", dequantize)


def _weights(change: Any) -> Any:
    def dequantize(original: Any, packed: Any, scale_MG: Any, columns: int, **kw: Any) -> Any:
        return change(original(packed, scale_MG, columns, **kw), scale_MG, **kw)

    return changing("int4_dequantize", dequantize)


def _group(size: int) -> Any:
    def dequantize(original: Any, packed: Any, scale_MG: Any, columns: int, **kw: Any) -> Any:
        groups = -(-columns // size)
        padded = np.pad(scale_MG, ((0, 0), (0, max(0, groups - scale_MG.shape[1]))), mode="edge")
        return original(packed, padded, columns, **{**kw, "group_size": size})

    return changing("int4_dequantize", dequantize)


def _four_bits(scale_MG: np.ndarray) -> np.ndarray:
    mantissa, exponent = np.frexp(scale_MG.astype(np.float32))
    return np.ldexp(np.round(mantissa * 16) / 16, exponent)


def _drop_tail(w_ML: np.ndarray, scale_MG: np.ndarray, *, group_size: int = 32, **_: Any) -> Any:
    w_ML = w_ML.copy()
    w_ML[:, (scale_MG.shape[1] - 1) * group_size :] = 0
    return w_ML


def _requantise(w_ML: np.ndarray, _scale: np.ndarray, **_kw: Any) -> np.ndarray:
    codes_ML, scale_MG = int4_quantize(w_ML, group_size=128)
    return np.asarray(codes_ML * np.repeat(scale_MG, 128, axis=1)[:, : w_ML.shape[1]])


def _odd_tail(w_ML: np.ndarray, scale_MG: np.ndarray, **_: Any) -> np.ndarray:
    if w_ML.shape[1] % 8 == 0:
        return w_ML
    w_ML = w_ML.copy()
    w_ML[:, -1] -= 8 * scale_MG[:, -1].astype(w_ML.dtype)
    return w_ML


def _transposed(scale_MG: np.ndarray) -> np.ndarray:
    return scale_MG.reshape(scale_MG.shape[::-1]).T


def _first_shard(scale_MG: np.ndarray) -> np.ndarray:
    half = scale_MG.shape[1] // 2
    return scale_MG if half == 0 else np.resize(scale_MG[:, :half].T, scale_MG.shape[::-1]).T


def _seven_and_a_half(original: Any, w_ML: np.ndarray, *, rule: str = "k2", **kw: Any) -> Any:
    return original(w_ML, rule="compressed-tensors", **kw)


def _no_round(original: Any, w_ML: np.ndarray, **kw: Any) -> Any:
    codes_ML, scale_MG = original(w_ML, **kw)
    return codes_ML, round_bfloat16(scale_MG * np.float32(8 / 7))


BUGS = [
    Bug("nib_rev", "format", "nibbles of a word reversed", "ggml-org/llama.cpp#17083",
        ops=_words(lambda c: c[:, :, ::-1])),
    Bug("nib_swap", "format", "neighbouring nibbles exchanged", "kvcache-ai/ktransformers#2067",
        ops=_words(lambda c: c.reshape(len(c), -1, 2)[:, :, ::-1])),
    Bug("no_offset", "format", "codes 0 to 15", "sgl-project/sglang-jax#1637",
        ops=_words(lambda c: c + 8)),
    Bug("off7", "format", "offset 7", ops=_words(lambda c: c + 1)),
    Bug("twos", "format", "nibbles read as two's complement",
        ops=_words(lambda c: np.where(c < 0, c + 8, c - 8))),
    Bug("zp_twice", "format", "the zero point subtracted twice",
        ops=_words(lambda c: c - 8)),
    Bug("scale_shift", "format", "the next group's scale", "vllm-project/vllm#41511",
        ops=_scales(lambda s: np.roll(s, -1, axis=1))),
    Bug("scale_T", "format", "scales read transposed", "sgl-project/sglang-jax#1637",
        ops=_scales(_transposed)),
    Bug("square_T", "format", "scales read transposed where square",
        ops=_scales(lambda s: s.T if s.shape[0] == s.shape[1] else s)),
    Bug("tp_scale", "format", "a shard along the columns keeps the first scales",
        "kvcache-ai/ktransformers#2076", ops=_scales(_first_shard)),
    Bug("scale_fp8", "format", "scales rounded to 4 bits", ops=_scales(_four_bits)),
    Bug("g64", "format", "group 64 for 32", "JustVugg/colibri#289", ops=_group(64)),
    Bug("fixed_g32", "format", "group 32 whatever the config says", "tenstorrent/tt-metal#48443",
        ops=_group(32)),
    Bug("drop_tail", "format", "the last group is zero", ops=_weights(_drop_tail)),
    Bug("requant128", "format", "requantised to groups of 128", ops=_weights(_requantise)),
    Bug("pad_as_code", "format", "the padding nibble counts as -8",
        "huggingface/transformers#47315", ops=_weights(_odd_tail)),
    Bug("absmax_7.5", "format", "the other quantiser's scale", "alibaba/rtp-llm#942",
        ops=changing("int4_quantize", _seven_and_a_half)),
    Bug("absmax_8th", "format", "scale = absmax / -8", "ggml-org/llama.cpp#17064",
        ops=changing("int4_quantize", _no_round)),
]  # fmt: skip
