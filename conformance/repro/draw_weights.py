"""Weights from a seed and a name, in NumPy alone. The text of this file goes into reproductions."""

import hashlib

import numpy as np


def draw(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw one tensor of bfloat16 values: seed, name, shape -> array float32."""
    key = hashlib.sha256(f"{seed}:{name}".encode()).digest()[:16]
    random = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    x = random.standard_normal(shape, dtype=np.float32)
    if name.endswith("norm.weight"):
        x = 1 + np.float32(0.1) * x
    elif name.endswith("e_score_correction_bias"):
        x = np.float32(0.2) * x
    elif name != "model.embed_tokens.weight":
        x = x / np.float32(np.sqrt(shape[-1]))
    return ((x.view(np.uint32) + 0x8000) & np.uint32(0xFFFF0000)).view(np.float32)
