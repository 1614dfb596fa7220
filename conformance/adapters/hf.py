"""transformers as an engine: a checkpoint in its own classes, every tap through hooks.

`hf:DIR` holds the weights in float32; `hf:DIR,dtype=bfloat16` as most people run them. Packed INT4
experts are unpacked by compressed-tensors in bfloat16. In float32 they come dequantised without
rounding, because the library itself would round experts to bfloat16 whatever dtype it is asked for.
`weights=shipped` takes the library's own way in float32 as well; such an engine declares bf16.

`patch=FILE` runs a Python file first: the changes of a fork.
"""

import contextlib
import inspect
import json
import os
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from conformance.adapters.address import split_address
from conformance.adapters.hf_weights import dequantised_state
from conformance.engine import Info
from k2ref.config import Config, load_config
from k2ref.errors import InputError
from k2ref.numerics import Numerics
from k2ref.trace import Trace, ignore, tap_names

os.environ.setdefault("TQDM_DISABLE", "1")  # bars of the libraries, read when they are imported
try:
    import torch
    import transformers
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as modeling

    from conformance.adapters.hf_ops import OPERATIONS, without_gradients
    from conformance.adapters.torch_arrays import interleave, to_numpy
except ImportError as error:
    raise InputError(
        f"hf: needs torch and transformers ({error}): python -m pip install 'k2ref[peers]'"
    ) from None

transformers.utils.logging.disable_progress_bar()
BATCH = 1000  # prompts drawn from at a time
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class HfEngine:
    """The classes of `deepseek_v3` as an engine; what `load` gives runs a checkpoint in them."""

    def __init__(
        self,
        directory: str = "",
        *,
        dtype: str = "float32",
        weights: str = "exact",
        patch: str = "",
    ) -> None:
        if dtype not in DTYPES:
            raise InputError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        if weights not in ("exact", "shipped"):
            raise InputError(f"weights must be exact or shipped, got {weights!r}")
        if patch:
            runpy.run_path(patch)
        self.checkpoint = Path(directory) if directory else None
        self._dtype, self._shipped = dtype, weights == "shipped" or dtype == "bfloat16"
        self.info = Info(
            "transformers",
            f"{transformers.__version__}, torch {torch.__version__}",
            "bf16" if self._shipped else "f32",
            Numerics(
                dequant="bf16" if self._shipped else "exact",
                rope_dtype="model" if self._shipped else "float32",
                moe_layer_freq="ignored",
            ),
            {"dtype": dtype, "weights": weights, **({"patch": patch} if patch else {})},
        )

    def operation(self, name: str) -> Callable[..., Any] | None:
        """Find an operation: name -> function, None where the library has none."""
        function = OPERATIONS.get(name)
        return None if function is None else without_gradients(function)

    def load(self, directory: Path) -> "HfModel":
        """Load a checkpoint: directory -> model."""
        table = _read_table(directory)
        shipped = self._shipped or "quantization_config" not in table
        build = _load_shipped if shipped else _load_dequantised
        model = build(directory, table, DTYPES[self._dtype]).eval()
        return HfModel(model, load_config(directory))

    def close(self) -> None:
        """Hold nothing."""


def open_hf(address: str, *, precision: str | None = None) -> HfEngine:
    """Open `[DIR][,dtype=…][,weights=…][,patch=FILE]`: address -> engine."""
    dtype = "bfloat16" if precision == "bf16" else "float32"
    directory, options = split_address(address, {"dtype": dtype, "weights": "exact", "patch": ""})
    return HfEngine(directory, **options)


class HfModel:
    """A checkpoint in `DeepseekV3ForCausalLM`. `forward` is that of `k2ref.Model`."""

    def __init__(self, model: Any, config: Config) -> None:
        self.model = model
        self._taps = tap_names(config)

    def new_cache(self) -> Any:
        """Make an empty cache of the library: -> DynamicCache."""
        return transformers.DynamicCache(config=self.model.config)

    def forward(
        self,
        ids_T: np.ndarray,
        position_T: np.ndarray | None = None,
        *,
        cache: Any = None,
        trace: Trace = ignore,
    ) -> np.ndarray:
        """Run tokens through the model, after those in a cache: ids_T, position_T -> logits_TW."""
        before = 0 if cache is None else cache.get_seq_length()
        position_T = before + np.arange(len(ids_T)) if position_T is None else position_T
        continued = {} if cache is None else {_cache_name(self.model): cache}
        found: dict[str, np.ndarray] = {}
        with torch.no_grad(), _recording(self.model, found):
            logits = self.model(
                input_ids=torch.tensor(np.asarray(ids_T)[None]),
                # without a mask, gaps between positions would be read as packed sequences
                attention_mask=torch.ones(1, before + len(ids_T), dtype=torch.long),
                position_ids=torch.tensor(np.asarray(position_T, np.int64)[None]),
                use_cache=cache is not None,
                **continued,
            ).logits[0]
        found["logits"] = logits_TW = to_numpy(logits)
        for name in self._taps:
            if name in found:
                trace(name, found[name])
        return logits_TW

    def forward_batch(self, prompts: list[np.ndarray], *, pad_id: int) -> list[np.ndarray]:
        """Run prompts together, padded on the left as `generate` asks: ids_T each -> logits_TW."""
        width = max(map(len, prompts))
        rows = [np.pad(ids_T, (width - len(ids_T), 0), constant_values=pad_id) for ids_T in prompts]
        seen = [np.arange(width) >= width - len(ids_T) for ids_T in prompts]
        mask = torch.tensor(np.stack(seen).astype(np.int64))
        with torch.no_grad():
            logits = self.model(
                input_ids=torch.tensor(np.stack(rows)),
                attention_mask=mask,
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                use_cache=False,
            ).logits
        return [to_numpy(row[-len(p) :]) for row, p in zip(logits, prompts, strict=True)]

    def generate(
        self,
        ids_T: np.ndarray,
        *,
        max_new: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[int]:
        """Continue a prompt with the library's own sampler: ids_T -> ids."""
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        torch.manual_seed(seed)
        return [int(id_) for id_ in self._continue(ids_T, max_new, **sampling)[0]]

    def first_tokens(
        self, ids_T: np.ndarray, *, count: int, temperature: float, top_p: float, seed: int
    ) -> np.ndarray:
        """Draw the next token many times, a batch at a time: ids_T -> ids_N."""
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        torch.manual_seed(seed)
        batches = [min(BATCH, count - done) for done in range(0, count, BATCH)]
        rows = [self._continue(ids_T, 1, **sampling, num_return_sequences=n) for n in batches]
        return np.concatenate([batch_N1[:, 0] for batch_N1 in rows])

    def _continue(self, ids_T: np.ndarray, max_new: int, **options: Any) -> np.ndarray:
        with torch.no_grad():
            ids = self.model.generate(
                torch.tensor(np.asarray(ids_T)[None]),
                attention_mask=torch.ones(1, len(ids_T), dtype=torch.long),
                max_new_tokens=max_new,
                **options,
                pad_token_id=0,
            )
        return np.asarray(ids[:, len(ids_T) :].numpy())


def _cache_name(model: Any) -> str:
    """Name the argument that takes a cache: version 5.40 renames it."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def _read_table(directory: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((directory / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(f"{directory}: no readable config.json: {error}") from None


def _config(table: dict[str, Any]) -> Any:
    """Make the library's config: table -> config. `kimi_k2` is not registered there."""
    known = {key: value for key, value in table.items() if key not in ("model_type", "auto_map")}
    return transformers.DeepseekV3Config(**known)


def _load_shipped(directory: Path, table: dict[str, Any], dtype: Any) -> Any:
    return transformers.DeepseekV3ForCausalLM.from_pretrained(
        directory,
        config=_config(table),
        dtype=dtype,
        attn_implementation="eager",
    )


def _load_dequantised(directory: Path, table: dict[str, Any], dtype: Any) -> Any:
    plain = {key: value for key, value in table.items() if key != "quantization_config"}
    config = _config(plain)
    config._attn_implementation = config._experts_implementation = "eager"
    with torch.device("meta"):
        model = transformers.DeepseekV3ForCausalLM(config)
    model.to_empty(device="cpu")
    model.load_state_dict(
        {k: torch.from_numpy(a) for k, a in dequantised_state(directory).items()}, strict=True
    )
    # buffers that no checkpoint holds are left empty by `to_empty`
    model.model.rotary_emb = modeling.DeepseekV3RotaryEmbedding(config)
    return model.to(dtype)


@contextlib.contextmanager
def _recording(model: Any, found: dict[str, np.ndarray]) -> Iterator[None]:
    handles: list[Any] = []

    def after(module: Any, *names: str) -> None:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            parts = output if isinstance(output, tuple) else (output,)
            for name, part in zip(names, parts, strict=False):  # attention returns more
                found[name] = to_numpy(part.reshape(-1, part.shape[-1]))

        handles.append(module.register_forward_hook(hook))

    def before(module: Any, name: str) -> None:
        def hook(_module: Any, args: Any) -> None:
            found[name] = to_numpy(args[0].reshape(-1, args[0].shape[-1]))

        handles.append(module.register_forward_pre_hook(hook))

    after(model.model.embed_tokens, "embed")
    for index, layer in enumerate(model.model.layers):
        _hook_layer(f"L{index}.", layer, after, before)
    after(model.model.norm, "final.norm")
    attend = _recording_attention(modeling.eager_attention_forward, found)
    try:
        with mock.patch.object(modeling, "eager_attention_forward", attend):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _hook_layer(
    base: str, layer: Any, after: Callable[..., None], before: Callable[[Any, str], None]
) -> None:
    attention, mlp = layer.self_attn, layer.mlp
    after(layer.input_layernorm, f"{base}attn.norm")
    if attention.q_a_layernorm is not None:
        after(attention.q_a_layernorm, f"{base}attn.q_latent")
    after(attention.kv_a_layernorm, f"{base}attn.latent")
    after(attention, f"{base}attn.out")
    before(layer.post_attention_layernorm, f"{base}attn.residual")
    after(layer.post_attention_layernorm, f"{base}ffn.norm")
    if hasattr(mlp, "gate"):
        names = [f"{base}moe.router.{part}" for part in ("logits", "weights", "experts")]
        after(mlp.gate, *names)
        after(mlp.experts, f"{base}moe.routed")
        after(mlp.shared_experts, f"{base}moe.shared")
    after(mlp, f"{base}ffn.out")
    after(layer, f"{base}out")


def _recording_attention(attend: Callable[..., Any], found: dict[str, np.ndarray]) -> Any:
    def recorded(module: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        base, N = f"L{module.layer_idx}.attn.", module.qk_nope_head_dim
        by_token = query[0].transpose(0, 1)
        found[f"{base}q_nope"] = to_numpy(by_token[:, :, :N])
        found[f"{base}q_rope"] = to_numpy(interleave(by_token[:, :, N:]))
        found[f"{base}k_rope"] = to_numpy(interleave(key[0, 0, :, N:]))
        heads, weights = attend(module, query, key, value, *args, **kwargs)
        found[f"{base}heads"] = to_numpy(heads[0])
        return heads, weights

    return recorded
