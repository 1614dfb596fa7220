"""Other libraries' INT4 products on the CPU, each as a function of one activation vector.

`PEERS` multiply by matrices, one after another; `EXPERT_PEERS` run the experts of a layer at once.

A peer is given the same codes and scales as our kernels and brings them into its own layout before
the clock starts. What it multiplies in differs and is part of its name: `f32` is comparable with
our arithmetic; `bf16` and `w4a8` (activations rounded to 8 bits) are cheaper and less exact.
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from k2ref import bench_native
from k2ref.bench_native import Matrix, Products

Product = Callable[[np.ndarray], np.ndarray]
GROUP = 32


class Peer(NamedTuple):
    """A way to multiply: its name, the packages it needs, and how weights are prepared for it."""

    name: str
    packages: tuple[str, ...]
    prepare: Callable[[Any, int], Products]


def find(name: str) -> Peer:
    """Look a peer up: name -> Peer."""
    return next(peer for peer in (*PEERS, *EXPERT_PEERS) if peer.name == name)


def each(prepare: Callable[..., Product]) -> Callable[[Sequence[Matrix], int], Products]:
    """Prepare matrices one by one: preparation of a matrix -> preparation of all."""

    def prepare_all(matrices: Sequence[Matrix], threads: int) -> Products:
        functions = [prepare(*matrix, threads) for matrix in matrices]
        return lambda x_1L: [function(x_1L) for function in functions]

    return prepare_all


def missing(peer: Peer) -> list[str]:
    """List the packages a peer lacks: peer -> names."""
    return [name for name in peer.packages if importlib.util.find_spec(name) is None]


def _nibbles(codes_ML: np.ndarray) -> np.ndarray:
    """Pack codes + 8, the first of two in the low half of a byte: codes_ML -> bytes."""
    u = (codes_ML + 8).astype(np.uint8)
    return u[:, 0::2] | u[:, 1::2] << 4


def _openvino(precision: str, quantised_group: int) -> Callable[..., Product]:
    def prepare(codes_ML: np.ndarray, scale_MG: np.ndarray, threads: int) -> Product:
        ov = importlib.import_module("openvino")
        ops = importlib.import_module("openvino.opset13")
        M, L = codes_ML.shape
        u = (codes_ML + 8).astype(np.uint8).reshape(M, L // GROUP, GROUP)
        packed = ov.Tensor(np.ascontiguousarray(_nibbles(codes_ML)), u.shape, ov.Type.u4)
        weight = ops.convert(ops.constant(packed), ov.Type.f16)
        zero = ops.constant(np.full((1, 1, 1), 8, np.float16))
        scale = ops.constant(scale_MG.astype(np.float16)[:, :, None])
        w = ops.reshape(ops.multiply(ops.subtract(weight, zero), scale), [M, L], False)
        x = ops.parameter([1, L], ov.Type.f32)
        out = ops.matmul(x, ops.convert(w, ov.Type.f32), False, True)
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": precision,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": quantised_group,
        }
        request = ov.Core().compile_model(ov.Model([out], [x]), "CPU", options)
        infer = request.create_infer_request()
        return lambda x_1L: infer.infer([x_1L], share_inputs=True, share_outputs=True)[0]

    return prepare


def _onnxruntime(level: int) -> Callable[..., Product]:
    def prepare(codes_ML: np.ndarray, scale_MG: np.ndarray, threads: int) -> Product:
        onnx = importlib.import_module("onnx")
        runtime = importlib.import_module("onnxruntime")
        M, L = codes_ML.shape
        helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
        node = helper.make_node(
            "MatMulNBits",
            ["x", "w", "scale"],
            ["y"],
            domain="com.microsoft",
            K=L,
            N=M,
            bits=4,
            block_size=GROUP,
            accuracy_level=level,
        )
        bytes_ = _nibbles(codes_ML).reshape(M, L // GROUP, GROUP // 2)
        graph = helper.make_graph(
            [node],
            "product",
            [helper.make_tensor_value_info("x", float32, [1, L])],
            [helper.make_tensor_value_info("y", float32, [1, M])],
            [
                onnx.numpy_helper.from_array(bytes_, "w"),
                onnx.numpy_helper.from_array(scale_MG.reshape(-1), "scale"),
            ],
        )
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        session = runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return lambda x_1L: session.run(None, {"x": x_1L})[0]

    return prepare


def _torch(codes_ML: np.ndarray, scale_MG: np.ndarray, threads: int) -> Product:
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(threads)
    M, _ = codes_ML.shape
    u = torch.from_numpy((codes_ML + 8).astype(np.int32))
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(u, 1)
    scale_GM = torch.from_numpy(scale_MG.T.copy()).bfloat16()
    # this product computes (u - 8) · scale + zero
    both = torch.stack([scale_GM, torch.zeros_like(scale_GM)], dim=2).contiguous()

    def product(x_1L: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(x_1L).bfloat16()
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, GROUP, both)
        return np.asarray(out.float().numpy())

    return product


ONNX = ("onnxruntime", "onnx")
PEERS = (
    Peer("openvino u4, f32", ("openvino",), each(_openvino("f32", 0))),
    Peer("openvino u4, w4a8", ("openvino",), each(_openvino("f32", GROUP))),
    Peer("onnxruntime MatMulNBits, f32", ONNX, each(_onnxruntime(0))),
    Peer("onnxruntime MatMulNBits, w4a8", ONNX, each(_onnxruntime(4))),
    Peer("torch int4pack, bf16", ("torch",), each(_torch)),
    Peer("llama.cpp Q4_0, w4a8", ("xllamacpp",), bench_native.llama_cpp),
)
EXPERT_PEERS = (
    Peer("kt-kernel RawInt4, bf16", ("kt_kernel",), bench_native.kt_kernel("AVX2RawInt4_MOE")),
    Peer("kt-kernel KGroup, w4a8", ("kt_kernel",), bench_native.kt_kernel("AMXInt4_KGroup_MOE")),
)
