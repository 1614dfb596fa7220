"""The shape suffixes of a package, read from its source and enforced at run time.

A name such as `hidden_TD` says: two dimensions, T and D. Within one call of a function every letter
has one size, over all its arrays, those it returns included. `watch` wraps the functions of a
module so that each call is checked.
"""

import ast
import functools
import inspect
import re
import textwrap
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

LETTERS = "TSDHNRVQCEKFMLGPWZUJ"
SUFFIX = re.compile(rf"_([{LETTERS}]+)$")


def suffix(name: str) -> str | None:
    """Read the dimensions off a name: name -> letters, or None."""
    found = SUFFIX.search(name)
    return found.group(1) if found else None


def arrays(name: str, value: Any) -> list[tuple[str, np.ndarray]]:
    """List the suffixed arrays in an argument or result: name, value -> names and arrays."""
    if isinstance(value, np.ndarray) and suffix(name):
        return [(name, value)]
    if hasattr(value, "_fields"):
        pairs = zip(value._fields, value, strict=True)
        return [found for field, item in pairs for found in arrays(field, item)]
    return []


def bind(found: list[tuple[str, np.ndarray]], sizes: dict[str, int], where: str) -> None:
    """Give every letter one size or fail: arrays, sizes so far."""
    for name, array in found:
        letters = suffix(name) or ""
        assert array.ndim == len(letters), f"{where}: {name} has {array.ndim} dimensions"
        for letter, size in zip(letters, array.shape, strict=True):
            known = sizes.setdefault(letter, size)
            assert known == size, f"{where}: {letter} is {known} and, in {name}, {size}"


def returned_names(function: Callable[..., Any]) -> list[str]:
    """Read the names behind the arrow of a docstring: function -> names."""
    first = (function.__doc__ or "").split("\n\n")[0]
    _, _, after = first.partition("->")
    return re.findall(rf"\w+_[{LETTERS}]+\b", after)


def watched(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that its arrays are checked at every call."""
    signature = inspect.signature(function)
    returns = returned_names(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        sizes: dict[str, int] = {}
        given = signature.bind(*args, **kwargs).arguments
        for name, value in given.items():
            bind(arrays(name, value), sizes, f"{function.__name__}, argument")
        result = function(*args, **kwargs)
        results = result if isinstance(result, tuple) else (result,)
        if len(returns) == len(results):
            for name, value in zip(returns, results, strict=True):
                bind(arrays(name, value), sizes, f"{function.__name__}, result")
        return result

    return call


def watch(module: ModuleType, names: tuple[str, ...]) -> ModuleType:
    """Copy a module with its functions watched: module, names -> module."""
    copy = ModuleType(module.__name__)
    copy.__dict__.update(vars(module))
    for name in names:
        setattr(copy, name, watched(getattr(module, name)))
    return copy


def unsuffixed_parameters(function: Callable[..., Any]) -> list[str]:
    """List array parameters whose names tell no shape and whose docstring does not either."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    every = [*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs]
    plain = [a.arg for a in every if a.annotation and "ndarray" in ast.unparse(a.annotation)]
    return [name for name in plain if not suffix(name) and name not in ("x", "logits")]
