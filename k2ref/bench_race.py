"""One token through INT4 weights: our kernels and every peer, each in a process of its own.

Thread pools of several libraries in one process disturb each other. A contestant therefore gets a
process, in which its products and the reading of memory are timed in turns; a pause between them
lets the threads of the one before fall asleep.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from k2ref import bench_native, bench_peers, bench_tables, oracle
from k2ref.bench_tables import Row, draw_int4
from k2ref.errors import InputError

PAUSE_S = 0.02  # longer than any of the libraries spins
SECONDS = 600  # after which a process is given up
OURS = ""
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
CHILD = """
import os, sys
from k2ref.bench_race import main
main(sys.argv[1:])
os._exit(0)  # some libraries wait for ever when they end
"""


class Race(NamedTuple):
    """Who runs, on how many threads and how often; which weights, and how much memory is read.

    `experts`: instead of matrices as many feed-forward networks, from the columns of the shape to
    its rows and back, all of them chosen. `activations`: float32, or values that bfloat16 holds.
    """

    peer: str
    threads: int
    turns: int
    shape: tuple[int, int]
    matrices: int
    experts: bool
    read_bytes: int
    activations: str = "float32"


def one_token(turns: int, *, peers: bool, experts: bool = False) -> tuple[list[Row], list[str]]:
    """Let everybody run, in turns with memory: -> rows, and why the others did not."""
    entered = bench_peers.EXPERT_PEERS if experts else bench_peers.PEERS
    runners, skips = [(OURS, "float32"), (OURS, "bfloat16")], []
    for peer in entered if peers else ():
        if lacking := bench_peers.missing(peer):
            skips.append(f"skipped {peer.name}: not installed: {', '.join(lacking)}")
        else:
            runners.append((peer.name, "float32"))
    rows = []
    for shape in bench_tables.SHAPES[: 1 if experts else None]:
        for threads in sorted({1, os.cpu_count() or 1}):
            for name, activations in runners:
                count = bench_tables.K if experts else bench_tables.MATRICES
                read_bytes = bench_tables.READ_BYTES
                race = Race(name, threads, turns, shape, count, experts, read_bytes, activations)
                try:
                    rows.append(apart(race))
                except InputError as error:
                    skips.append(f"failed {error}")
    return rows, skips


def apart(race: Race) -> Row:
    """Run a race in a process of its own: race -> row.

    Raises:
        InputError: the process ended without figures.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "row.json")
        command = [sys.executable, "-c", CHILD, json.dumps(race), str(answer)]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
            lines = [f"exit code {ran.returncode}", *ran.stderr.strip().splitlines()]
        except subprocess.TimeoutExpired:
            lines = [f"no end after {SECONDS} s"]
        if not answer.exists():
            raise InputError(f"{race.peer or 'k2ref'}: {lines[-1]}")
        row: Row = json.loads(answer.read_text(encoding="utf-8"))
        return row


def run_race(race: Race) -> Row:
    """Run a race in this process: race -> row."""
    kernels = bench_tables.load_kernels()
    prepare = _experts if race.experts else _matrices
    products, x, right, nbytes = prepare(kernels, race)
    read = bench_tables.reading(kernels, race.read_bytes)
    with kernels._jit.threads(race.threads):
        times = bench_tables.in_turns([lambda: products(x), read], race.turns, pause_s=PAUSE_S)
        error = np.abs(products(x)[0] - right).max() / np.abs(right).max()
    rates = [nbytes / s / 1e9 for s in times[0]]
    reads = [race.read_bytes / s / 1e9 for s in times[1]]
    M, L = race.shape
    return {
        "shape": f"{race.matrices} experts {M}x{L}" if race.experts else f"{M}x{L}",
        "threads": race.threads,
        "gbps": median(rates),
        "read_gbps": median(reads),
        "ratio": median(a / b for a, b in zip(rates, reads, strict=True)),
        "rel_error": float(error),
        "activations": race.activations,
        "peer": race.peer,
    }


Prepared = tuple[bench_native.Products, np.ndarray, np.ndarray, int]


def _matrices(kernels: Any, race: Race) -> Prepared:
    random = np.random.default_rng(1)
    M, L = race.shape
    weights = [draw_int4(random, M, L) for _ in range(race.matrices)]
    x_1L = _drawn(random, L, race.activations).astype(np.float32)
    right_1M = x_1L.astype(np.float64) @ oracle.dense(weights[0]).astype(np.float64).T
    nbytes = race.matrices * bench_tables.weight_bytes(weights[0])

    def ours(x_1L: np.ndarray) -> list[np.ndarray]:
        return [kernels.int4_linear(x_1L, w.packed_MP, w.scale_MG) for w in weights]

    if race.peer == OURS:
        return ours, x_1L, right_1M, nbytes
    unpacked = [
        (oracle.int4_unpack(w.packed_MP, L), w.scale_MG.astype(np.float32)) for w in weights
    ]
    products = bench_peers.find(race.peer).prepare(unpacked, race.threads)
    return products, x_1L, right_1M, nbytes


def _drawn(random: np.random.Generator, columns: int, dtype: str) -> np.ndarray:
    return random.standard_normal((1, columns), np.float32).astype(DTYPES[dtype])


def _experts(kernels: Any, race: Race) -> Prepared:
    random = np.random.default_rng(1)
    F, D = race.shape
    shapes = ((F, D), (F, D), (D, F))
    drawn = [[draw_int4(random, *shape) for shape in shapes] for _ in range(race.matrices)]
    experts = [oracle.Expert(*weights) for weights in drawn]
    x_1D = _drawn(random, D, race.activations)
    chosen_1K = np.arange(race.matrices)[None]
    routing = oracle.Routing(chosen_1K, np.ones(chosen_1K.shape, np.float32))
    right_1D = oracle.moe(x_1D.astype(np.float64), routing, experts)
    nbytes = sum(bench_tables.weight_bytes(weight) for weights in drawn for weight in weights)
    if race.peer == OURS:
        return (lambda x_1D: [kernels.moe(x_1D, routing, experts)]), x_1D, right_1D, nbytes
    return bench_peers.find(race.peer).prepare(experts, race.threads), x_1D, right_1D, nbytes


def main(arguments: Sequence[str]) -> None:
    """Run one race and write its row: the race as JSON, the file to write."""
    race, answer = arguments
    row = run_race(Race(*json.loads(race)))
    Path(answer).write_text(json.dumps(row), encoding="utf-8")
