"""Rotary positions: the rotation of interleaved pairs.

RoPE (Su et al., arXiv 2104.09864, eq. 15) turns pair z, the values 2z and 2z+1, by the angle
position · ω_z. Cosines and sines are few and taken once for all heads; the rotation is compiled.
"""

from typing import Any

import numpy as np

from k2ref.kernels import _arrays
from k2ref.kernels._jit import kernel


def rotate(
    x: np.ndarray, angle_TZ: np.ndarray, *, amplitude: float = 1.0, rope_dtype: Any = None
) -> np.ndarray:
    """Turn the interleaved pairs of x_TR or x_THR: x, angle_TZ -> out, of the shape of x.

    Cosines are taken in float64 of the angles as they are. `rope_dtype` rounds them (an engine that
    keeps its table in bfloat16); `amplitude` multiplies them and is 1 for every K2.
    """
    angle = angle_TZ.astype(np.float64)
    cos_TZ, sin_TZ = np.cos(angle) * amplitude, np.sin(angle) * amplitude
    if rope_dtype is not None:
        cos_TZ, sin_TZ = cos_TZ.astype(rope_dtype), sin_TZ.astype(rope_dtype)
    T, R = len(x), x.shape[-1]
    _arrays.fits("angle_TZ", angle_TZ, (T, R // 2))
    heads_THR = _arrays.activations(x).reshape(T, -1, R)
    out_THR = np.empty_like(heads_THR)
    _rotate(heads_THR, cos_TZ.astype(np.float32), sin_TZ.astype(np.float32), out_THR)
    return out_THR.reshape(x.shape).astype(x.dtype, copy=False)


@kernel
def _rotate(x_THR, cos_TZ, sin_TZ, out_THR):
    T, H, R = x_THR.shape
    for t in range(T):
        for h in range(H):
            for z in range(R // 2):
                even, odd = x_THR[t, h, 2 * z], x_THR[t, h, 2 * z + 1]
                out_THR[t, h, 2 * z] = even * cos_TZ[t, z] - odd * sin_TZ[t, z]
                out_THR[t, h, 2 * z + 1] = odd * cos_TZ[t, z] + even * sin_TZ[t, z]
