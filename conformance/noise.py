"""Noise units: how far a correct result may stray, measured by disturbing the reference.

Monte-Carlo arithmetic (Parker 1997): the reference runs a few times in float64 while every declared
rounding point adds a relative error, uniform within one unit of the engine's precision. σ of a row
is the root mean square of the deviations over the runs.

A sum of L terms is rounded L times, each time to the size of the partial sum. Matrix kernels add
one term after the other into each result, so that partial sums are k/L of the result by drift and
√k of a term by chance, and their squares add up to L(S²/3 + Σt²/2). A rounding is 0.42 of half a
unit at the root mean square, which is a uniform error within one unit for L/16 in the place of L.
"""

from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from conformance.calls import answers, arguments
from conformance.compare import Precision
from conformance.variant import Arithmetic, Product, Rounding, Variant

RUNS = 12
SUMMED_TOGETHER = 16  # terms whose sum errs by about one unit; longer sums by the root


def disturbing(precision: Precision, seed: int) -> Arithmetic:
    """Make an arithmetic that errs as a precision may: precision, seed -> Arithmetic."""
    random = np.random.default_rng(seed)

    def by(unit: float) -> Rounding:
        return lambda x: x * (1 + random.uniform(-unit, unit, np.shape(x)))

    def product(x_TL: np.ndarray, w_ML: np.ndarray) -> np.ndarray:
        sum_TM = np.asarray(x_TL @ w_ML.T)
        size_TM = np.sqrt((x_TL * x_TL) @ (w_ML * w_ML).T + sum_TM * sum_TM * 2 / 3)
        unit = precision.sums * max(1.0, (x_TL.shape[1] / SUMMED_TOGETHER) ** 0.5)
        return sum_TM + random.uniform(-unit, unit, size_TM.shape) * size_TM

    store = by(precision.store)
    return Arithmetic("disturbed", np.float64, store, by(precision.sums), product, store)


def _split(parts: int, *, permuted: bool = False) -> Product:
    def product(x_TL: np.ndarray, w_ML: np.ndarray) -> np.ndarray:
        L = x_TL.shape[1]
        columns = np.random.default_rng(L).permutation(L) if permuted else np.arange(L)
        total = np.zeros((len(x_TL), len(w_ML)), x_TL.dtype)
        for part in np.array_split(columns, parts):
            total = total + x_TL[:, part] @ w_ML[:, part].T
        return total

    return product


def _blas(x_TL: np.ndarray, w_ML: np.ndarray) -> np.ndarray:
    return np.asarray(x_TL @ w_ML.T)


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _bfloat16(x: np.ndarray) -> np.ndarray:
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def zoo(precision: str) -> dict[str, Arithmetic]:
    """List correct ways to compute: f32 or bf16 -> name to Arithmetic."""
    one, f32 = np.float32, _same
    permuted = _split(16, permuted=True)
    if precision == "f32":
        return {
            "blas": Arithmetic("blas", one, f32, f32, _blas, f32),
            "split-8": Arithmetic("split-8", one, f32, f32, _split(8), f32),
            "permuted-16": Arithmetic("permuted-16", one, f32, f32, permuted, f32),
        }
    b16 = _bfloat16
    return {
        "stored": Arithmetic("stored", one, b16, f32, _blas, f32),
        "split-8": Arithmetic("split-8", one, b16, f32, _split(8), f32),
        "permuted-16": Arithmetic("permuted-16", one, b16, f32, permuted, f32),
        "partial-experts": Arithmetic("partial-experts", one, b16, f32, _blas, b16),
        "two-partials": Arithmetic("two-partials", one, b16, f32, _split(2), b16),
    }


def call(engine: Any, op: str, table: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Call an operation of a namespace: engine, operation, table -> answers by name."""
    positional, keyword = arguments(op, table)
    return answers(op, getattr(engine, op)(*positional, **keyword))


def in_float64(table: Mapping[str, Any]) -> dict[str, Any]:
    """Raise activations and weights to float64, exactly: table -> table."""

    def raised(value: Any) -> Any:
        wide = isinstance(value, np.ndarray) and value.dtype in (
            np.float32,
            np.float16,
            ml_dtypes.bfloat16,
        )
        return value.astype(np.float64) if wide else value

    kept = ("angle_TZ", "inv_freq_Z", "scale_MG", "scale_UJ")
    return {k: v if k.rsplit(".", 1)[-1] in kept else raised(v) for k, v in table.items()}


def spread(
    compute: Callable[[Variant], np.ndarray], expected: np.ndarray, precision: Precision
) -> np.ndarray:
    """Measure the noise of each row: computation, expected, precision -> sigma per row."""
    squares = [
        np.mean(np.square(compute(Variant(disturbing(precision, seed))) - expected), axis=-1)
        for seed in range(RUNS)
    ]
    return np.asarray(np.sqrt(np.mean(squares, axis=0)))
