"""Random inputs from a seed: bfloat16 values, packed weights, all of them reproducible."""

import hashlib

import ml_dtypes
import numpy as np

from k2ref.oracle import int4_pack
from k2ref.oracle.floats import round_bfloat16


class Draw:
    """A stream of inputs that depends on a seed and a name alone."""

    def __init__(self, seed: int, name: str = "") -> None:
        digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        self.random = np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")))

    def normal(self, *shape: int, spread: float = 1.0, mean: float = 0.0) -> np.ndarray:
        """Draw bfloat16 values of a normal distribution: shape -> float32 array."""
        return round_bfloat16(mean + spread * self.random.standard_normal(shape))

    def weight(self, M: int, L: int) -> np.ndarray:
        """Draw a weight that keeps the size of its input: M, L -> w_ML float32."""
        return self.normal(M, L, spread=L**-0.5)

    def int4(self, M: int, L: int, *, group: int = 32) -> tuple[np.ndarray, np.ndarray]:
        """Draw packed weights, all 16 codes among them: M, L -> packed_MP, scale_MG bfloat16.

        Scales of neighbouring groups and rows differ, so that none can stand for another.
        """
        G = -(-L // group)
        codes_ML = self.random.integers(-8, 8, (M, L))
        spread = L**-0.5 / 4.6
        scale_MG = spread * np.exp2(self.random.uniform(-1.5, 1.5, (M, G)))
        return int4_pack(codes_ML), scale_MG.astype(ml_dtypes.bfloat16)

    def integers(self, low: int, high: int, *shape: int) -> np.ndarray:
        """Draw integers from low to high - 1: low, high, shape -> int64 array."""
        return self.random.integers(low, high, shape)
