"""Engines in C and C++ that offer no single product to Python: llama.cpp's and kt-kernel's.

llama.cpp: `xllamacpp` carries ggml inside, whose C functions are called here. A graph of all
products is computed at once, weights in the layout llama.cpp gives them at load; activations are
rounded to 8 bits in blocks of 32. kt-kernel: a whole layer of experts, in its own threads;
`AVX2RawInt4` multiplies bfloat16 activations, `AMXInt4_KGroup` 8-bit ones.
"""

import ctypes
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

Matrix = tuple[np.ndarray, np.ndarray]  # codes_ML int8, scale_MG float32
Experts = Sequence[Any]  # of Expert whose weights are Int4
Products = Callable[[np.ndarray], list[np.ndarray]]
F32, Q4_0 = 0, 2  # of ggml's types
GRAPH_BYTES = 1 << 26
POINTERS = (
    "ggml_init",
    "ggml_new_tensor_2d",
    "ggml_mul_mat",
    "ggml_new_graph",
    "ggml_get_data",
    "ggml_backend_alloc_ctx_tensors_from_buft",
    "_Z35ggml_backend_cpu_repack_buffer_typev",
)


class _Ggml:
    """The functions of ggml, pointers in and out as such."""

    class Memory(ctypes.Structure):
        """How much memory a context has, and whether its tensors get none."""

        _fields_ = (
            ("size", ctypes.c_size_t),
            ("place", ctypes.c_void_p),
            ("without_data", ctypes.c_bool),
        )

    def __init__(self) -> None:
        self.library = ctypes.CDLL(str(importlib.import_module("xllamacpp.xllamacpp").__file__))
        for name in POINTERS:
            getattr(self.library, name).restype = ctypes.c_void_p

    def __call__(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        return ctypes.c_void_p(getattr(self.library, name)(*arguments))

    def context(self, size: int, *, without_data: bool) -> ctypes.c_void_p:
        return self("ggml_init", self.Memory(size, None, without_data))

    def tensor(self, context: Any, kind: int, columns: int, rows: int) -> ctypes.c_void_p:
        sizes = ctypes.c_int64(columns), ctypes.c_int64(rows)
        return self("ggml_new_tensor_2d", context, kind, *sizes)

    def floats(self, tensor: Any, count: int) -> np.ndarray:
        place = self("ggml_get_data", tensor).value
        return np.ctypeslib.as_array((ctypes.c_float * count).from_address(place or 0))


def llama_cpp(matrices: Sequence[Matrix], threads: int) -> Products:
    """Prepare ggml's products: matrices, threads -> products."""
    ggml = _Ggml()
    (M, L), blocks = matrices[0][0].shape, [q4_0_blocks(*matrix) for matrix in matrices]
    ggml("ggml_cpu_init")
    kept = ggml.context(1 << 20, without_data=True)
    weights = [ggml.tensor(kept, Q4_0, L, M) for _ in matrices]
    layout = ggml("_Z35ggml_backend_cpu_repack_buffer_typev")
    ggml("ggml_backend_alloc_ctx_tensors_from_buft", kept, layout)
    context = ggml.context(GRAPH_BYTES, without_data=False)
    x, graph = ggml.tensor(context, F32, L, 1), ggml("ggml_new_graph", context)
    outs = []
    for weight, block in zip(weights, blocks, strict=True):
        size, data = ctypes.c_size_t(block.nbytes), ctypes.c_void_p(block.ctypes.data)
        ggml("ggml_backend_tensor_set", weight, data, ctypes.c_size_t(0), size)
        outs.append(ggml("ggml_mul_mat", context, weight, x))
        ggml("ggml_build_forward_expand", graph, outs[-1])

    def products(x_1L: np.ndarray) -> list[np.ndarray]:
        ggml.floats(x, L)[:] = x_1L[0]
        ggml("ggml_graph_compute_with_ctx", context, graph, threads)
        return [ggml.floats(out, M)[None] for out in outs]

    return products


def q4_0_blocks(codes_ML: np.ndarray, scale_MG: np.ndarray) -> np.ndarray:
    """Lay codes out as Q4_0: a float16 scale, then codes j and j + 16 in byte j: -> blocks."""
    u = (codes_ML + 8).astype(np.uint8).reshape(len(codes_ML), -1, 32)
    scales = np.ascontiguousarray(scale_MG, np.float16)[:, :, None].view(np.uint8)
    return np.concatenate([scales, u[:, :, :16] | u[:, :, 16:] << 4], axis=2)


def kt_kernel(kernel: str) -> Callable[[Experts, int], Products]:
    """Choose one of kt-kernel's kernels: name -> preparation of experts."""

    def prepare(experts: Experts, threads: int) -> Products:
        ext: Any = importlib.import_module("kt_kernel").kt_kernel_ext
        workers = ext.WorkerPoolConfig()
        workers.subpool_count, workers.subpool_numa_map = 1, [0]
        workers.subpool_thread_count = [threads]
        pool = ext.CPUInfer(workers)
        count, (F, _), D = len(experts), experts[0].gate.packed_MP.shape, experts[0].gate.columns
        kept = [np.zeros(count, bool), np.arange(count, dtype=np.int64)]
        config = ext.moe.MOEConfig(count, count, D, F, kept[0].ctypes.data)
        config.layer_idx, config.pool, config.max_len = 0, pool.backend_, 64
        for part in ("gate", "up", "down"):
            packed = [np.ascontiguousarray(getattr(e, part).packed_MP) for e in experts]
            scales = [getattr(e, part).scale_MG.view(np.uint16).copy() for e in experts]
            kept += packed + scales
            setattr(config, f"{part}_projs", [[a.ctypes.data for a in packed]])
            setattr(config, f"{part}_scales", [[a.ctypes.data for a in scales]])
        config.quant_config.bits, config.quant_config.group_size = 4, experts[0].gate.group_size
        config.quant_config.zero_point = False
        moe = getattr(ext.moe, kernel)(config)
        pool.submit(moe.load_weights_task(kept[1].ctypes.data))
        pool.sync()
        chosen, weights = np.arange(count, dtype=np.int64), np.ones(count, np.float32)
        kept += [chosen, weights]

        def products(x_1D: np.ndarray) -> list[np.ndarray]:
            x = np.ascontiguousarray(x_1D.astype(ml_dtypes.bfloat16).view(np.uint16))
            out, one = np.zeros((1, D), np.uint16), np.array([1], np.int32)
            places = [a.ctypes.data for a in (chosen, weights, x, out)]
            pool.submit(moe.forward_task(one.ctypes.data, count, *places, False))
            pool.sync()
            return [out.view(ml_dtypes.bfloat16)] if kept else []  # they live as long as this

        return products

    return prepare
