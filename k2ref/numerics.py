"""The questions that correct engines answer differently, as one frozen value.

The defaults are what the published code does. `spec/questions.md` says who does what, and where it
shows.
"""

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, Literal

from k2ref.errors import InputError


@dataclass(frozen=True)
class Numerics:
    """One answer to every open question of the specification."""

    latent_norm_eps: Literal["1e-6", "rms_norm_eps"] = "1e-6"
    """eps of q_a_layernorm and kv_a_layernorm: fixed, or the config's"""
    angle_precision: Literal["float32", "float64"] = "float32"
    """precision of frequency, position and their product; cosines are exact either way"""
    rope_dtype: Literal["float32", "model"] = "float32"
    """precision of cosines and sines: float32 or wider, or that of the activations"""
    yarn: Literal["always", "when_longer"] = "always"
    """whether a context that was trained without YaRN still gets it"""
    softmax_mscale: Literal["mscale_all_dim", "mscale"] = "mscale_all_dim"
    """which of the two keys sharpens the softmax"""
    dequant: Literal["exact", "bf16"] = "exact"
    """INT4 weights as code · scale, or that product rounded to bfloat16"""
    norm_rounding: Literal["before_gain", "after_gain"] = "before_gain"
    """where RMSNorm rounds to the model's precision"""
    router_dtype: Literal["float32", "model"] = "float32"
    """precision that router logits are rounded to: float32 or wider, or that of the activations"""
    renorm_eps: Literal["1e-20", "0"] = "1e-20"
    """what is added to the sum of the chosen scores"""
    renorm_single: Literal["yes", "no"] = "yes"
    """whether a single chosen expert is renormalised as well"""
    mask_fill: Literal["-inf", "0"] = "-inf"
    """the biased score of experts in groups that were not kept"""
    tie_rule: Literal["lower_index", "higher_index"] = "lower_index"
    """which of two equal experts is chosen"""
    moe_layer_freq: Literal["honoured", "ignored"] = "honoured"
    """whether the config key of that name thins out the sparse layers"""

    def __post_init__(self) -> None:
        for name, allowed in questions().items():
            found = getattr(self, name)
            if found not in allowed:
                raise InputError(
                    f"numerics {name} must be one of {', '.join(allowed)}, got {found}"
                )


def questions() -> dict[str, tuple[str, ...]]:
    """List the questions and their allowed answers: -> name to answers, the default first."""
    hints = typing.get_type_hints(Numerics)
    return {
        field.name: typing.get_args(hints[field.name]) for field in dataclasses.fields(Numerics)
    }


def parse_numerics(assignments: list[str]) -> Numerics:
    """Read `key=value` arguments: assignments -> Numerics.

    Raises:
        InputError: a key or a value that does not exist, with those that do.
    """
    chosen: dict[str, Any] = {}
    for assignment in assignments:
        key, _, value = assignment.partition("=")
        if key not in questions():
            raise InputError(f"numerics has no key {key!r}; the keys are {', '.join(questions())}")
        chosen[key] = value
    return Numerics(**chosen)
