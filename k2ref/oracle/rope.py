"""Rotary positions: the YaRN frequency table, the angles, and the rotation of interleaved pairs.

RoPE (Su et al., arXiv 2104.09864, eq. 15) turns pair z, the values 2z and 2z+1, by the angle
position · ω_z with ω_z = base^(-2z/R).

YaRN (Peng et al., arXiv 2309.00071, section 3.2) slows the low frequencies by `factor`:
    turns(r) = R · ln(original / 2πr) / (2 ln base)       the pair that turns r times in training
    low = floor(turns(beta_fast)), high = ceil(turns(beta_slow))
    ramp_z = clip((z - low) / (high - low), 0, 1)         0 keeps the frequency, 1 divides it
    ω_z = ramp_z · ω_z / factor + (1 - ramp_z) · ω_z
and sharpens the softmax: its scale is multiplied by m(factor, mscale_all_dim)², m(s, k) = 0.1 k ln
s + 1.

The angle is part of the specification: engines multiply a float32 position by a float32 frequency
and round to float32. At position 262,143 that product is up to 0.017 rad from the ideal angle, so
an ideal oracle would accuse every correct engine. The float32 table itself differs by some units in
the last place between builds of the same library, which is why the tables of the published models
lie in `spec/rope/`.
"""

from typing import Any

import numpy as np

from k2ref.oracle.floats import wide


def yarn_inv_freq(
    rope_width: int,
    base: float,
    *,
    factor: float = 1.0,
    original_positions: int = 4096,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    dtype: Any = np.float64,
) -> np.ndarray:
    """Compute the frequencies of all pairs: scalars -> inv_freq_Z, in radians a position.

    The powers of the base are rounded to `dtype` once; every later step is one operation in
    `dtype`, in the order of Hugging Face's code. In float32 this gives the same bits on every
    machine, and those of PyTorch's scalar code path.
    """
    power_Z = (base ** (np.arange(0, rope_width, 2) / rope_width)).astype(dtype)
    plain_Z = dtype(1) / power_Z
    if factor == 1.0:
        return plain_Z

    def turns(rotations: float) -> float:
        span = np.log(original_positions / (2 * np.pi * rotations))
        return float(rope_width * span / (2 * np.log(base)))

    low = max(np.floor(turns(beta_fast)), 0)
    high = min(np.ceil(turns(beta_slow)), rope_width - 1)
    if low == high:
        high += 0.001  # keeps the ramp a function
    place_Z = np.arange(rope_width // 2, dtype=dtype)
    kept_Z = dtype(1) - np.clip((place_Z - dtype(low)) / dtype(high - low), 0, 1)
    slowed_Z = dtype(1) / (dtype(factor) * power_Z)
    return slowed_Z * (dtype(1) - kept_Z) + plain_Z * kept_Z


def yarn_mscale(factor: float, mscale: float) -> float:
    """Compute YaRN's attention factor m: factor, mscale -> m."""
    return 0.1 * mscale * float(np.log(factor)) + 1.0 if factor > 1 else 1.0


def angles(position_T: np.ndarray, inv_freq_Z: np.ndarray) -> np.ndarray:
    """Multiply in the table's precision: position_T, inv_freq_Z -> angle_TZ, in radians."""
    return position_T.astype(inv_freq_Z.dtype)[:, None] * inv_freq_Z


def rotate(
    x: np.ndarray, angle_TZ: np.ndarray, *, amplitude: float = 1.0, rope_dtype: Any = None
) -> np.ndarray:
    """Turn the interleaved pairs of x_TR or x_THR: x, angle_TZ -> out, of the shape of x.

    Cosines are taken in float64 of the angles as they are. `rope_dtype` rounds them (an engine that
    keeps its table in bfloat16); `amplitude` multiplies them and is 1 for every K2.
    """
    between = (1,) * (x.ndim - 2)
    angle = angle_TZ.astype(np.float64).reshape(len(angle_TZ), *between, -1)
    turned = wide(x)
    cos, sin = np.cos(angle) * amplitude, np.sin(angle) * amplitude
    if rope_dtype is not None:
        cos, sin = cos.astype(rope_dtype), sin.astype(rope_dtype)
    cos, sin = cos.astype(turned.dtype), sin.astype(turned.dtype)
    even, odd = turned[..., 0::2], turned[..., 1::2]
    out = np.empty_like(turned)
    out[..., 0::2] = even * cos - odd * sin
    out[..., 1::2] = odd * cos + even * sin
    return out.astype(x.dtype)
