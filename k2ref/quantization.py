"""Which modules of a checkpoint are quantised, and how: its `quantization_config`."""

import re
from dataclasses import dataclass
from typing import Any

from k2ref.errors import InputError
from k2ref.tables import Table, child, strings, whole


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


def read_quantization(table: Table | None) -> Quantization:
    """Read `quantization_config`: table or None -> Quantization.

    Raises:
        InputError: a method or format that is not one of the family's.
    """
    if not table:
        return Quantization()
    method = table.get("quant_method")
    if method == "fp8":
        block = table.get("weight_block_size")
        if not isinstance(block, list) or len(block) != 2:
            raise InputError(f"fp8 weights need weight_block_size [rows, columns], got {block!r}")
        rows, columns = (whole("weight_block_size", size) for size in block)
        return Quantization("fp8", block=(rows, columns))
    if method == "compressed-tensors":
        return _read_compressed_tensors(table)
    raise InputError(f"quant_method must be fp8 or compressed-tensors, got {method!r}")


def _read_compressed_tensors(table: Table) -> Quantization:
    if table.get("format") != "pack-quantized":
        raise InputError(
            f"compressed-tensors format must be pack-quantized, got {table.get('format')!r}"
        )
    groups = child(table, "config_groups")
    read = tuple(_read_group(name, child(groups, name)) for name in groups)
    return Quantization("int4", groups=read, ignore=_patterns("ignore", table.get("ignore")))


def _patterns(name: str, value: Any) -> tuple[str, ...]:
    """Check names and patterns of modules, those with `re:` for being regular expressions."""
    patterns = strings(name, value)
    for pattern in patterns:
        try:
            re.compile(pattern[3:] if pattern.startswith("re:") else "")
        except re.error as error:
            raise InputError(f"{name} has {pattern!r}, no regular expression: {error}") from None
    return patterns


def _read_group(name: str, group: Table) -> Int4Group:
    weights = child(group, "weights")
    wanted = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group"}
    for key, value in wanted.items():
        if weights.get(key) != value:
            raise InputError(f"{name}: weights.{key} must be {value}, got {weights.get(key)!r}")
    if weights.get("actorder"):
        raise InputError(f"{name}: weights.actorder must be null, got {weights['actorder']!r}")
    size = whole(f"{name}: weights.group_size", weights.get("group_size"))
    return Int4Group(_patterns(f"{name}: targets", group.get("targets")), size)


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
