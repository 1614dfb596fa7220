"""config.json: what is read, and what is refused with which sentence."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2ref import config as configs
from k2ref import presets
from k2ref.config import read_config, write_config
from k2ref.errors import InputError
from k2ref.numerics import Numerics, parse_numerics, questions
from k2ref.presets import K2_5, K2_INSTRUCT, K2_THINKING, NANO, PRESETS
from k2ref.quantization import int4_config, read_quantization
from k2ref.spec import read_toml
from k2ref.tensors import parameters

QUANT = {"K2_INSTRUCT": "fp8", "K2_THINKING": "int4", "K2_5": "int4"}
NANO_JSON = json.loads(json.dumps(write_config(NANO, quant="int4")))


def changed(**values: Any) -> dict[str, Any]:
    return {**NANO_JSON, **values}


def yarn(**values: Any) -> dict[str, Any]:
    return changed(rope_scaling={**NANO_JSON["rope_scaling"], **values})


@pytest.mark.parametrize("name", QUANT)
def test_the_presets_say_what_the_facts_say(name: str) -> None:
    preset = getattr(presets, name)
    facts = {**read_toml("facts.toml")["common"], **read_toml("facts.toml")[name]}
    strings = {"topk_method", "scoring_func", "hidden_act", "quant_method"}
    assert {"int4": "compressed-tensors", "fp8": "fp8"}[preset.quantization.method] == facts[
        "quant_method"
    ]["value"]
    for key, fact in facts.items():
        assert fact["source"]
        if key == "eos_token_id":
            assert preset.eos_token_ids == (fact["value"],)
        elif key not in strings:
            holder = preset if hasattr(preset, key) else preset.rope
            assert getattr(holder, key) == fact["value"], key


def test_the_derived_facts_follow_from_the_preset() -> None:
    derived = {key: fact["value"] for key, fact in read_toml("facts.toml")["derived"].items()}
    total, active = parameters(K2_THINKING)
    assert (total, active) == (derived["parameters"], derived["active_parameters"])
    experts = 60 * 384 * 3 * 7168 * 2048
    assert experts // 2 + experts // 32 * 2 == derived["int4_expert_bytes"]
    cached = K2_THINKING.kv_lora_rank + K2_THINKING.qk_rope_head_dim
    assert cached == derived["cache_values_per_token_and_layer"]
    for preset, factor in ((K2_INSTRUCT, 32), (K2_THINKING, 64), (K2_5, 64)):
        wanted = derived[f"softmax_scale_factor_{factor}"]
        assert f"{preset.softmax_scale():.12f}" == f"{wanted:.12f}"
        assert preset.rope.amplitude == 1


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("quant", ["int4", "fp8", "bf16", "f32"])
def test_a_written_config_reads_as_the_preset(name: str, quant: str) -> None:
    read = read_config(json.loads(json.dumps(write_config(PRESETS[name], quant=quant))))
    method = quant if quant in ("int4", "fp8") else "none"
    assert read.quantization.method == method
    assert dataclasses.replace(read, quantization=PRESETS[name].quantization) == PRESETS[name]


def test_both_spellings_of_rope_read_alike() -> None:
    table = changed(rope_theta=None, rope_scaling=None)
    table["rope_parameters"] = {
        **NANO_JSON["rope_scaling"],
        "rope_type": "yarn",
        "rope_theta": 50000.0,
    }
    assert read_config(table) == read_config(NANO_JSON)


def test_missing_betas_get_the_defaults_of_the_published_code() -> None:
    rope = read_config(yarn(beta_fast=None, beta_slow=0)).rope
    assert (rope.beta_fast, rope.beta_slow) == (32, 1)


def test_no_rope_scaling_means_plain_rope() -> None:
    config = read_config(changed(rope_scaling=None))
    assert (config.rope.factor, config.rope.amplitude) == (1, 1)
    assert config.softmax_scale() == 48**-0.5


@pytest.mark.parametrize(
    ("values", "amplitude"),
    [
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, 1.0),
        ({"mscale": 0.707, "mscale_all_dim": 1.0}, 1.294034 / 1.415888),
        ({"mscale": None, "mscale_all_dim": None}, 1.415888),
        ({"attention_factor": 1.25}, 1.25),
    ],
)
def test_the_amplitude_follows_the_keys_that_are_given(values, amplitude: float) -> None:
    assert round(read_config(yarn(**values)).rope.amplitude, 5) == round(amplitude, 5)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (changed(model_type="kimi_k3"), "Kimi K3 is another architecture"),
        ({"model_type": "kimi_k25", "text_config": changed(model_type="kimi_linear")}, "Linear is"),
        (changed(model_type="llama"), "must be one of kimi_k2, deepseek_v3, kimi_k25, got 'llama'"),
        (changed(hidden_act="gelu"), "hidden_act must be 'silu', got 'gelu'"),
        (changed(scoring_func="softmax"), "scoring_func must be 'sigmoid', got 'softmax'"),
        (changed(topk_method="greedy"), "topk_method must be 'noaux_tc'"),
        (changed(attention_bias=True), "attention_bias must be False, got True"),
        (
            changed(hidden_size="wide"),
            "hidden_size must be a whole number from 1 to 2\\*\\*53, got 'wide'",
        ),
        ({k: v for k, v in NANO_JSON.items() if k != "kv_lora_rank"}, "no key 'kv_lora_rank'"),
        (changed(rope_theta=None), "no key 'rope_theta'"),
        (changed(n_group=3), "n_routed_experts 64 must be a multiple of n_group 3"),
        (changed(n_group=2, topk_group=3), "topk_group 3 must be at most n_group 2"),
        (changed(n_group=16, topk_group=1), "num_experts_per_tok 8 must be at most the 4 experts"),
        (changed(qk_rope_head_dim=15), "qk_rope_head_dim must be even, got 15"),
        (yarn(type="linear"), "rope type must be yarn or default, got 'linear'"),
        (yarn(short_factor=1), "YaRN keys without meaning here: short_factor"),
        (yarn(truncate=False), "YaRN with truncate false"),
        (yarn(factor=0), "YaRN's factor must be positive, got 0"),
        (changed(quantization_config={"quant_method": "awq"}), "must be fp8 or compressed-tensors"),
        (changed(quantization_config={"quant_method": "fp8"}), "need weight_block_size"),
        (changed(quantization_config=[4]), r"quantization_config must be an object, got \[4\]"),
        (
            changed(quantization_config={**int4_config(), "ignore": "lm_head"}),
            "ignore must be a list of strings, got 'lm_head'",
        ),
        (
            changed(quantization_config={**int4_config(), "ignore": ["re:("]}),
            r"ignore has 're:\(', no regular expression",
        ),
        (changed(norm_topk_prob=1), "norm_topk_prob must be true or false, got 1"),
        (
            changed(rms_norm_eps=-1e-6),
            r"rms_norm_eps must be a number from 0 to 2\*\*53, got -1e-06",
        ),
        (
            changed(quantization_config={**int4_config(), "format": "marlin-24"}),
            "format must be pack-quantized, got 'marlin-24'",
        ),
    ],
)
def test_what_is_not_known_is_refused_with_a_sentence(table, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_config(table)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**400),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=3,
)
WHOLE = [
    json.loads(json.dumps(write_config(c, quant=q))) for c, q in ((NANO, "fp8"), (K2_5, "int4"))
]


def places(table: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the paths of all values in nested objects and lists."""
    inner = table.items() if isinstance(table, dict) else enumerate(table)
    deeper = ((k, v) for k, v in inner if v and isinstance(v, dict | list))
    here = [(*path, k) for k in (table if isinstance(table, dict) else range(len(table)))]
    return here + [p for key, value in deeper for p in places(value, (*path, key))]


@given(st.sampled_from([(w, p) for w in WHOLE for p in places(w)]), ANY_JSON)
def test_any_value_anywhere_is_read_or_refused_with_a_sentence(where, value: Any) -> None:
    whole, (*path, last) = where
    table = holder = json.loads(json.dumps(whole))
    for key in path:
        holder = holder[key]
    holder[last] = value
    try:
        config = read_config(table)
    except InputError:
        pass
    else:
        assert config.softmax_scale() > 0
        assert config.is_sparse(config.first_k_dense_replace, honour_freq=False)
        assert all(isinstance(stop, int) for stop in config.stops)
        config.quantization.int4_group_size("lm_head")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_bits", 8, "group_0: weights.num_bits must be 4, got 8"),
        ("symmetric", False, "group_0: weights.symmetric must be True"),
        ("actorder", "weight", "weights.actorder must be null"),
        ("group_size", -1, "weights.group_size must be a whole number from 1 to 2\\*\\*53, got -1"),
    ],
)
def test_another_int4_scheme_is_refused(key: str, value: Any, message: str) -> None:
    table = int4_config()
    table["config_groups"]["group_0"]["weights"][key] = value
    with pytest.raises(InputError, match=message):
        read_quantization(table)


@pytest.mark.parametrize(
    ("module", "size"),
    [
        ("model.layers.5.mlp.experts.17.gate_proj", 32),
        ("language_model.model.layers.5.mlp.experts.17.down_proj", 32),
        ("model.layers.0.mlp.gate_proj", None),
        ("model.layers.5.mlp.shared_experts.up_proj", None),
        ("language_model.model.layers.5.self_attn.kv_b_proj", None),
        ("lm_head", None),
    ],
)
def test_only_routed_experts_are_int4(module: str, size: int | None) -> None:
    assert read_quantization(int4_config()).int4_group_size(module) == size


def test_the_group_size_is_that_of_the_group_that_matches() -> None:
    table = int4_config(64)
    other = json.loads(json.dumps(table["config_groups"]["group_0"]))
    other["targets"], other["weights"]["group_size"] = ["re:.*down_proj"], 128
    table["config_groups"] = {"group_1": other, **table["config_groups"]}
    quantization = read_quantization(table)
    assert quantization.int4_group_size("model.layers.1.mlp.experts.0.down_proj") == 128
    assert quantization.int4_group_size("model.layers.1.mlp.experts.0.up_proj") == 64
    narrow = dataclasses.replace(quantization, groups=quantization.groups[:1])
    assert narrow.int4_group_size("model.layers.1.mlp.experts.0.up_proj") is None


def test_a_generation_stops_on_both_ids_of_the_kimi_vocabulary(tmp_path: Path) -> None:
    assert K2_INSTRUCT.stops == K2_THINKING.stops == (163585, 163586)
    (tmp_path / "config.json").write_text(json.dumps(changed(eos_token_id=7)))
    assert configs.load_config(tmp_path).stops == (7,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [9, 7]}')
    assert configs.load_config(tmp_path).stops == (7, 9)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not a readable"), ("[]", "wanted a JSON obj")]
)
def test_a_config_that_is_no_json_object_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        configs.load_config(tmp_path)


def test_the_first_answer_to_every_question_is_the_default() -> None:
    assert {key: allowed[0] for key, allowed in questions().items()} == dataclasses.asdict(
        Numerics()
    )
    assert parse_numerics(["dequant=bf16", "renorm_eps=0"]) == Numerics(
        dequant="bf16", renorm_eps="0"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour=red", "no key 'colour'; the keys are latent_norm_eps, "),
        ("dequant=fp4", "dequant must be one of exact, bf16, got fp4"),
    ],
)
def test_an_unknown_question_or_answer_is_refused_with_those_that_exist(text, message) -> None:
    with pytest.raises(InputError, match=message):
        parse_numerics([text])
