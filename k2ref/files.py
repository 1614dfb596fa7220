"""Arrays in and out of files: whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from k2ref.errors import InputError


def load_array(path: Path) -> np.ndarray:
    """Read an .npy file: path -> array."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not a readable .npy file: {error}") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: wanted one array (.npy), found several (.npz)")
    return array


def check_output(path: Path | None) -> None:
    """Refuse an output that could not be written in the end: path or None."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise InputError(f"{path}: not a file in an existing folder")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Hand out a path beside the target, which takes its place when all went well: path -> path."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    unfinished = Path(name)
    try:
        yield unfinished
        mask = os.umask(0)
        os.umask(mask)
        unfinished.chmod(0o666 & ~mask)  # as if created in place
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy file; bfloat16, which the format lacks, as float32: path, array."""
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.save(file, _portable(array))


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz file: path, arrays by name."""
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, allow_pickle=False, **{n: _portable(a) for n, a in arrays.items()})


def save_tensors(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a safetensors file, bfloat16 included: path, arrays by name."""
    with replacing(path) as unfinished:
        save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, unfinished)


def _portable(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
