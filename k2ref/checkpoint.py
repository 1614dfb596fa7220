"""A checkpoint as it lies on disk: opened lazily, checked against its config, read when used.

Nothing is converted when a weight is handed out: bfloat16 stays bfloat16, INT4 stays packed, FP8
keeps its scales. Arrays are views of memory-mapped files, so that only the experts that tokens were
routed to are ever read.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from k2ref.config import Config, load_config
from k2ref.errors import InputError
from k2ref.oracle.moe import Expert
from k2ref.oracle.weights import Fp8, Int4, Weight
from k2ref.shards import Entry, Maps, find_entries
from k2ref.streaming import Residency, check_limit, following
from k2ref.tensors import Tensor, tensors

FLOATS = ("BF16", "F32", "F16", "F64")
INTEGERS = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8")


class Checkpoint:
    """The tensors of a directory, named as in the text model without the prefix of K2.5."""

    def __init__(self, directory: str | Path, *, memory_bytes: int | None = None) -> None:
        """Open and check a checkpoint: directory -> Checkpoint.

        `memory_bytes` limits the weights that stay in memory; those used earliest are let go.

        Raises:
            InputError: a broken file, or tensors that do not fit config.json.
        """
        self.directory = Path(directory)
        self.config: Config = load_config(self.directory)
        found = find_entries(self.directory)
        prefix = self.config.prefix
        self._entries = {n[len(prefix) :]: e for n, e in found.items() if n.startswith(prefix)}
        self._shapes = {t.module: t.shape for t in tensors(self.config) if t.linear}
        self._parts = self._group()
        self._maps = Maps()
        self.residency = Residency(self._maps, memory_bytes)
        self.bytes_read: Counter[str] = Counter()
        """bytes of every tensor that was handed out, once however often it was asked for"""
        for tensor in tensors(self.config):
            self._check(tensor)
            if tensor.name.endswith("e_score_correction_bias"):
                self._check_bias(tensor.name)
        if memory_bytes is not None:
            check_limit(memory_bytes, self._largest_part())

    def __getitem__(self, name: str) -> np.ndarray:
        """Look at a tensor as it is stored: name -> read-only array."""
        entry = self.entry(name)
        self.bytes_read[name] = entry.nbytes
        return self._maps.view(entry)

    def _whole(self, name: str) -> np.ndarray:
        self.residency.ask(self.entry(name))
        return self[name]

    def row_blocks(self, name: str, rows: int) -> Iterator[np.ndarray]:
        """Look at a matrix some rows at a time, the next ones asked for: name, rows -> blocks."""
        entry = self.entry(name)
        self.bytes_read[name] = entry.nbytes
        row_bytes = entry.nbytes // entry.shape[0]
        blocks = [
            entry._replace(
                shape=(min(rows, entry.shape[0] - first), *entry.shape[1:]),
                start=entry.start + first * row_bytes,
                nbytes=min(rows, entry.shape[0] - first) * row_bytes,
            )
            for first in range(0, entry.shape[0], rows)
        ]
        for block, after in zip(blocks, [*blocks[1:], blocks[-1]], strict=True):
            self.residency.ask(block)
            self.residency.ask(after)
            yield self._maps.view(block)

    def read_ahead(self, module: str) -> None:
        """Ask for all tensors of a module, to be used soon: module."""
        for entry in self._parts[module]:
            self.residency.ask(entry)

    def _group(self) -> dict[str, list[Entry]]:
        """Sort the tensors of layers by what uses them: -> module of a part to entries."""
        parts: dict[str, list[Entry]] = defaultdict(list)
        for name, entry in self._entries.items():
            if name.startswith("model.layers."):
                parts[".".join(name.split(".")[:-2])].append(entry)
        return parts

    def _largest_part(self) -> int:
        """Find the most bytes that are used as a whole: a feed-forward network, or attention."""
        return max(sum(e.nbytes for e in part) for part in self._parts.values())

    def entry(self, name: str) -> Entry:
        """Find where a tensor lies: name -> entry."""
        if name not in self._entries:
            raise InputError(f"{self.directory}: no tensor {self.config.prefix}{name}")
        return self._entries[name]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors of the text model on disk."""
        return sum(entry.nbytes for entry in self._entries.values())

    def weight(self, module: str) -> Weight:
        """Look at a linear module's weight as it is stored: module -> dense, Int4 or Fp8."""
        if self._is_packed(module):
            self._check_packed_shape(module)
            size = self.config.quantization.int4_group_size(self.config.prefix + module)
            assert size is not None  # checked when the checkpoint was opened
            packed_MP = self._whole(f"{module}.weight_packed")
            scale_MG = self._whole(f"{module}.weight_scale")
            return Int4(packed_MP, scale_MG, size, columns=self._shapes[module][1])
        if f"{module}.weight_scale_inv" in self._entries:
            block = self.config.quantization.block
            scale_UJ = self._whole(f"{module}.weight_scale_inv")
            return Fp8(self._whole(f"{module}.weight"), scale_UJ, block)
        return self._whole(f"{module}.weight")

    def feed_forward(self, module: str) -> Expert:
        """Look at the three weights of a feed-forward network: module -> Expert."""
        return Expert(*(self.weight(f"{module}.{part}_proj") for part in ("gate", "up", "down")))

    def experts(self, layer: int, order: Iterable[int] = ()) -> "LayerExperts":
        """Hand out the routed experts of a layer when asked for: layer -> experts by index.

        `order` says which will be asked for, in increasing order, so that they are read ahead.
        """
        return LayerExperts(self, layer, order)

    def _is_packed(self, module: str) -> bool:
        return f"{module}.weight_packed" in self._entries

    def _check(self, tensor: Tensor) -> None:
        if tensor.linear and self._is_packed(tensor.module):
            self._check_int4(tensor)
            return
        if tensor.linear and self._expects_int4(tensor.module):
            raise InputError(
                f"{self.directory}: config.json says {tensor.module} is INT4, "
                f"but there is no {self.config.prefix}{tensor.module}.weight_packed"
            )
        scale = f"{tensor.module}.weight_scale_inv"
        if tensor.linear and scale in self._entries:
            rows, columns = self.config.quantization.block
            M, L = tensor.shape
            self._expect(tensor.name, tensor.shape, ("F8_E4M3",))
            self._expect(scale, (-(-M // rows), -(-L // columns)), FLOATS)
            return
        self._expect(tensor.name, tensor.shape, FLOATS)

    def _expects_int4(self, module: str) -> bool:
        return self.config.quantization.int4_group_size(self.config.prefix + module) is not None

    def _check_int4(self, tensor: Tensor) -> None:
        module, (M, L) = tensor.module, tensor.shape
        size = self.config.quantization.int4_group_size(self.config.prefix + module)
        if size is None:
            raise InputError(
                f"{self.directory}: {module} is packed INT4, but config.json does not quantise it"
            )
        self._expect(f"{module}.weight_packed", (M, -(-L // 8)), ("I32",))
        self._expect(f"{module}.weight_scale", (M, -(-L // size)), FLOATS)
        self._expect(f"{module}.weight_shape", (2,), INTEGERS)

    def _expect(self, name: str, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> None:
        entry = self.entry(name)
        if entry.shape != shape:
            wanted, found = list(shape), list(entry.shape)
            raise InputError(f"{entry.path}: {name} must have shape {wanted}, found {found}")
        if entry.dtype not in dtypes:
            wanted_types = " or ".join(dtypes)
            raise InputError(f"{entry.path}: {name} must be {wanted_types}, found {entry.dtype}")

    def _check_packed_shape(self, module: str) -> None:
        name = f"{module}.weight_shape"
        found, wanted = [int(n) for n in self[name]], list(self._shapes[module])
        if found != wanted:
            raise InputError(f"{self.entry(name).path}: {name} must say {wanted}, it says {found}")

    def _check_bias(self, name: str) -> None:
        if not np.isfinite(self._maps.view(self.entry(name)).astype(np.float64)).all():
            path = self.entry(name).path
            raise InputError(f"{path}: {name} must be finite, found NaN or infinity")


class LayerExperts:
    """The routed experts of one layer, each looked at when it is asked for."""

    def __init__(self, checkpoint: Checkpoint, layer: int, order: Iterable[int] = ()) -> None:
        self.checkpoint = checkpoint
        self.base = f"model.layers.{layer}.mlp.experts"
        self.order = tuple(order)

    def __getitem__(self, expert: int) -> Expert:
        """Look at one expert, and ask for the next ones: index -> Expert."""
        found = self.checkpoint.feed_forward(f"{self.base}.{expert}")
        for later in following(self.order, expert):
            self.checkpoint.read_ahead(f"{self.base}.{later}")
        return found
