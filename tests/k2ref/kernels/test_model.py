"""The whole model on kernels is the whole model on the oracle."""

import numpy as np
import pytest

from k2ref import Checkpoint, Model, kernels
from tests.agree import agree_float32


@pytest.mark.parametrize("form", ["int4", "fp8", "bf16", "f32"])
def test_logits_are_those_of_the_oracle(tiny_dirs, form) -> None:
    checkpoint = Checkpoint(tiny_dirs[form])
    ids_T = np.random.default_rng(1).integers(0, checkpoint.config.vocab_size, 12)
    right_TW = Model(checkpoint, dtype=np.float64).forward(ids_T)
    model = Model(checkpoint, ops=kernels)
    agree_float32(model.forward(ids_T), right_TW)
    cache = model.new_cache()
    rows = [model.forward(ids_T[t : t + 1], cache=cache) for t in range(len(ids_T))]
    agree_float32(np.concatenate(rows), right_TW)
