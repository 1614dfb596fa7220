"""Files on disk as arrays: safetensors shards, memory-mapped, each tensor a view."""

import json
import math
import mmap
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from k2ref.errors import InputError
from k2ref.tables import read_json

DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
}
READ_BYTES = 1 << 17  # as much of one request as Linux is sure to follow
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class Entry(NamedTuple):
    """Where a tensor lies: its file, type, shape, first byte and size in bytes."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


def find_entries(directory: Path) -> dict[str, Entry]:
    """List every tensor of a checkpoint: directory -> name to entry.

    Raises:
        InputError: no checkpoint, a missing or broken shard, an index that does not fit its shards.
    """
    index = directory / INDEX
    if not index.exists():
        if not (directory / SINGLE).exists():
            raise InputError(f"{directory}: neither {INDEX} nor {SINGLE} is there")
        return read_header(directory / SINGLE)
    weight_map = _read_index(index)
    shards = {name: _shard(index, name) for name in sorted(set(weight_map.values()))}
    for tensor, shard in weight_map.items():
        if tensor not in shards[shard]:
            raise InputError(f"{index}: says that {tensor} is in {shard}, which does not hold it")
    return {tensor: shards[shard][tensor] for tensor, shard in weight_map.items()}


def _read_index(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise InputError(f"{index}: weight_map must be an object, got {weight_map!r}")
    bad = [v for v in weight_map.values() if not isinstance(v, str) or Path(v).name != v]
    if bad:
        raise InputError(f"{index}: shards must be file names in the same folder, got {bad[0]!r}")
    return weight_map


def _shard(index: Path, name: str) -> dict[str, Entry]:
    if not (index.parent / name).exists():
        raise InputError(f"{index}: names the shard {name}, which is not there")
    return read_header(index.parent / name)


def read_header(path: Path) -> dict[str, Entry]:
    """List the tensors of one shard: path -> name to entry. The library checks the file first."""
    try:
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{path}: not a whole safetensors file: {error}") from None
    header.pop("__metadata__", None)
    return {name: _entry(path, name, item, 8 + length) for name, item in header.items()}


def _entry(path: Path, name: str, item: dict[str, Any], data: int) -> Entry:
    if item["dtype"] not in DTYPES:
        raise InputError(f"{path}: {name} has type {item['dtype']}, which is not known here")
    first, last = item["data_offsets"]
    return Entry(path, item["dtype"], tuple(item["shape"]), data + first, last - first)


class Maps:
    """The open memory maps, one per shard."""

    def __init__(self) -> None:
        self._maps: dict[Path, mmap.mmap] = {}

    def map(self, path: Path) -> mmap.mmap:
        """Map a file, once: path -> map."""
        if path not in self._maps:
            with path.open("rb") as file:
                self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if hasattr(mmap, "MADV_RANDOM"):  # nothing is read that nobody asked for
                self._maps[path].madvise(mmap.MADV_RANDOM)
        return self._maps[path]

    def fetch(self, entry: Entry) -> None:
        """Ask for all pages of a tensor at once, without waiting for them: entry."""
        if hasattr(mmap, "MADV_WILLNEED"):  # not every system takes advice
            whole = self.map(entry.path)
            stop = entry.start + entry.nbytes
            start = entry.start // mmap.PAGESIZE * mmap.PAGESIZE
            for first in range(start, stop, READ_BYTES):
                whole.madvise(mmap.MADV_WILLNEED, first, min(READ_BYTES, stop - first))

    def drop(self, entry: Entry) -> None:
        """Let go of a tensor's pages; whoever looks again reads them again: entry."""
        if hasattr(mmap, "MADV_DONTNEED"):
            start = -(-entry.start // mmap.PAGESIZE) * mmap.PAGESIZE
            length = (entry.start + entry.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - start
            if length > 0:  # pages that it shares with its neighbours stay
                self.map(entry.path).madvise(mmap.MADV_DONTNEED, start, length)

    def view(self, entry: Entry) -> np.ndarray:
        """Look at a tensor without reading it: entry -> read-only array of its shape and type."""
        flat = np.frombuffer(
            self.map(entry.path), DTYPES[entry.dtype], math.prod(entry.shape), entry.start
        )
        return flat.reshape(entry.shape)
