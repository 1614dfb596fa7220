"""The tensors of a checkpoint under transformers' names: dense float32, experts stacked."""

from pathlib import Path

import numpy as np

from k2ref import Checkpoint
from k2ref.oracle import dense
from k2ref.tensors import tensors


def dequantised_state(directory: Path) -> dict[str, np.ndarray]:
    """Read a checkpoint without rounding anything: directory -> arrays by name, float32."""
    checkpoint = Checkpoint(directory)
    state: dict[str, np.ndarray] = {}
    experts: dict[str, list[np.ndarray]] = {}
    for tensor in tensors(checkpoint.config):
        if ".mlp.experts." in tensor.name:
            layer, _, rest = tensor.name.partition(".mlp.experts.")
            part = rest.split(".")[1]
            experts.setdefault(f"{layer}.mlp.experts.{part}", []).append(
                dense(checkpoint.weight(tensor.module)).astype(np.float32)
            )
        else:
            stored = checkpoint.weight(tensor.module) if tensor.linear else checkpoint[tensor.name]
            state[tensor.name] = dense(stored).astype(np.float32)
    for name in [n for n in experts if n.endswith("gate_proj")]:
        base = name.removesuffix("gate_proj")
        gate_EFD, up_EFD = np.stack(experts[name]), np.stack(experts[f"{base}up_proj"])
        state[f"{base}gate_up_proj"] = np.concatenate([gate_EFD, up_EFD], axis=1)
        state[f"{base}down_proj"] = np.stack(experts[f"{base}down_proj"])
    return state
