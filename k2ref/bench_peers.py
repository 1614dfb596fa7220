"""Other libraries' INT4 products on the CPU, each as a function of one activation vector.

A peer is given the same codes and scales as our kernels and brings them into its own layout before
the clock starts. What it multiplies in differs and is part of its name: `f32` is comparable with
our arithmetic; `bf16` and `w4a8` (activations rounded to 8 bits) are cheaper and less exact.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

Product = Callable[[np.ndarray], np.ndarray]
GROUP = 32


class Peer(NamedTuple):
    """A way to multiply: its name, the packages it needs, and how a matrix is prepared for it."""

    name: str
    packages: tuple[str, ...]
    prepare: Callable[[np.ndarray, np.ndarray, int], Product]


def installed() -> Iterator[Peer]:
    """List the peers whose packages are here: -> peers."""
    for peer in PEERS:
        if not missing(peer):
            yield peer


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


PEERS = (
    Peer("openvino u4, f32", ("openvino",), _openvino("f32", 0)),
    Peer("openvino u4, w4a8", ("openvino",), _openvino("f32", GROUP)),
    Peer("onnxruntime MatMulNBits, f32", ("onnxruntime", "onnx"), _onnxruntime(0)),
    Peer("onnxruntime MatMulNBits, w4a8", ("onnxruntime", "onnx"), _onnxruntime(4)),
    Peer("torch int4pack, bf16", ("torch",), _torch),
)
