"""mlx-lm on the CPU as an engine: the shipped INT4 directory, unmodified, in its own classes.

`mlx:DIR` raises what is not packed to float32; INT4 stays packed, exactly. mlx-lm counts positions
from an offset; its rotation takes one offset for each row of a batch, which here are the tokens, so
that positions may be scattered. A stream of mlx belongs to a thread: all calls go to one.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from conformance.adapters.address import split_address
from conformance.engine import Info, NotOffered
from k2ref.config import Config, load_config
from k2ref.errors import InputError
from k2ref.numerics import Numerics
from k2ref.trace import Trace, ignore, tap_names

try:
    import mlx.core as mx
    import mlx_lm
    from mlx_lm.models.base import create_causal_mask
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import load_model

    from conformance.adapters.mlx_ops import OPERATIONS
except ImportError as error:
    raise InputError(
        f"mlx: needs mlx-lm ({error}): python -m pip install 'k2ref[peers-mlx]'"
    ) from None

mx.set_default_device(mx.cpu)


class MlxEngine:
    """The classes of `deepseek_v3` in mlx-lm."""

    def __init__(self, directory: str = "") -> None:
        self.checkpoint = Path(directory) if directory else None
        self._thread = ThreadPoolExecutor(1)
        self.info = Info(
            "mlx-lm",
            f"{mlx_lm.__version__}, mlx {mx.__version__}",
            "f32",
            Numerics(renorm_eps="0", renorm_single="no", mask_fill="0"),
        )

    def operation(self, name: str) -> Callable[..., Any] | None:
        """Find an operation: name -> function, None where the library has none."""
        function = OPERATIONS.get(name)
        return None if function is None else partial(self._call, function)

    def load(self, directory: Path) -> "MlxModel":
        """Load a checkpoint: directory -> model."""
        return MlxModel(self._call(_load, directory), load_config(directory), self._call)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self._thread.submit(function, *args, **kwargs).result()


def _load(directory: Path) -> Any:
    model, _ = load_model(directory, model_config={"model_type": "deepseek_v3"})
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return model


def open_mlx(address: str, *, precision: str | None = None) -> MlxEngine:
    """Open `[DIR]`: address -> engine."""
    directory, _ = split_address(address, {})
    if precision not in (None, "f32"):
        raise InputError(f"mlx: runs in f32 on the CPU, got {precision}")
    return MlxEngine(directory)


class MlxModel:
    """A checkpoint in mlx-lm. `forward` is that of `k2ref.Model`."""

    def __init__(self, model: Any, config: Config, call: Callable[..., Any]) -> None:
        self.model, self.config, self._call = model, config, call
        rope = model.model.layers[0].self_attn.rope
        # the library's own table differs from the published bytes by an ulp in some entries, which
        # is 0.004 rad at position 262,143: the reference rotates with this one
        self.inv_freq_Z = call(_frequencies, rope) if hasattr(rope, "_freqs") else None

    def new_cache(self) -> "_Own":
        """Make an empty cache of the library: -> cache."""
        return _Own(self._call(make_prompt_cache, self.model), self._call)

    def forward(
        self,
        ids_T: np.ndarray,
        position_T: np.ndarray | None = None,
        *,
        cache: "_Own | None" = None,
        trace: Trace = ignore,
    ) -> np.ndarray:
        """Run tokens through the model: ids_T, position_T -> logits_TW float32."""
        if cache is not None:
            return np.asarray(
                self._call(self._continue, np.asarray(ids_T), position_T, cache.parts)
            )
        position_T = np.arange(len(ids_T)) if position_T is None else np.asarray(position_T)
        found: dict[str, np.ndarray] = self._call(self._record, np.asarray(ids_T), position_T)
        for name in [n for n in found if n.endswith("attn.heads")]:
            found[name] = found[name].reshape(len(ids_T), self.config.num_attention_heads, -1)
        for name in tap_names(self.config):
            if name in found:
                trace(name, found[name])
        return found["logits"]

    def _continue(
        self, ids_T: np.ndarray, position_T: np.ndarray | None, parts: list[Any]
    ) -> np.ndarray:
        counted_T = parts[0].offset + np.arange(len(ids_T))
        if position_T is not None and not np.array_equal(position_T, counted_T):
            raise NotOffered("mlx-lm's cache counts positions on from its last one")
        return to_numpy(self.model(mx.array(ids_T[None]), cache=parts)[0])

    def _record(self, ids_T: np.ndarray, position_T: np.ndarray) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        layers = range(self.config.num_hidden_layers)
        cache = [_Apart(position_T, f"L{layer}.attn.", found) for layer in layers]
        with _recording(self.model, self.config, found):
            found["logits"] = to_numpy(self.model(mx.array(ids_T[None]), cache=cache)[0])
        return found

    def generate(
        self, ids_T: np.ndarray, *, max_new: int, temperature: float = 0.0, **_options: float
    ) -> list[int]:
        """Continue a prompt greedily with a cache: ids_T -> ids."""
        if temperature > 0:
            raise NotOffered("mlx-lm's sampler cuts by top-p before the temperature; greedy only")
        return list(self._call(self._generate, ids_T, max_new))

    def _generate(self, ids_T: np.ndarray, max_new: int) -> list[int]:
        cache, ids = make_prompt_cache(self.model), [int(i) for i in ids_T]
        found: list[int] = []
        while len(found) < max_new:
            logits_W = self.model(mx.array([ids]), cache=cache)[0, -1]
            ids = [int(mx.argmax(logits_W).item())]
            found += ids
            if ids[0] in self.config.stops:
                break
        return found


def _frequencies(rope: Any) -> np.ndarray:
    return np.float32(1) / to_numpy(rope._freqs)


def to_numpy(array: Any) -> np.ndarray:
    """Copy an array out of mlx: array -> array."""
    return np.array(array)


class _Own:
    """A cache of the library, and what it holds."""

    def __init__(self, parts: list[Any], call: Callable[..., Any]) -> None:
        self.parts, self._call = parts, call

    def rows(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """Look at what a layer holds: layer -> latent_SC, key_rope_SR."""
        part = self.parts[layer]

        def held(array: Any) -> np.ndarray:
            return np.asarray(self._call(lambda: to_numpy(array[0, 0, : part.offset])))

        return held(part.keys), held(part.values)


class _Apart:
    """A cache that knows positions and holds nothing from before; it sees what is cached."""

    def __init__(self, position_T: np.ndarray, base: str, found: dict[str, np.ndarray]) -> None:
        self.offset = mx.array(position_T.astype(np.int32))
        self._base, self._found = base, found

    def make_mask(self, count: int, **_options: Any) -> Any:
        """Hide later tokens: count -> mask_TS."""
        return create_causal_mask(count)

    def update_and_fetch(self, latent: Any, key_rope: Any) -> tuple[Any, Any]:
        """See what would be cached, and hand it back."""
        self._found[f"{self._base}latent"] = to_numpy(latent[0, 0])
        self._found[f"{self._base}k_rope"] = to_numpy(key_rope[0, 0])
        return latent, key_rope


class _Watched:
    """A module that shows what goes in and comes out."""

    def __init__(self, module: Any, see: Callable[[Any, Any], None]) -> None:
        self._module, self._see = module, see

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        out = self._module(x, *args, **kwargs)
        self._see(x, out)
        return out

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _RowByRow:
    """A rotation that takes the tokens as rows of a batch, each with its own offset."""

    def __init__(self, rope: Any) -> None:
        self._rope = rope

    def __call__(self, x: Any, offset: Any) -> Any:
        return self._rope(x.transpose(2, 1, 0, 3), offset).transpose(2, 1, 0, 3)


@contextmanager
def _recording(model: Any, config: Config, found: dict[str, np.ndarray]) -> Iterator[None]:
    """Watch every module that has a tap, by its name in its parent."""
    undo: list[tuple[Any, str, Any]] = []

    def watch(parent: Any, name: str, **taps: str) -> None:
        def see(x: Any, out: Any) -> None:
            for side, array in (("before", x), ("after", out)):
                if side in taps:
                    found[taps[side]] = to_numpy(array.reshape(-1, array.shape[-1]))
            if "queries" in taps:
                _split_query(config, taps["queries"], out, found)
            if "rotated" in taps and out.shape[1] > 1:  # the key has one head
                found[taps["rotated"]] = to_numpy(out[0].transpose(1, 0, 2))
            if "routing" in taps:
                for part, array in zip(("experts", "weights"), out, strict=True):
                    found[f"{taps['routing']}.{part}"] = to_numpy(array[0])

        module = getattr(parent, name)
        undo.append((parent, name, module))
        setattr(parent, name, _Watched(_RowByRow(module) if name == "rope" else module, see))

    watch(model.model, "embed_tokens", after="embed")
    last = config.num_hidden_layers - 1
    watch(model.model, "norm", before=f"L{last}.out", after="final.norm")
    for index, layer in enumerate(list(model.model.layers)):
        _watch_layer(index, layer, watch)
    try:
        yield
    finally:
        for parent, name, module in reversed(undo):
            setattr(parent, name, module)


def _watch_layer(index: int, layer: Any, watch: Callable[..., None]) -> None:
    base, attention, mlp = f"L{index}.", layer.self_attn, layer.mlp
    previous = {"before": f"L{index - 1}.out"} if index else {}
    watch(layer, "input_layernorm", after=f"{base}attn.norm", **previous)
    if hasattr(attention, "q_a_layernorm"):
        watch(attention, "q_a_layernorm", after=f"{base}attn.q_latent")
    query = "q_b_proj" if hasattr(attention, "q_b_proj") else "q_proj"
    watch(attention, query, queries=f"{base}attn.")
    watch(attention, "rope", rotated=f"{base}attn.q_rope")
    watch(attention, "o_proj", before=f"{base}attn.heads", after=f"{base}attn.out")
    watch(
        layer,
        "post_attention_layernorm",
        before=f"{base}attn.residual",
        after=f"{base}ffn.norm",
    )
    if hasattr(mlp, "gate"):
        watch(mlp, "gate", routing=f"{base}moe.router")
        watch(mlp, "shared_experts", after=f"{base}moe.shared")
    watch(layer, "mlp", after=f"{base}ffn.out")


def _split_query(config: Config, base: str, query: Any, found: dict[str, np.ndarray]) -> None:
    by_head = query.reshape(
        -1, config.num_attention_heads, query.shape[-1] // config.num_attention_heads
    )
    found[f"{base}q_nope"] = to_numpy(by_head[:, :, : config.qk_nope_head_dim])
