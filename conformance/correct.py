"""Engines that must never be accused: ours under every arithmetic, foreign ones where installed."""

from collections.abc import Iterator

from conformance.engine import Engine, Namespace
from conformance.noise import zoo
from conformance.variant import Variant
from k2ref import oracle

# precision -> addresses of other implementations, each right in the precision that it declares
FOREIGN = {
    "f32": ("k2ref.kernels", "hf:", "mlx:", "gguf:"),
    "bf16": ("hf:dtype=bfloat16", "hf:weights=shipped", "gguf:experts=q4_0", "kt:"),
}


def correct_engines(precision: str) -> Iterator[Engine]:
    """List the engines that nothing need be installed for: precision -> engines."""
    yield Namespace(oracle, name="k2ref.oracle", precision=precision)
    for name, arithmetic in zoo(precision).items():
        yield Namespace(Variant(arithmetic), name=name, precision=precision)
