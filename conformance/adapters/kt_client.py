"""kt-kernel's experts as a k2cp/1 client: the operation `moe` on packed INT4, bfloat16 in and out.

Run by `kt:`; a process of its own, because the library is C++ that is handed pointers. Products are
of bfloat16 activations with exactly dequantised weights (its AVX2 backend).
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from kt_kernel import kt_kernel_ext as ext
from safetensors.numpy import load_file

from conformance.adapters.messages import write_arrays

HELLO = {"name": "kt-kernel", "precision": "bf16", "ops": ["moe"]}
PARTS = ("gate", "up", "down")


class Skipped(Exception):
    """What the kernel has no way to run."""


def main() -> None:
    """Answer one line after another."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the library prints; standard output is for the protocol
    for line in sys.stdin:
        question = json.loads(line)
        try:
            reply: dict[str, Any] = {"result": _answer(question)}
        except Skipped as reason:
            reply = {"skipped": {"reason": str(reason)}}
        except Exception as error:
            reply = {"errored": {"message": f"{type(error).__name__}: {error}"}}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()
        if question["cmd"] == "bye":
            os._exit(0)  # the library's own end prints and may wait


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    if question["cmd"] == "hello":
        return {**HELLO, "version": str(ext_version())}
    if question["cmd"] != "op":
        return {}
    given = load_file(question["inputs"])
    out_TD = moe(given, question["args"])
    write_arrays(Path(question["outputs"]), {"out_TD": out_TD})
    return {}


def ext_version() -> str:
    """Read the installed version: -> text."""
    from importlib.metadata import version

    return version("kt-kernel")


def moe(given: dict[str, np.ndarray], args: dict[str, Any]) -> np.ndarray:
    """Run the experts: named arrays, scalars -> out_TD bfloat16."""
    if "experts.0.gate.packed_MP" not in given:
        raise Skipped("kt-kernel runs packed INT4 experts here")
    if args.get("dequant", "exact") != "exact":
        raise Skipped("kt-kernel dequantises exactly")
    x_TD = np.ascontiguousarray(given["x_TD"].astype(ml_dtypes.bfloat16).view(np.uint16))
    experts_TK = np.ascontiguousarray(given["routing.experts_TK"].astype(np.int64))
    weights_TK = np.ascontiguousarray(given["routing.weights_TK"].astype(np.float32))
    (T, D), K = x_TD.shape, experts_TK.shape[1]
    kernel, pool, _kept = _kernel(given, args, tokens=T, width=D, chosen=K)
    out_TD, count = np.zeros((T, D), np.uint16), np.array([T], np.int32)
    addresses = [a.ctypes.data for a in (experts_TK, weights_TK, x_TD, out_TD)]
    pool.submit(kernel.forward_task(count.ctypes.data, K, *addresses, False))
    pool.sync()
    return out_TD.view(ml_dtypes.bfloat16)


def _kernel(
    given: dict[str, np.ndarray], args: dict[str, Any], *, tokens: int, width: int, chosen: int
) -> tuple[Any, Any, list[np.ndarray]]:
    """Hand the packed bytes over as they are: -> kernel, its threads, the arrays it points to."""
    count = len({name.split(".")[1] for name in given if name.startswith("experts.")})
    inner = len(given["experts.0.gate.packed_MP"])
    size = int(args["experts.0.gate.group_size"])
    if width % 64 or inner % 32:
        raise Skipped("kt-kernel needs widths that are multiples of 64 and 32")
    kept: list[np.ndarray] = [np.zeros(count, bool), np.arange(count, dtype=np.int64)]

    def pointers(part: str, field: str) -> list[list[int]]:
        arrays = [given[f"experts.{e}.{part}.{field}"] for e in range(count)]
        if field == "scale_MG":
            arrays = [a.astype(ml_dtypes.bfloat16).view(np.uint16) for a in arrays]
        kept.extend(np.ascontiguousarray(a) for a in arrays)
        return [[a.ctypes.data for a in kept[-count:]]]

    workers = ext.WorkerPoolConfig()
    workers.subpool_count, workers.subpool_numa_map, workers.subpool_thread_count = 1, [0], [1]
    pool = ext.CPUInfer(workers)
    config = ext.moe.MOEConfig(count, chosen, width, inner, kept[0].ctypes.data)
    config.layer_idx, config.pool, config.max_len = 0, pool.backend_, max(tokens, 64)
    for part in PARTS:
        setattr(config, f"{part}_projs", pointers(part, "packed_MP"))
        setattr(config, f"{part}_scales", pointers(part, "scale_MG"))
    config.quant_config.bits, config.quant_config.group_size = 4, size
    config.quant_config.zero_point = False
    kernel = ext.moe.AVX2RawInt4_MOE(config)
    pool.submit(kernel.load_weights_task(kept[1].ctypes.data))
    pool.sync()
    return kernel, pool, kept


if __name__ == "__main__":
    main()
