"""The one compile policy of the kernels.

`kernel` compiles a function for one thread, `threaded` spreads its `prange` over threads, where the
arrays are large enough to pay for waking them. Neither reorders sums (no fastmath), and no sum
crosses a `prange`, so results do not depend on the number of threads. Machine code is kept on disk
beside the source (or where NUMBA_CACHE_DIR says), keyed by processor; it follows changes of a
kernel's own file, so after a change of `_lanes_llvm` delete it. NUMBA_DISABLE_JIT=1 runs every
kernel as the Python it is written in.
"""

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numba

_POLICY: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": False}

THREADED_BYTES = 1 << 20  # below, a core is through before another one has woken up
_settings: Any = numba.config  # its names are made at run time
COMPILED = not _settings.DISABLE_JIT
kernel = numba.njit(**_POLICY)
inlined = numba.njit(inline="always", **_POLICY)
prange = numba.prange

lanes = importlib.import_module("k2ref.kernels._lanes_llvm" if COMPILED else "k2ref.kernels._lanes")


def threaded(function: Callable[..., None]) -> Callable[..., None]:
    """Compile a function of arrays whose `prange` is spread over threads."""
    compiled = numba.njit(parallel=True, **_POLICY)(function)

    @functools.wraps(function)
    def call(*arguments: Any) -> None:
        touched = sum(getattr(argument, "nbytes", 0) for argument in arguments)
        with threads(1) if touched < THREADED_BYTES else nullcontext():
            compiled(*arguments)

    return call


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run kernels on at most so many threads: count."""
    before = numba.get_num_threads()
    numba.set_num_threads(min(count, before))
    try:
        yield
    finally:
        numba.set_num_threads(before)
