"""The measurements behind `k2ref bench`: each gives rows of figures.

Two rates of the machine bound every product: reading memory in a stream, and multiplying matrices
in float32 (NumPy's). A product cannot take less time than the larger of its bytes at the one rate
and its operations at the other: the roofline. Everything that is compared is timed in turns, so
that a slow moment of the machine hits both; ratios are medians over the turns.

Bytes are those that must be read: packed words and bfloat16 scales.
"""

import cProfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import ml_dtypes
import numpy as np

from k2ref import oracle

Row = dict[str, Any]
Work = Callable[[], object]

SHAPES = ((2048, 7168), (7168, 2048))  # gate and up, down: rows and columns of K2's experts
D, F, E, K = 7168, 2048, 384, 8
GROUP = 32
READ_BYTES = 1 << 28
MATRICES = 16  # in turn, so that none is left in a cache
TOKENS = (1, 2, 4, 8, 12, 16, 32, 64, 128, 256)
POSITIONS = (65_536, 262_144)
HEADS = (64, 128, 64, 128, 512)  # how many; widths of nope, rope, value and latent
SGEMM = (1024, 4096, 1024)
PANEL = 64  # rows of which unpacking is timed
DIFFERENT = 32  # experts that differ, of all that a layer has: more than a cache holds


def load_kernels() -> Any:
    import k2ref.kernels
    import k2ref.kernels._jit
    import k2ref.kernels._machine  # not with `import k2ref`: compiling starts here

    return k2ref.kernels


def in_turns(works: Sequence[Work], turns: int, *, pause_s: float = 0) -> list[list[float]]:
    """Time functions one after another, again and again: works -> seconds of each, by turn."""
    for work in works:
        work()  # compiles, and wakes threads up
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(turns):
        for work, times in zip(works, seconds, strict=True):
            time.sleep(pause_s)
            begin = time.perf_counter()
            work()
            times.append(time.perf_counter() - begin)
    return seconds


def reading(kernels: Any, nbytes: int) -> Work:
    """Give a function that reads so much memory in a stream: kernels, bytes -> function."""
    values = np.ones(nbytes // 4, np.float32)
    return lambda: kernels._machine.read_once(values)


def _multiply() -> tuple[Work, float]:
    """Give a float32 product of NumPy's, and its operations."""
    rows, inner, columns = SGEMM
    a, b = np.ones((rows, inner), np.float32), np.ones((inner, columns), np.float32)
    return lambda: a @ b, 2.0 * rows * inner * columns


def draw_int4(random: np.random.Generator, M: int, L: int) -> oracle.Int4:
    """Draw a matrix as K2 has them: M, L -> Int4 of codes -7 … 7."""
    codes_ML = random.integers(-7, 8, (M, L), np.int8)
    scale_MG = random.uniform(0.5, 1.5, (M, L // GROUP)) / (4 * np.sqrt(L))
    return oracle.Int4(
        oracle.int4_pack(codes_ML), scale_MG.astype(ml_dtypes.bfloat16), GROUP, columns=L
    )


def weight_bytes(weight: oracle.Int4) -> int:
    """Count what must be read, words and scales: weight -> bytes."""
    return weight.packed_MP.nbytes + weight.scale_MG.nbytes


def many_tokens(kernels: Any, turns: int) -> list[Row]:
    """Multiply one expert's matrices by more and more tokens, on all threads: -> rows."""
    random = np.random.default_rng(2)
    rows = []
    multiply, operations = _multiply()
    for M, L in SHAPES:
        weights = [draw_int4(random, M, L) for _ in range(4)]
        for tokens in TOKENS:
            x_TL = random.standard_normal((tokens, L), np.float32)

            def work(x_TL: np.ndarray = x_TL, weights: Any = weights) -> object:
                return [kernels.int4_linear(x_TL, w.packed_MP, w.scale_MG) for w in weights]

            seconds, read, multiplied = in_turns(
                [work, reading(kernels, READ_BYTES), multiply], turns
            )
            rate = READ_BYTES / median(read), operations / median(multiplied)
            needed = len(weights) * weight_bytes(weights[0]), len(weights) * 2.0 * M * L * tokens
            rows.append({"shape": f"{M}x{L}", "tokens": tokens} | _roofline(seconds, rate, needed))
    return rows


def _roofline(seconds: list[float], rate: tuple[float, float], needed: tuple[float, float]) -> Row:
    """Set a time against the roofline: seconds, rates, bytes and operations -> row."""
    least = max(needed[0] / rate[0], needed[1] / rate[1])
    took = median(seconds)
    return {
        "seconds": took,
        "gbps": needed[0] / took / 1e9,
        "gflops": needed[1] / took / 1e9,
        "read_gbps": rate[0] / 1e9,
        "sgemm_gflops": rate[1] / 1e9,
        "roofline_seconds": least,
        "ratio": took / least,
    }


def other_weights(kernels: Any, turns: int) -> list[Row]:
    """Multiply bfloat16 and FP8 matrices by one token: -> rows."""
    random = np.random.default_rng(3)
    M, L = SHAPES[0]
    w_ML = [random.standard_normal((M, L), np.float32) for _ in range(4)]
    bf16 = [w.astype(ml_dtypes.bfloat16) for w in w_ML]
    scale_UJ = np.ones((-(-M // 128), -(-L // 128)), np.float32)
    fp8 = [oracle.Fp8(w.astype(ml_dtypes.float8_e4m3fn), scale_UJ, (128, 128)) for w in w_ML]
    x_1L = random.standard_normal((1, L), np.float32)
    rows = []
    for name, weights, nbytes in (("bf16", bf16, bf16[0].nbytes), ("fp8", fp8, bf16[0].size)):

        def work(weights: Any = weights) -> object:
            return [kernels.multiply(x_1L, w) for w in weights]

        seconds, read = in_turns([work, reading(kernels, READ_BYTES)], turns)
        ratios = [4 * nbytes / s / (READ_BYTES / r) for s, r in zip(seconds, read, strict=True)]
        rows.append(
            {
                "weights": name,
                "shape": f"{M}x{L}",
                "gbps": 4 * nbytes / median(seconds) / 1e9,
                "read_gbps": READ_BYTES / median(read) / 1e9,
                "ratio": median(ratios),
            }
        )
    return rows


class Repeated:
    """As many experts as K2 has, of which only some differ: more than any cache holds."""

    def __init__(self, random: np.random.Generator) -> None:
        self.pool = [
            oracle.Expert(draw_int4(random, F, D), draw_int4(random, F, D), draw_int4(random, D, F))
            for _ in range(DIFFERENT)
        ]

    def __getitem__(self, expert: int) -> oracle.Expert:
        return self.pool[expert % len(self.pool)]


def moe_layer(kernels: Any, tokens: int) -> Row:
    """Run one layer of full-width routed experts, and say where the time goes: tokens -> row.

    The parts add up to the whole. A profile of the pass that is timed parts the products from the
    rest: sorting, gathering, gating, adding. Products unpack and multiply in one loop, whose time
    is shared out as it is between a packed matrix and the same one in float32.
    """
    random = np.random.default_rng(4)
    experts = Repeated(random)
    x_TD = random.standard_normal((tokens, D), np.float32)
    logits_TE = random.standard_normal((tokens, E), np.float32)
    routing = kernels.route(logits_TE, np.zeros(E, np.float32), top_k=K, scale=2.827)
    touched = len(np.unique(routing.experts_TK))
    multiply, operations = _multiply()
    few = max(1, tokens * K // touched)
    kernels.moe(x_TD[:few], kernels.Routing(*(a[:few] for a in routing)), experts)
    profiles: list[cProfile.Profile] = []

    def work() -> object:
        profiles.append(cProfile.Profile())
        return profiles[-1].runcall(kernels.moe, x_TD, routing, experts)

    seconds, read, multiplied = in_turns([work, reading(kernels, READ_BYTES), multiply], 1)
    rate = READ_BYTES / median(read), operations / median(multiplied)
    nbytes = 3 * touched * weight_bytes(draw_int4(random, F, D))
    row = _roofline(seconds, rate, (nbytes, tokens * K * 6.0 * D * F))
    products = _seconds_in(profiles[-1], "multiply")
    share = _share_of_multiplying(kernels, x_TD[:few])
    return {
        "tokens": tokens,
        "experts": touched,
        **row,
        "unpacking_seconds": products * (1 - share),
        "multiplying_seconds": products * share,
        "gathering_seconds": row["seconds"] - products,
    }


def _seconds_in(profile: cProfile.Profile, function: str) -> float:
    """Add up the time inside a function and what it calls: profile, name -> seconds."""
    entries = profile.getstats()
    return sum(e.totaltime for e in entries if getattr(e.code, "co_name", "") == function)


def _share_of_multiplying(kernels: Any, x_TD: np.ndarray) -> float:
    """Time rows that fit into a cache, packed and in float32, on one thread: -> share."""
    packed = draw_int4(np.random.default_rng(6), PANEL, D)
    dense = kernels.dense(packed)
    works = [lambda w=w: kernels.multiply(x_TD, w) for w in (packed, dense)]
    with kernels._jit.threads(1):
        unpacked, plain = in_turns(works, 20)
    return min(1.0, min(plain) / min(unpacked))


def attention(kernels: Any, positions: int) -> Row:
    """Decode one token of one layer against a long latent cache, all 64 heads: positions -> row."""
    H, N, R, V, C = HEADS
    random = np.random.default_rng(5)
    arrays = {
        "q_nope_THN": random.standard_normal((1, H, N), np.float32),
        "q_rope_THR": random.standard_normal((1, H, R), np.float32),
        "latent_SC": random.standard_normal((positions, C), np.float32),
        "key_rope_SR": random.standard_normal((positions, R), np.float32),
    }
    w_uk_HNC, w_uv_HVC = oracle.split_kv_b(
        random.standard_normal((H * (N + V), C), np.float32), H, N
    )

    def work() -> object:
        return kernels.attend_absorbed(
            **arrays,
            w_uk_HNC=w_uk_HNC,
            w_uv_HVC=w_uv_HVC,
            scale=0.1,
            first_query=positions - 1,
        )

    multiply, operations = _multiply()
    seconds, read, multiplied = in_turns([work, reading(kernels, READ_BYTES), multiply], 3)
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    nbytes = arrays["latent_SC"].nbytes + arrays["key_rope_SR"].nbytes
    rate = READ_BYTES / median(read), operations / median(multiplied)
    row = _roofline(seconds, rate, (nbytes, 2.0 * H * positions * (2 * C + R)))
    return {"positions": positions, "cache_bytes": nbytes, "extra_bytes": peak, **row}
