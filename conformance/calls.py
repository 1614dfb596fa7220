"""From named arrays to a call of an operation, and from its answer to named arrays.

A case, a message to another process and a vector file all hold the same flat table: arrays and
scalars under the names of the oracle's parameters. Weights in packed form have dotted names
(`gate.packed_MP`, `gate.scale_MG`); of several experts they are stacked along a first axis E.
"""

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from k2ref import oracle
from k2ref.oracle import Expert, Int4, Routing

PARTS = ("gate", "up", "down")
ANSWERS = {
    "route": ("experts_TK", "weights_TK"),
    "int4_quantize": ("codes_ML", "scale_MG"),
    "split_kv_b": ("w_uk_HNC", "w_uv_HVC"),
}


@cache
def parameters(op: str) -> Mapping[str, inspect.Parameter]:
    """List the parameters of an operation: name -> parameters in order."""
    return inspect.signature(getattr(oracle, op)).parameters


def arguments(op: str, table: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Build the arguments of a call: operation, named arrays and scalars -> positional, keyword.

    Options at their default are left out, so that an engine need not know them.
    """
    table = dict(table)
    if op == "expert_ffn":
        table = _take_expert(table, table.pop("group_size", 32))
    if op == "moe":
        table = _take_experts(table, table.pop("group_size", 32))
    positional, keyword = [], {}
    for name, parameter in parameters(op).items():
        if name not in table:
            continue
        value = table.pop(name)
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            positional.append(value)
        elif isinstance(value, np.ndarray) or value != parameter.default:
            keyword[name] = value
    if table:
        raise ValueError(f"{op} has no parameter {', '.join(table)}")
    return positional, keyword


def _weight(table: dict[str, Any], part: str, size: int) -> Any:
    if f"{part}.w_ML" in table:
        return table[f"{part}.w_ML"]
    columns = int(table[f"{part}.columns"])
    return Int4(table[f"{part}.packed_MP"], table[f"{part}.scale_MG"], size, columns)


def _take_expert(table: dict[str, Any], size: int) -> dict[str, Any]:
    rest = {k: v for k, v in table.items() if "." not in k}
    return {**rest, "expert": Expert(*(_weight(table, part, size) for part in PARTS))}


def _take_experts(table: dict[str, Any], size: int) -> dict[str, Any]:
    rest = {k: v for k, v in table.items() if "." not in k}
    routing = Routing(rest.pop("experts_TK"), rest.pop("weights_TK"))
    stacked = {k: v for k, v in table.items() if "." in k}
    count = len(next(v for v in stacked.values() if isinstance(v, np.ndarray)))
    experts = []
    for e in range(count):
        one = {k: v[e] if isinstance(v, np.ndarray) else v for k, v in stacked.items()}
        experts.append(Expert(*(_weight(one, part, size) for part in PARTS)))
    return {**rest, "routing": routing, "experts": experts}


def table_of(op: str, args: tuple[Any, ...], keyword: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a call again, the inverse of `arguments`: operation, arguments -> table."""
    table = dict(inspect.signature(getattr(oracle, op)).bind(*args, **keyword).arguments)
    if "expert" in table:
        table |= _flat(table.pop("expert"))
    if "experts" in table:
        parts = [_flat(expert) for expert in table.pop("experts")]
        table |= {
            name: np.stack([p[name] for p in parts]) if isinstance(value, np.ndarray) else value
            for name, value in parts[0].items()
        }
        table |= table.pop("routing")._asdict()
    return table


def _flat(expert: Expert) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for part, weight in zip(PARTS, expert, strict=True):
        if isinstance(weight, Int4):
            table |= {f"{part}.{n}": getattr(weight, n) for n in ("packed_MP", "scale_MG")}
            table |= {f"{part}.columns": weight.columns, "group_size": weight.group_size}
        else:
            table[f"{part}.w_ML"] = weight
    return table


def answers(op: str, value: Any) -> dict[str, Any]:
    """Name the arrays of an answer: operation, value -> name to array.

    Raises:
        ValueError: not as many arrays as the operation has.
    """
    names = ANSWERS.get(op, ("out",))
    if len(names) == 1:
        return {"out": value if isinstance(value, np.ndarray) else np.asarray(value)}
    if not isinstance(value, tuple | list) or len(value) != len(names):
        raise ValueError(f"wanted {' and '.join(names)}, got {type(value).__name__}")
    return dict(zip(names, (np.asarray(v) for v in value), strict=True))
