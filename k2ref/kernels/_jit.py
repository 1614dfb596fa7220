"""The one compile policy of the kernels.

`kernel` compiles a function for one thread, `threaded` spreads its `prange` over threads. Neither
reorders sums (no fastmath), and no sum crosses a `prange`, so results do not depend on the number
of threads. Machine code is kept on disk beside the source (or where NUMBA_CACHE_DIR says), keyed by
processor; it follows changes of a kernel's own file, so after a change of `_lanes_llvm` delete it.
NUMBA_DISABLE_JIT=1 runs every kernel as the Python it is written in.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba

_POLICY: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": False}

_settings: Any = numba.config  # its names are made at run time
COMPILED = not _settings.DISABLE_JIT
kernel = numba.njit(**_POLICY)
threaded = numba.njit(parallel=True, **_POLICY)
prange = numba.prange

lanes = importlib.import_module("k2ref.kernels._lanes_llvm" if COMPILED else "k2ref.kernels._lanes")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run kernels on so many threads, at most as many as there are processors: count."""
    before = numba.get_num_threads()
    numba.set_num_threads(min(count, _settings.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        numba.set_num_threads(before)
