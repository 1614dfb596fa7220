"""Which modules of a checkpoint are quantised, and how: its `quantization_config`."""

import re
from dataclasses import dataclass
from typing import Any

from k2ref.errors import InputError


@dataclass(frozen=True)
class Int4Group:
    """The modules that one entry of `config_groups` matches, and their group size."""

    targets: tuple[str, ...]
    group_size: int


@dataclass(frozen=True)
class Quantization:
    """What is quantised: nothing, FP8 blocks, or INT4 groups less the modules to ignore."""

    method: str = "none"
    block: tuple[int, int] = (128, 128)
    groups: tuple[Int4Group, ...] = ()
    ignore: tuple[str, ...] = ()

    def int4_group_size(self, module: str) -> int | None:
        """Find the group size of a linear module: name -> group size, None where not INT4."""
        if any(_matches(pattern, module) for pattern in self.ignore):
            return None
        for group in self.groups:
            if any(target == "Linear" or _matches(target, module) for target in group.targets):
                return group.group_size
        return None


def _matches(pattern: str, module: str) -> bool:
    if pattern.startswith("re:"):
        return re.match(pattern[3:], module) is not None
    return pattern == module


def read_quantization(table: dict[str, Any] | None) -> Quantization:
    """Read `quantization_config`: table or None -> Quantization.

    Raises:
        InputError: a method or format that is not one of the family's.
    """
    if not table:
        return Quantization()
    method = table.get("quant_method")
    if method == "fp8":
        block = table.get("weight_block_size")
        if not (isinstance(block, list) and len(block) == 2 and all(b > 0 for b in block)):
            raise InputError(f"fp8 weights need weight_block_size [rows, columns], got {block}")
        return Quantization("fp8", block=(int(block[0]), int(block[1])))
    if method == "compressed-tensors":
        return _read_compressed_tensors(table)
    raise InputError(f"quant_method must be fp8 or compressed-tensors, got {method!r}")


def _read_compressed_tensors(table: dict[str, Any]) -> Quantization:
    if table.get("format") != "pack-quantized":
        raise InputError(
            f"compressed-tensors format must be pack-quantized, got {table.get('format')!r}"
        )
    groups = tuple(_read_group(name, g) for name, g in table.get("config_groups", {}).items())
    return Quantization("int4", groups=groups, ignore=tuple(table.get("ignore") or ()))


def _read_group(name: str, group: dict[str, Any]) -> Int4Group:
    weights = group.get("weights") or {}
    wanted = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group"}
    for key, value in wanted.items():
        if weights.get(key) != value:
            raise InputError(f"{name}: weights.{key} must be {value}, got {weights.get(key)!r}")
    if weights.get("actorder"):
        raise InputError(f"{name}: weights.actorder must be null, got {weights['actorder']!r}")
    size = weights.get("group_size")
    if not isinstance(size, int) or size < 1:
        raise InputError(f"{name}: weights.group_size must be a positive number, got {size!r}")
    return Int4Group(tuple(group.get("targets") or ()), size)


def int4_config(group_size: int = 32) -> dict[str, Any]:
    """Write the `quantization_config` of the published INT4 checkpoints: group size -> table."""
    weights: dict[str, Any] = {
        "actorder": None,
        "block_structure": None,
        "dynamic": False,
        "group_size": group_size,
        "num_bits": 4,
        "observer": "minmax",
        "observer_kwargs": {},
        "strategy": "group",
        "symmetric": True,
        "type": "int",
    }
    ignore = ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*"]
    ignore.append(r"re:.*mlp\.(gate|up|gate_up|down)_proj.*")
    group = {"input_activations": None, "output_activations": None, "targets": ["Linear"]}
    return {
        "config_groups": {"group_0": {**group, "weights": weights}},
        "format": "pack-quantized",
        "ignore": ignore,
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    }


def fp8_config() -> dict[str, Any]:
    """Write the `quantization_config` of the published FP8 checkpoints: -> table."""
    return {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    }
