"""The border between NumPy and the kernels: which arrays come in, as what.

Kernels see float32 activations and read-only weights. bfloat16 values go in as their bits (uint16),
e4m3 values as theirs (uint8), so that no weight is copied.
"""

import numpy as np

WIDTH = 16  # lanes of a vector


def fits(name: str, a: np.ndarray, wanted: tuple[int, ...]) -> None:
    """Refuse an array of another shape, which a kernel would read past: name, array, shape."""
    if a.shape != wanted:
        raise ValueError(f"{name} must have shape {list(wanted)}, got {list(a.shape)}")


def activations(x: np.ndarray) -> np.ndarray:
    """Raise to float32, in one piece: x float32, bfloat16 or float16 -> x as float32."""
    if x.dtype.itemsize > 4:
        raise TypeError(f"kernels compute in float32, got {x.dtype}; the oracle takes {x.dtype}")
    return np.ascontiguousarray(x, np.float32)


def stored(w: np.ndarray) -> np.ndarray:
    """Look at a weight as the kernels read it: w -> float32, or the bits of a narrower type."""
    return read_only(_bits(w))


def _bits(w: np.ndarray) -> np.ndarray:
    if w.dtype.name == "bfloat16":
        return w.view(np.uint16)
    if w.dtype.name == "float8_e4m3fn":
        return w.view(np.uint8)
    return w.astype(np.float32, copy=False)


def scale_bits(scale_MG: np.ndarray) -> np.ndarray | None:
    """Look at scales as bfloat16 bits: scale_MG -> bits_MG uint16, or None if they need more."""
    if scale_MG.dtype.name == "bfloat16":
        return read_only(scale_MG.view(np.uint16))
    bits_MG = np.ascontiguousarray(scale_MG, np.float32).view(np.uint32)
    if (bits_MG & 0xFFFF).any():
        return None
    return read_only((bits_MG >> 16).astype(np.uint16))


def read_only(a: np.ndarray) -> np.ndarray:
    """Look at an array without the right to write, in one piece: a -> view or copy.

    One compiled variant then serves memory maps, which cannot be written, and everything else.
    """
    return _locked(np.ascontiguousarray(a))


def _locked(a: np.ndarray) -> np.ndarray:
    a = a[...]
    a.flags.writeable = False
    return a


def widened(a: np.ndarray, vectors: int) -> np.ndarray:
    """Fill the last axis up to whole groups of vectors: a -> read-only a, copied only if short."""
    short = -a.shape[-1] % (WIDTH * vectors)
    if short:
        a = np.pad(a.astype(np.float32), [(0, 0)] * (a.ndim - 1) + [(0, short)])
    return _locked(_bits(a))


def columns_from(a: np.ndarray, start: int, width: int) -> np.ndarray:
    """Copy the columns from `start` on and fill up with zeros to `width`: a -> part."""
    part = np.zeros((len(a), width), a.dtype)
    rest = a[:, start : start + width]
    part[:, : rest.shape[1]] = rest
    return read_only(part)


def at_least(a: np.ndarray, rows: int) -> np.ndarray:
    """Append rows of zeros up to `rows`: a -> read-only a, copied only if it is shorter."""
    if len(a) >= rows:
        return read_only(a)
    return read_only(np.concatenate([a, np.zeros((rows - len(a), a.shape[1]), a.dtype)]))


def flat(a: np.ndarray, size: int) -> np.ndarray:
    """Unroll an array and fill up with zeros to `size`: a -> read-only values."""
    values = np.ascontiguousarray(a).reshape(-1)
    if values.size < size:
        values = np.concatenate([values, np.zeros(size - values.size, a.dtype)])
    return read_only(values)
