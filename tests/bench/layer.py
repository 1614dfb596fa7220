"""One token through a full-width layer from a cold file and from the page cache.

    k2ref make-checkpoint LAYER --preset k2-thinking --layers 1
    python -m tests.bench.layer LAYER [--memory 8G] [--ops kernels]

Each run is a process of its own, so that its peak is its own. Bytes read are the kernel's count of
what came from the disk (/proc/self/io), bytes routed those of the tensors that were handed out, the
embedding's rows counted as the one row that is used. The last line projects to the 61 layers and
the head of K2-Thinking on a disk of 5 GB/s, where reading is what takes the time.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from k2ref import Checkpoint, Model
from k2ref.cli import parse_bytes

DISK = 5e9  # bytes per second
LAYERS = 61
HEAD = 163_840 * 7168 * 2  # bytes


def forget(directory: Path) -> None:
    """Drop the files of a checkpoint from the page cache: directory."""
    for shard in directory.glob("*.safetensors"):
        with shard.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def counter(path: str, key: str) -> int:
    """Read one number from a file of /proc: path, key -> number."""
    lines = Path(path).read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def run_once(directory: Path, ops: Any, memory_bytes: int | None, token: int) -> dict[str, Any]:
    """Run one token, cold and then from the page cache, and count: directory -> figures."""
    Model(Checkpoint(directory, memory_bytes=memory_bytes), ops=ops).forward(np.array([0]))
    forget(directory)  # what was read while compiling
    checkpoint = Checkpoint(directory, memory_bytes=memory_bytes)
    disk, began = counter("/proc/self/io", "read_bytes"), time.perf_counter()
    Model(checkpoint, ops=ops).forward(np.array([token]))
    cold = time.perf_counter()
    disk = counter("/proc/self/io", "read_bytes") - disk
    routed = dict(checkpoint.bytes_read)
    Model(checkpoint, ops=ops).forward(np.array([token]))
    warm = time.perf_counter()
    routed["model.embed_tokens.weight"] //= checkpoint.config.vocab_size
    return {
        "cold_s": cold - began,
        "warm_s": warm - cold,
        "disk": disk,
        "routed": sum(routed.values()),
        "layer": sum(n for name, n in routed.items() if name.startswith("model.layers.")),
        "experts": sum(n for name, n in routed.items() if ".mlp.experts." in name),
        "peak": 1024 * counter("/proc/self/status", "VmHWM"),
    }


def main() -> None:
    """Measure cold and warm runs: -> table on stdout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--memory", type=parse_bytes)
    parser.add_argument("--ops", default="kernels")
    parser.add_argument("--once", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once is not None:
        ops = importlib.import_module(f"k2ref.{options.ops}")
        print(json.dumps(run_once(options.directory, ops, options.memory, options.once)))
        return
    for token in (1, 2, 3):
        command = [sys.executable, "-m", "tests.bench.layer", *sys.argv[1:], "--once", str(token)]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(ran.stdout)
        print(
            f"token {token}: cold {row['cold_s']:.2f} s, page cache {row['warm_s']:.2f} s; "
            f"disk {row['disk'] / 1e6:.0f} MB for {row['routed'] / 1e6:.0f} MB routed "
            f"(ratio {row['disk'] / row['routed']:.3f}, experts {row['experts'] / 1e6:.0f} MB); "
            f"peak {row['peak'] / 1e9:.2f} GB"
        )
    whole = LAYERS * row["layer"] + HEAD
    print(f"{LAYERS} layers and the head: {whole / 1e9:.1f} GB a token, {whole / DISK:.1f} s")


if __name__ == "__main__":
    main()
