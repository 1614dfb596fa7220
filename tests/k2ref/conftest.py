"""Small checkpoints in the four forms, made once per run."""

import dataclasses
from pathlib import Path

import pytest

from k2ref import Checkpoint
from k2ref.config import Config
from k2ref.presets import NANO
from k2ref.synth import make_checkpoint

# NANO with fewer of everything: three layers, the first dense; kept apart from NANO to stay fast
TINY = dataclasses.replace(
    NANO,
    vocab_size=96,
    hidden_size=64,
    num_hidden_layers=3,
    intermediate_size=96,
    moe_intermediate_size=40,
    n_routed_experts=12,
    num_experts_per_tok=3,
    num_attention_heads=2,
    q_lora_rank=24,
    kv_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=8,
    v_head_dim=8,
    rms_norm_eps=1e-5,
)


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    return TINY


@pytest.fixture(scope="session")
def tiny_dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    for form in ("int4", "fp8", "bf16", "f32"):
        make_checkpoint(folder / form, TINY, form=form, seed=3)
    return {form: folder / form for form in ("int4", "fp8", "bf16", "f32")}


@pytest.fixture(scope="session")
def tiny(tiny_dirs: dict[str, Path]) -> Checkpoint:
    return Checkpoint(tiny_dirs["int4"])
