"""The model against transformers' `DeepseekV3ForCausalLM`, on checkpoints that transformers wrote.

For the float64 comparison the peer's float32 islands are lifted: casts to float32 become casts to
float64, and cosines are taken in float64 of the float32 angles. What is left of the peer is its
arithmetic.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from conformance.compare import ROUTER_DELTA, admissible, nmse
from conformance.results import Verdict
from k2ref import Checkpoint, Model, Numerics, oracle
from k2ref.quantization import fp8_config, int4_config
from k2ref.spec import spec_path
from k2ref.trace import Recorder
from tests.agree import agree, agree_float32

torch = pytest.importorskip("torch", reason="needs the extra `peers`")
transformers = pytest.importorskip("transformers", reason="needs the extra `peers`")
deepseek = pytest.importorskip("transformers.models.deepseek_v3.modeling_deepseek_v3")

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore"),  # the peer's own warnings are not ours to fail on
]

YARN = {
    "yarn32-beta1": {"factor": 32.0, "beta_fast": 1.0},
    "yarn64-beta1": {"factor": 64.0, "beta_fast": 1.0},
    "yarn64-beta32": {"factor": 64.0, "beta_fast": 32.0},
}
IDS = np.random.default_rng(5).integers(0, 128, 24)
NEAR = np.arange(24)
FAR = np.sort(np.random.default_rng(6).choice(262_000, 20, replace=False))
FAR = np.concatenate([FAR, [262_140, 262_141, 262_142, 262_143]])


class Lifted(SimpleNamespace):
    """torch with float32 spelled float64, for the modules of the peer."""

    float32 = torch.float64

    def __getattr__(self, name: str):
        return getattr(torch, name)


def config(rope: str, groups: int = 1):
    return transformers.DeepseekV3Config(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        moe_intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        n_shared_experts=1,
        n_routed_experts=16,
        routed_scaling_factor=2.827,
        kv_lora_rank=32,
        q_lora_rank=48,
        qk_rope_head_dim=64,
        v_head_dim=16,
        qk_nope_head_dim=24,
        n_group=groups,
        topk_group=max(1, groups // 2),
        num_experts_per_tok=4,
        first_k_dense_replace=1,
        norm_topk_prob=True,
        max_position_embeddings=262144,
        rms_norm_eps=1e-5,
        initializer_range=0.15,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 50000.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096,
            **YARN[rope],
        },
    )


def build(rope: str, groups: int, dtype) -> torch.nn.Module:
    torch.manual_seed(11)
    model = transformers.DeepseekV3ForCausalLM(config(rope, groups)).eval().to(dtype)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(0.3 * torch.randn_like(buffer))
    return model


@pytest.fixture
def lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    def rotary(self, x, position_ids):
        angle = (position_ids[..., None].float() * self.original_inv_freq.float()).double()
        angle = torch.cat((angle, angle), dim=-1)
        return angle.cos() * self.attention_scaling, angle.sin() * self.attention_scaling

    monkeypatch.setattr(deepseek, "torch", Lifted())
    monkeypatch.setattr(deepseek.DeepseekV3RotaryEmbedding, "forward", rotary)


def run_peer(model: torch.nn.Module, positions: np.ndarray) -> np.ndarray:
    model.config._attn_implementation = "eager"
    model.config._experts_implementation = "eager"
    ids = torch.from_numpy(IDS)[None]
    with torch.no_grad():
        logits = model(
            ids,
            position_ids=torch.from_numpy(positions)[None],
            attention_mask=torch.ones_like(
                ids
            ),  # without it sparse positions mean packed sequences
            use_cache=False,
        ).logits
    return logits[0].double().numpy()


@pytest.fixture(params=YARN)
def rope(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.usefixtures("lifted")
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_float64_logits_equal_the_lifted_peer(
    tmp_path: Path, rope: str, groups: int, dtype
) -> None:
    build(rope, groups, dtype).save_pretrained(tmp_path)
    peer = transformers.DeepseekV3ForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    model = Model(Checkpoint(tmp_path), dtype=np.float64)
    for positions in (NEAR, FAR):
        wanted = run_peer(peer, positions)
        for attention in ("absorbed", "expanded"):
            model.attend = getattr(oracle, f"attend_{attention}")
            agree(model.forward(IDS, positions), wanted)


DEEPSEEK_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 40.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "original_max_position_embeddings": 4096,
}
VARIANTS = {
    "plain rope": {"rope_parameters": None},
    "DeepSeek-V3's rope": {
        "rope_parameters": {**DEEPSEEK_YARN, "mscale": 1.0, "mscale_all_dim": 1.0}
    },
    "mscale 0.707": {"rope_parameters": {**DEEPSEEK_YARN, "mscale": 0.707, "mscale_all_dim": 1.0}},
    "no mscale": {"rope_parameters": DEEPSEEK_YARN},
    "no query latent": {"q_lora_rank": None},
    "no dense layer": {"first_k_dense_replace": 0},
    "no sparse layer": {"first_k_dense_replace": 3},
    "scores as they are": {"norm_topk_prob": False},
    "one expert a token": {"num_experts_per_tok": 1},
    "two shared experts": {"n_shared_experts": 2},
    "tied head": {"tie_word_embeddings": True},
    "eight groups": {"n_group": 8, "topk_group": 4},
}


@pytest.mark.usefixtures("lifted")
@pytest.mark.parametrize("variant", VARIANTS)
def test_other_models_of_the_shape_equal_the_peer(tmp_path: Path, variant: str) -> None:
    torch.manual_seed(1)
    changed = config("yarn64-beta1").to_dict() | VARIANTS[variant]
    written = transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**changed))
    written.save_pretrained(tmp_path)
    peer = transformers.DeepseekV3ForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    table_Z = peer.model.rotary_emb.original_inv_freq.float().numpy()  # differs between its builds
    model = Model(Checkpoint(tmp_path), dtype=np.float64, inv_freq_Z=table_Z)
    for positions in (NEAR, FAR):
        agree(model.forward(IDS, positions), run_peer(peer, positions))


def test_float32_logits_and_routing_equal_the_peer_as_it_is(tmp_path: Path, rope: str) -> None:
    build(rope, 1, torch.float32).save_pretrained(tmp_path)
    peer = transformers.DeepseekV3ForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    chosen = list(record_routing(peer))
    model = Model(Checkpoint(tmp_path))
    for positions in (NEAR, FAR):
        wanted, recorder = run_peer(peer, positions), Recorder()
        agree_float32(model.forward(IDS, positions, trace=recorder), wanted)
        for layer, experts in zip((1, 2), chosen, strict=True):
            bias_E = model.checkpoint[f"model.layers.{layer}.mlp.gate.e_score_correction_bias"]
            choice_TE = recorder[f"L{layer}.moe.router.scores"] + bias_E
            judged = admissible(choice_TE, experts.pop(), delta=ROUTER_DELTA["f32"])
            assert judged.verdict is Verdict.PASS, judged.message


def test_the_shipped_table_is_the_one_the_peer_rotates_with(rope: str) -> None:
    found_Z = build(rope, 1, torch.float32).model.rotary_emb.original_inv_freq.numpy()
    shipped_Z = np.frombuffer(spec_path(f"rope/{rope}.f32").read_bytes(), "<f4")
    ulps = found_Z.view(np.int32).astype(int) - shipped_Z.view(np.int32)
    # scalar builds of PyTorch, without AVX2, round entry 5 up
    assert ulps.tolist() in ([0] * 32, [0] * 5 + [1] + [0] * 26)


def record_routing(peer) -> Iterator[list[np.ndarray]]:
    for layer in peer.model.layers[1:]:
        kept: list[np.ndarray] = []
        layer.mlp.gate.register_forward_hook(
            lambda module, inputs, output, kept=kept: kept.append(output[2].numpy())
        )
        yield kept


@pytest.mark.usefixtures("lifted")
def test_int4_experts_packed_by_compressed_tensors_equal_the_peer(tmp_path: Path) -> None:
    write_int4(tmp_path, build("yarn64-beta1", 1, torch.bfloat16))
    peer = transformers.DeepseekV3ForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    model = Model(Checkpoint(tmp_path), dtype=np.float64, numerics=Numerics(dequant="bf16"))
    for positions in (NEAR, FAR):
        agree(model.forward(IDS, positions), run_peer(peer.double(), positions))
    exact = Model(Checkpoint(tmp_path), dtype=np.float64)
    assert nmse(exact.forward(IDS, NEAR), run_peer(peer, NEAR)) > 1e-8  # the question is visible


@pytest.mark.usefixtures("lifted")
def test_fp8_weights_equal_the_peer_on_what_torch_makes_of_them(tmp_path: Path) -> None:
    build("yarn32-beta1", 1, torch.bfloat16).save_pretrained(tmp_path / "plain")
    write_fp8(tmp_path / "plain", tmp_path / "fp8")
    peer = transformers.DeepseekV3ForCausalLM.from_pretrained(
        tmp_path / "plain", dtype=torch.float64
    )
    model = Model(Checkpoint(tmp_path / "fp8"), dtype=np.float64)
    assert model.checkpoint.config.quantization.method == "fp8"
    agree(model.forward(IDS, FAR), run_peer(peer, FAR))


def write_fp8(plain: Path, target: Path) -> None:
    """Store linear weights as e4m3 in blocks of 16 x 16, and what they now stand for in `plain`."""
    from safetensors.torch import load_file, save_file

    target.mkdir()
    tensors = load_file(plain / "model.safetensors")
    packed, decoded = {}, {}
    for name, weight in tensors.items():
        if not name.endswith("_proj.weight") and "kv_a_proj" not in name:
            packed[name] = decoded[name] = weight
            continue
        rows, columns = (-(-n // 16) for n in weight.shape)
        scale = 0.001 * (1 + torch.rand(rows, columns))
        whole = scale.repeat_interleave(16, 0).repeat_interleave(16, 1)
        whole = whole[: weight.shape[0], : weight.shape[1]]
        packed[name] = (weight.float() / whole).to(torch.float8_e4m3fn)
        packed[name.replace("weight", "weight_scale_inv")] = scale
        decoded[name] = packed[name].float() * whole
    save_file(packed, target / "model.safetensors", metadata={"format": "pt"})
    save_file(decoded, plain / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((plain / "config.json").read_text())
    config["quantization_config"] = {**fp8_config(), "weight_block_size": [16, 16]}
    (target / "config.json").write_text(json.dumps(config))


def write_int4(directory: Path, model) -> None:
    """Pack every routed expert with the library's own quantiser and packer."""
    from compressed_tensors.compressors.pack_quantized import pack_to_int32
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import quantize
    from compressed_tensors.quantization.utils import calculate_qparams
    from safetensors.torch import load_file, save_file

    arguments = QuantizationArgs(num_bits=4, strategy="group", group_size=32, symmetric=True)
    model.config.quantization_config = int4_config()
    model.save_pretrained(directory)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    for name in [n for n in tensors if ".mlp.experts." in n]:
        weight, base = tensors.pop(name), name.removesuffix(".weight")
        grouped = weight.reshape(len(weight), -1, 32)
        scale, zero = calculate_qparams(grouped.amin(2), grouped.amax(2), arguments)
        codes = quantize(weight, scale, zero, arguments, dtype=torch.int8)
        tensors[f"{base}.weight_packed"] = pack_to_int32(codes, 4)
        tensors[f"{base}.weight_scale"] = scale.to(torch.bfloat16)
        tensors[f"{base}.weight_shape"] = torch.tensor(weight.shape)
    save_file(tensors, path, metadata={"format": "pt"})
