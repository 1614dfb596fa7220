"""Arrays between NumPy and torch, bfloat16 included, without rounding."""

from typing import Any

import ml_dtypes
import numpy as np

from k2ref.errors import InputError

try:
    import torch
except ImportError as error:
    raise InputError(
        f"this engine needs torch ({error}): python -m pip install 'k2ref[peers]'"
    ) from None


def to_torch(array: np.ndarray) -> Any:
    """Copy an array into torch: array -> tensor."""
    array = np.ascontiguousarray(array)
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def to_numpy(tensor: Any) -> np.ndarray:
    """Copy a tensor out of torch: tensor -> array."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy()
    return tensor.numpy().copy()


def interleave(halves: Any) -> Any:
    """Undo the order of rotated heads in transformers, even dimensions first: halves -> pairs."""
    return torch.stack(halves.chunk(2, dim=-1), dim=-1).flatten(-2)
