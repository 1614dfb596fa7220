"""Where the data of `spec/` lies: beside the packages, or inside this one when installed."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent


def spec_path(name: str) -> Path:
    """Find a file of the specification: name below spec/ -> path."""
    checkout = _HERE.parent / "spec"
    return (checkout if (checkout / "facts.toml").exists() else _HERE / "_spec") / name


@cache
def read_toml(name: str) -> dict[str, Any]:
    """Read a TOML file of the specification: name below spec/ -> tables."""
    return tomllib.loads(spec_path(name).read_text(encoding="utf-8"))
