"""The specification as data: requirements, what is scored, limits. `spec/` holds the files."""

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Any

from k2ref.errors import InputError
from k2ref.spec import read_toml, spec_path

LEVELS = ("L0", "L1", "L2", "L3", "L4", "L5", "L6", "L7")
REVISION = "2026.11"


@dataclass(frozen=True)
class Requirement:
    """One sentence of the specification."""

    id: str
    must: str
    level: str
    source: str
    catches: str
    """the bug it prevents"""
    threads: tuple[str, ...] = ()
    """where that bug is told in public"""


@cache
def requirements() -> dict[str, Requirement]:
    """Read every requirement: -> id to Requirement."""
    tables: list[dict[str, Any]] = read_toml("requirements.toml")["requirement"]
    found = [Requirement(**{**t, "threads": tuple(t.get("threads", ()))}) for t in tables]
    if len({r.id for r in found}) != len(found):
        raise InputError("requirements.toml states an id twice")
    return {r.id: r for r in found}


def find_requirement(id_: str) -> Requirement:
    """Look up a requirement: id -> Requirement."""
    if id_ not in requirements():
        raise InputError(f"no requirement {id_!r}; spec/requirements.toml lists them")
    return requirements()[id_]


def scored(revision: str = REVISION) -> frozenset[str]:
    """Read which requirements a revision scores: revision -> ids."""
    return frozenset(read_toml(f"scored/{revision}.toml")["scored"])


def read_limits() -> dict[str, Any]:
    """Read what correct engines of each precision were measured to reach: -> tables."""
    return read_toml("limits.toml")


def vectors_id() -> str:
    """Name the frozen vectors by their manifest: -> SHA-256, empty without a manifest."""
    path = spec_path("vectors/manifest.json")
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
