"""Synthetic checkpoints in exactly the published format, from tiny to full width.

Every tensor depends on the seed and its own name alone, so that shards can be written one by one,
in any order. All four forms hold the same model: experts are born as INT4 codes and scales, and the
other forms are made from the weights these stand for. `bf16` and `fp8` round them; `int4` and `f32`
are equal.

Weights have the spread 1/sqrt(columns), which keeps activations near one; codes follow a normal
distribution and each group holds one code of 7 or -7, as absmax / 7 quantisation leaves them.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from rich.progress import Progress
from safetensors.numpy import save_file

from k2ref.config import Config, write_config
from k2ref.errors import InputError
from k2ref.oracle.int4 import int4_dequantize
from k2ref.shards import INDEX
from k2ref.tensors import Tensor, tensors

GROUP = 32
SHARD_BYTES = 1 << 30
FORMS = ("int4", "fp8", "bf16", "f32")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT8 = np.dtype(ml_dtypes.float8_e4m3fn)
FLOAT8_MAX = 448  # the largest e4m3 value
_CODE_SPREAD = 2.9  # of 32 normal numbers the largest is about 2.4 spreads, which is code 7


def make_checkpoint(
    directory: Path, config: Config, *, form: str, seed: int, progress: Progress | None = None
) -> None:
    """Write a checkpoint: directory, config, form, seed. The directory appears when it is whole.

    Raises:
        InputError: the directory exists, or the form is unknown.
    """
    if form not in FORMS:
        raise InputError(f"quant must be one of {', '.join(FORMS)}, got {form!r}")
    if directory.exists():
        raise InputError(f"{directory} exists already; give a new directory")
    if config.hidden_size % 8 or config.moe_intermediate_size % 8:
        raise InputError("hidden_size and moe_intermediate_size must be multiples of 8")
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        _write_shards(
            unfinished, config, form=form, seed=seed, progress=progress or Progress(disable=True)
        )
        _write_json(unfinished / "config.json", write_config(config, quant=form))
        _write_json(
            unfinished / "generation_config.json", {"eos_token_id": list(config.eos_token_ids)}
        )
        unfinished.rename(directory)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _write_json(path: Path, table: dict[str, Any]) -> None:
    path.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def _write_shards(
    directory: Path, config: Config, *, form: str, seed: int, progress: Progress
) -> None:
    plan = list(tensors(config))
    task = progress.add_task("writing", total=sum(math.prod(t.shape) for t in plan))
    weight_map: dict[str, str] = {}
    shard: dict[str, np.ndarray] = {}
    number = total = 0

    def flush() -> None:
        nonlocal number, total
        number += 1
        name = f"model-{number:05d}.safetensors"
        save_file(shard, directory / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, name))
        total += sum(a.nbytes for a in shard.values())
        shard.clear()

    for tensor in plan:
        for name, array in stored(config, tensor, form=form, seed=seed):
            shard[config.prefix + name] = array
        progress.advance(task, math.prod(tensor.shape))
        if sum(a.nbytes for a in shard.values()) >= SHARD_BYTES:
            flush()
    if shard:
        flush()
    _write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def stored(
    config: Config, tensor: Tensor, *, form: str, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Make one tensor in the form it is stored in: config, tensor -> names and arrays."""
    random = generator(seed, tensor.name)
    if tensor.linear and ".mlp.experts." in tensor.name:
        yield from _expert(tensor, random, form)
        return
    values = _values(config, tensor, random)
    if tensor.name.endswith("e_score_correction_bias"):
        yield tensor.name, values  # float32 in every published checkpoint
    elif form == "f32":
        yield tensor.name, values.astype(BFLOAT16).astype(np.float32)
    elif form == "fp8" and tensor.linear:
        yield from _fp8(tensor, values.astype(BFLOAT16).astype(np.float32))
    else:
        yield tensor.name, values.astype(BFLOAT16)


def generator(seed: int, name: str) -> np.random.Generator:
    """Make the random stream of one tensor: seed, name -> generator."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def _values(config: Config, tensor: Tensor, random: np.random.Generator) -> np.ndarray:
    values = random.standard_normal(tensor.shape, dtype=np.float32)
    if tensor.name.endswith("norm.weight"):
        return 1 + np.float32(0.1) * values
    if tensor.name.endswith("e_score_correction_bias"):
        return np.float32(0.05) * values
    if tensor.name == "model.embed_tokens.weight":
        return values
    # twice the spread for the head and the router: clear winners, clear margins
    gain = 2.0 if tensor.name == "lm_head.weight" or ".mlp.gate." in tensor.name else 1.0
    return values * np.float32(gain / math.sqrt(tensor.shape[1]))


def _expert(
    tensor: Tensor, random: np.random.Generator, form: str
) -> Iterator[tuple[str, np.ndarray]]:
    packed_MP, scale_MG = _int4(tensor.shape, random)
    if form == "int4":
        yield f"{tensor.module}.weight_packed", packed_MP
        yield f"{tensor.module}.weight_scale", scale_MG
        yield f"{tensor.module}.weight_shape", np.array(tensor.shape, np.int64)
        return
    w_ML = int4_dequantize(packed_MP, scale_MG, tensor.shape[1])
    if form == "fp8":
        yield from _fp8(tensor, w_ML)
    else:
        yield tensor.name, w_ML if form == "f32" else w_ML.astype(BFLOAT16)


def _int4(shape: tuple[int, ...], random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw codes and scales, two codes to a random 16-bit number: shape -> packed_MP, scale_MG."""
    M, L = shape
    G = -(-L // GROUP)
    pairs = _PAIR_TABLE[random.integers(0, 1 << 16, (M, G * GROUP // 2), np.uint16)]
    extreme_MG = random.integers(0, GROUP // 2, (M, G)) + np.arange(G) * (GROUP // 2)
    rows = np.arange(M)[:, None]
    low = np.where(random.integers(0, 2, (M, G)) == 1, 15, 1).astype(np.uint8)  # code 7 or -7
    pairs[rows, extreme_MG] = (pairs[rows, extreme_MG] & 0xF0) | low
    packed_MP = np.ascontiguousarray(pairs[:, : L // 2]).view("<i4")
    spread = 1 / (math.sqrt(L) * _CODE_SPREAD)
    scale_MG = spread * np.exp(0.1 * random.standard_normal((M, G), dtype=np.float32))
    return packed_MP, scale_MG.astype(BFLOAT16)


def _pair_table() -> np.ndarray:
    """Map a 16-bit number to a byte of two codes, each of a normal distribution: -> table uint8."""
    quantiles = (np.arange(256) + 0.5) / 256
    draws = np.sort(np.random.Generator(np.random.Philox(7)).standard_normal(1 << 16))
    normal = draws[(quantiles * len(draws)).astype(int)]
    nibble = (np.clip(np.rint(normal * _CODE_SPREAD), -7, 7) + 8).astype(np.uint8)
    number = np.arange(1 << 16)
    return nibble[number & 255] | (nibble[number >> 8] << 4)


_PAIR_TABLE = _pair_table()


def _fp8(tensor: Tensor, w_ML: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Scale blocks of 128 x 128 to e4m3 and round: w_ML -> weight, weight_scale_inv."""
    M, L = w_ML.shape
    U, J = -(-M // 128), -(-L // 128)
    padded = np.zeros((U * 128, J * 128), np.float32)
    padded[:M, :L] = w_ML
    absmax_UJ = np.abs(padded).reshape(U, 128, J, 128).max(axis=(1, 3))
    scale_UJ = (absmax_UJ / np.float32(FLOAT8_MAX)).astype(np.float32)
    quotient = w_ML / scale_UJ.repeat(128, axis=0).repeat(128, axis=1)[:M, :L]
    yield tensor.name, quotient.astype(FLOAT8)
    yield f"{tensor.module}.weight_scale_inv", scale_UJ
