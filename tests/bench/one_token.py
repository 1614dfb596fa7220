"""The best rate of one-token INT4 products beside that of reading memory, on a busy machine.

    python -m tests.bench.one_token

Each product and each piece of memory is timed alone, in turns, 200 times: the best ones ran without
being interrupted. 24 matrices and 256 MB of memory take turns, more than a cache holds. `k2ref
bench` gives medians over longer stretches, for a machine of one's own.
"""

import os

import numpy as np

from k2ref import bench_race, bench_tables
from k2ref.bench_tables import Work

MATRICES, PIECES, PIECE_BYTES, TURNS = 24, 16, 1 << 24, 200


def taking_turns(works: list[Work]) -> Work:
    """Make one function of many, another one each time: works -> work."""
    order = iter([*works, *works * (TURNS // len(works) + 1)])
    return lambda: next(order)()


def main() -> None:
    """Measure on one thread and on all: -> table on stdout."""
    kernels, random = bench_tables.load_kernels(), np.random.default_rng(1)
    pieces = [bench_tables.reading(kernels, PIECE_BYTES) for _ in range(PIECES)]
    for M, L in bench_tables.SHAPES:
        weights = [bench_tables.draw_int4(random, M, L) for _ in range(MATRICES)]
        x_1L = random.standard_normal((1, L), np.float32)
        for name, dtype in bench_race.DTYPES.items():
            x_1L = x_1L.astype(dtype).astype(np.float32)
            products = [
                lambda w=w, x_1L=x_1L: kernels.int4_linear(x_1L, w.packed_MP, w.scale_MG)
                for w in weights
            ]
            for threads in sorted({1, os.cpu_count() or 1}):
                with kernels._jit.threads(threads):
                    works = [taking_turns(products), taking_turns(pieces)]
                    product, read = (min(s) for s in bench_tables.in_turns(works, TURNS))
                rate = bench_tables.weight_bytes(weights[0]) / product / 1e9
                most = PIECE_BYTES / read / 1e9
                print(
                    f"{M}x{L}, {name}, threads {threads}: "
                    f"{rate:.1f} of {most:.1f} GB/s, {rate / most:.2f}"
                )


if __name__ == "__main__":
    main()
