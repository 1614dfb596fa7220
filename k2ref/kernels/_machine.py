"""What the machine can do, measured with the means of the kernels: reading memory in a stream."""

import numpy as np

from k2ref.kernels import _arrays
from k2ref.kernels._jit import lanes, prange, threaded

STRIPE = 1 << 18  # bytes that one thread reads in a row


def read_once(a: np.ndarray) -> float:
    """Read an array of float32 from end to end on all threads: a -> sum of some kind."""
    stripes = _arrays.read_only(a.reshape(-1, STRIPE // 4))
    sums = np.zeros((len(stripes), 16), np.float32)
    _read(stripes, sums)
    return float(sums.sum())


@threaded
def _read(stripes, sums):
    for i in prange(len(stripes)):
        total = lanes.zeros(4)
        for at in range(0, stripes.shape[1], 64):
            total = lanes.added(total, lanes.load_across(stripes, i, at, 4))
        lanes.store_totals(total, sums[i : i + 1], 0, 0, 1)
