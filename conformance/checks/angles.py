"""How far an engine turns from where it should, at every position: a figure, not a verdict."""

from collections.abc import Mapping

import numpy as np

from conformance.forcing import Forced, Reference
from conformance.profiles import Prompt
from k2ref.oracle import angles, yarn_inv_freq

TAP = "L0.attn.k_rope"
CLEAR_LENGTH = 0.1  # of the median pair: the direction of a shorter one is rounding


def angle_errors(
    reference: Reference, prompt: Prompt, taps: Mapping[str, np.ndarray]
) -> list[list[float]]:
    """Measure the rotation of the shared key: taps -> position, error in radians, and ideal's.

    The last column is how far ideal angles are from the reference's, which are float32 products: an
    engine on that line computes ideal angles.
    """
    without = {name: array for name, array in taps.items() if name != TAP}
    expected_TR = Forced(reference.model(), without).run(prompt.ids_T, prompt.position_T)[TAP]
    error_T = _turn(taps[TAP].astype(np.float64), expected_TR)
    ideal_T = _ideal(reference, prompt.position_T)
    rows = zip(prompt.position_T.tolist(), error_T.tolist(), ideal_T.tolist(), strict=True)
    return [list(row) for row in rows]


def _turn(found_TR: np.ndarray, expected_TR: np.ndarray) -> np.ndarray:
    found_TZ, expected_TZ = (x[:, 0::2] + 1j * x[:, 1::2] for x in (found_TR, expected_TR))
    length_TZ = np.abs(expected_TZ)
    clear_TZ = length_TZ > CLEAR_LENGTH * np.median(length_TZ)
    turn_TZ = np.abs(np.angle(found_TZ * expected_TZ.conj()))
    return np.where(clear_TZ, turn_TZ, 0.0).max(axis=1)


def _ideal(reference: Reference, position_T: np.ndarray) -> np.ndarray:
    model = reference.model()
    rope = model.config.rope
    ideal_Z = yarn_inv_freq(
        model.config.qk_rope_head_dim,
        rope.rope_theta,
        factor=rope.factor,
        original_positions=rope.original_max_position_embeddings,
        beta_fast=rope.beta_fast,
        beta_slow=rope.beta_slow,
    )
    formed_TZ = angles(position_T, model.inv_freq_Z).astype(np.float64)
    return np.asarray(np.abs(formed_TZ - angles(position_T, ideal_Z)).max(axis=1))
