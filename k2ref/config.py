"""The shape of a model: config.json of the Kimi K2 family, read strictly.

Field names are those of config.json. What would change the arithmetic and is not known here is
refused, because a reference that guesses is none.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from k2ref.errors import InputError
from k2ref.oracle.rope import yarn_mscale
from k2ref.quantization import Quantization, fp8_config, int4_config, read_quantization
from k2ref.tables import Table, child, flag, read_json, real, whole

KIMI_VOCABULARY = 163840
KIMI_STOPS = (163585, 163586)  # [EOS] and <|im_end|>: configs name one, models emit either


@dataclass(frozen=True)
class Rope:
    """Rotary positions: base, and YaRN's numbers (factor 1 means no YaRN)."""

    rope_theta: float
    factor: float = 1.0
    original_max_position_embeddings: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    attention_factor: float | None = None

    @property
    def amplitude(self) -> float:
        """The factor on cosines and sines; 1 for every K2."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return yarn_mscale(self.factor, self.mscale) / yarn_mscale(
                self.factor, self.mscale_all_dim
            )
        return yarn_mscale(self.factor, 1.0)


@dataclass(frozen=True)
class Config:
    """All numbers the forward pass needs, under their names in config.json."""

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    first_k_dense_replace: int
    intermediate_size: int
    moe_intermediate_size: int
    n_routed_experts: int
    num_experts_per_tok: int
    n_shared_experts: int
    num_attention_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    rms_norm_eps: float
    routed_scaling_factor: float
    max_position_embeddings: int
    rope: Rope
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = True
    moe_layer_freq: int = 1
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    prefix: str = ""
    """what every tensor name begins with: `language_model.` from K2.5 on"""
    quantization: Quantization = field(default_factory=Quantization)

    def is_sparse(self, layer: int, *, honour_freq: bool = True) -> bool:
        """Tell whether a layer has experts: layer -> bool."""
        on_beat = layer % self.moe_layer_freq == 0 or not honour_freq
        return layer >= self.first_k_dense_replace and on_beat

    @property
    def stops(self) -> tuple[int, ...]:
        """The ids that end a generation: those the files name, and both of the Kimi vocabulary."""
        kimi = KIMI_STOPS if self.vocab_size == KIMI_VOCABULARY else ()
        return tuple(sorted({*self.eos_token_ids, *kimi}))

    def softmax_scale(self, *, mscale_key: str = "mscale_all_dim") -> float:
        """Compute the factor on attention scores: -> (nope + rope)^-1/2 · m²."""
        width = self.qk_nope_head_dim + self.qk_rope_head_dim
        m = yarn_mscale(self.rope.factor, getattr(self.rope, mscale_key))
        return float(width**-0.5 * m * m)


_REFUSED = {
    "kimi_k3": "Kimi K3 is another architecture (linear attention, 896 experts, MXFP4)",
    "kimi_linear": "Kimi Linear is another architecture (linear attention)",
}
_ACCEPTED = ("kimi_k2", "deepseek_v3", "kimi_k25")
_MUST_BE: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "scoring_func": ("sigmoid",),
    "topk_method": ("noaux_tc",),
    "attention_bias": (False,),
    "rope_interleave": (True,),
}
_MAY_BE_ZERO = ("first_k_dense_replace", "n_shared_experts", "bos_token_id")
_ROPE_KEYS = {f.name for f in dataclasses.fields(Rope)} | {"type", "rope_type", "truncate"}


def read_config(table: Table) -> Config:
    """Read a parsed config.json: table -> Config.

    Raises:
        InputError: a model that is not of the family, a missing key, or a value without meaning
        here.
    """
    kind = table.get("model_type")
    text = child(table, "text_config") or table
    for name in (kind, text.get("model_type")):
        if reason := _REFUSED.get(str(name)):
            raise InputError(f"model_type {name}: {reason}; this reads the K2 family only")
    if kind not in _ACCEPTED or text.get("model_type") not in _ACCEPTED:
        raise InputError(f"model_type must be one of {', '.join(_ACCEPTED)}, got {kind!r}")
    for key, allowed in _MUST_BE.items():
        if text.get(key, allowed[0]) not in allowed:
            raise InputError(f"{key} must be {allowed[0]!r}, got {text[key]!r}")
    values = {f.name: _value(text, f) for f in _plain_fields()}
    quantized = child(text, "quantization_config") or child(table, "quantization_config")
    config = Config(
        **values,
        model_type=kind,
        rope=_read_rope(text),
        eos_token_ids=_merge(text.get("eos_token_id"), table.get("eos_token_id")),
        prefix="language_model." if "text_config" in table else "",
        quantization=read_quantization(quantized),
    )
    _check(config)
    return config


def load_config(directory: Path) -> Config:
    """Read config.json and the stop ids of generation_config.json: directory -> Config."""
    config = read_config(read_json(directory / "config.json"))
    generation = directory / "generation_config.json"
    if not generation.exists():
        return config
    stops = _merge(list(config.eos_token_ids), read_json(generation).get("eos_token_id"))
    return dataclasses.replace(config, eos_token_ids=stops)


def _plain_fields() -> list[dataclasses.Field]:
    special = {"model_type", "rope", "eos_token_ids", "prefix", "quantization"}
    return [f for f in dataclasses.fields(Config) if f.name not in special]


def _value(text: Table, wanted: dataclasses.Field) -> Any:
    name, value = wanted.name, text.get(wanted.name, wanted.default)
    if value is dataclasses.MISSING:
        raise InputError(f"config.json has no key {name!r}")
    if wanted.type == int | None and value is None:
        return None
    if wanted.type is bool:
        return flag(name, value)
    if wanted.type is float:
        return real(name, value)
    return whole(name, value, least=0 if name in _MAY_BE_ZERO else 1)


def _merge(*values: Any) -> tuple[int, ...]:
    """Join token ids given as one, as a list or not at all: values -> ids without repetition."""
    lists = [v if isinstance(v, list) else [] if v is None else [v] for v in values]
    ids = [whole("eos_token_id", id_, least=0) for ids in lists for id_ in ids]
    return tuple(dict.fromkeys(ids))


def _read_rope(text: Table) -> Rope:
    table = child(text, "rope_scaling") or child(text, "rope_parameters")
    kind = table.get("rope_type") or table.get("type") or "default"
    base = table.get("rope_theta") or text.get("rope_theta")
    if base is None:
        raise InputError(
            "config.json has no key 'rope_theta', neither beside nor in rope_parameters"
        )
    if kind == "default":
        return Rope(_positive("rope_theta", base))
    if kind != "yarn":
        raise InputError(f"rope type must be yarn or default, got {kind!r}")
    if unknown := set(table) - _ROPE_KEYS:
        raise InputError(f"YaRN keys without meaning here: {', '.join(sorted(unknown))}")
    if table.get("truncate") is False:
        raise InputError(
            "YaRN with truncate false has other frequencies; it must be true or absent"
        )
    amplitude = table.get("attention_factor")
    return Rope(
        _positive("rope_theta", base),
        factor=_positive("YaRN's factor", table.get("factor")),
        original_max_position_embeddings=whole(
            "YaRN's original_max_position_embeddings", table.get("original_max_position_embeddings")
        ),
        beta_fast=real("beta_fast", table.get("beta_fast") or 32),
        beta_slow=real("beta_slow", table.get("beta_slow") or 1),
        mscale=real("mscale", table.get("mscale") or 0),
        mscale_all_dim=real("mscale_all_dim", table.get("mscale_all_dim") or 0),
        attention_factor=None if amplitude is None else real("attention_factor", amplitude),
    )


def _positive(name: str, value: Any) -> float:
    if not real(name, value):
        raise InputError(f"{name} must be positive, got {value!r}")
    return float(value)


def _check(config: Config) -> None:
    groups, experts = config.n_group, config.n_routed_experts
    if experts % groups:
        raise InputError(f"n_routed_experts {experts} must be a multiple of n_group {groups}")
    if config.topk_group > groups:
        raise InputError(f"topk_group {config.topk_group} must be at most n_group {groups}")
    if config.num_experts_per_tok > experts // groups * config.topk_group:
        raise InputError(
            f"num_experts_per_tok {config.num_experts_per_tok} must be at most the "
            f"{experts // groups * config.topk_group} experts of the kept groups"
        )
    if config.qk_rope_head_dim % 2:
        raise InputError(f"qk_rope_head_dim must be even, got {config.qk_rope_head_dim}")


def write_config(config: Config, *, quant: str) -> dict[str, Any]:
    """Write the config.json of a synthetic checkpoint: config, int4|fp8|bf16|f32 -> table."""
    table: Table = {f.name: getattr(config, f.name) for f in _plain_fields()}
    rope = dataclasses.asdict(config.rope)
    table["rope_theta"] = rope.pop("rope_theta")
    if config.rope.factor != 1.0:
        table["rope_scaling"] = {k: v for k, v in rope.items() if v is not None} | {"type": "yarn"}
    table |= {key: allowed[0] for key, allowed in _MUST_BE.items() if key != "rope_interleave"}
    table |= {
        "architectures": ["DeepseekV3ForCausalLM"],
        "eos_token_id": list(config.eos_token_ids) or None,
        "ep_size": 1,
        "initializer_range": 0.02,
        "model_type": "kimi_k2" if config.prefix else config.model_type,
        "num_key_value_heads": config.num_attention_heads,
        "num_nextn_predict_layers": 0,
        "torch_dtype": "float32" if quant == "f32" else "bfloat16",
        "use_cache": True,
    }
    if quant in ("int4", "fp8"):
        table["quantization_config"] = int4_config() if quant == "int4" else fp8_config()
    if not config.prefix:
        return table
    outer = {"architectures": ["KimiK25ForConditionalGeneration"], "model_type": config.model_type}
    return {**outer, "eos_token_id": table["eos_token_id"], "text_config": table}
