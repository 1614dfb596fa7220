"""Small models built from a seed, and what they are asked: ids and positions.

nano     every mechanism of the family in four layers; what levels L3 to L5 run on
kernel   two layers of the widths that kernels are written for
wide     one sparse layer of the real width; a run draws single operations of it (`cases.wide`)
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from k2ref.config import Config, load_config, read_config
from k2ref.errors import InputError
from k2ref.presets import NANO
from k2ref.spec import spec_path
from k2ref.synth import make_checkpoint

LONG = [0, 1, 2, 3, 100, 1000, 4095, 4096, 4097, 8191, 65535, 131071, 200001]
LONG += [262141, 262142, 262143]


# what is loaded a dozen times, or run a hundred: laws of models, and generation
TINY: Config = replace(
    NANO,
    vocab_size=96,
    hidden_size=64,
    num_hidden_layers=4,
    intermediate_size=64,
    moe_intermediate_size=32,
    n_routed_experts=8,
    num_experts_per_tok=2,
    num_attention_heads=2,
    q_lora_rank=32,
    kv_lora_rank=32,
    qk_nope_head_dim=16,
    v_head_dim=16,
)


@dataclass(frozen=True)
class Prompt:
    """Ids and their positions, and the requirement that logits on them speak of."""

    name: str
    requirement: str
    ids_T: np.ndarray
    position_T: np.ndarray


def profile_config(name: str) -> Config:
    """Read the shape of a profile: nano, kernel or wide -> Config."""
    path = spec_path(f"profiles/{name}.json")
    if not path.exists():
        raise InputError(f"profile must be nano, kernel or wide, got {name!r}")
    return read_config(json.loads(path.read_text(encoding="utf-8")))


def build(directory: Path, name: str, *, seed: int, form: str = "int4") -> Path:
    """Write the checkpoint of a profile: directory, name, seed, form -> its path."""
    path = directory / f"{name}-{form}-{seed}"
    if not path.exists():
        make_checkpoint(path, profile_config(name), form=form, seed=seed)
    return path


def build_tiny(directory: Path, *, seed: int) -> Path:
    """Write the checkpoint that generation runs on, which bfloat16 holds: -> its path."""
    path = directory / f"tiny-{seed}"
    if not path.exists():
        make_checkpoint(path, TINY, form="bf16", seed=seed)
    return path


def prompts(checkpoint: Path, seed: int) -> list[Prompt]:
    """Draw prompts for a checkpoint: directory, seed -> an ordinary one and a far one."""
    config = load_config(checkpoint)
    random = np.random.default_rng(seed)
    far_T = np.array([p for p in LONG if p < config.max_position_embeddings])
    near_T, count = np.arange(48), config.vocab_size
    return [
        Prompt("near", "model:logits", random.integers(0, count, len(near_T)), near_T),
        Prompt("far", "model:long-positions", random.integers(0, count, len(far_T)), far_T),
    ]
