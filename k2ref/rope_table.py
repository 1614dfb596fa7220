"""The frequency table a model rotates with.

The float32 table is not portable: builds of one library differ by an ulp or more, which is up to
0.016 rad at position 262,143. For the three published configurations the table is therefore data,
the bytes that PyTorch's vector code gives. Any other configuration is computed by
`oracle.yarn_inv_freq`, and a caller may pass a table of its own.
"""

import numpy as np

from k2ref.config import Config, Rope
from k2ref.numerics import Numerics
from k2ref.oracle.rope import yarn_inv_freq
from k2ref.spec import read_toml, spec_path


def published_table(rope: Rope, rope_width: int) -> np.ndarray | None:
    """Find the shipped table of a rope configuration: rope, R -> inv_freq_Z float32, or None."""
    for table in read_toml("facts.toml")["rope_table"]:
        wanted = {key: table[key] for key in ("factor", "beta_fast", "beta_slow", "rope_theta")}
        wanted["original_max_position_embeddings"] = table["original_max_position_embeddings"]
        if rope_width == table["rope_width"] and all(
            getattr(rope, key) == value for key, value in wanted.items()
        ):
            return np.frombuffer(spec_path(table["file"]).read_bytes(), "<f4")
    return None


def inv_freq(config: Config, numerics: Numerics) -> np.ndarray:
    """Choose or compute the frequencies: config, numerics -> inv_freq_Z float32 or float64."""
    rope, R = config.rope, config.qk_rope_head_dim
    original = rope.original_max_position_embeddings
    stretched = numerics.yarn == "always" or config.max_position_embeddings > original
    float32 = numerics.angle_precision == "float32"
    if float32 and stretched and (table_Z := published_table(rope, R)) is not None:
        return table_Z
    return yarn_inv_freq(
        R,
        rope.rope_theta,
        factor=rope.factor if stretched else 1.0,
        original_positions=original,
        beta_fast=rope.beta_fast,
        beta_slow=rope.beta_slow,
        dtype=np.float32 if float32 else np.float64,
    )
