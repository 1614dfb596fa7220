"""The import directions of the repository, and what a start-up may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# folder -> what its files may import beyond the standard library; a trailing dot allows submodules
ALLOWED = {
    "k2ref/oracle": {"numpy", "k2ref.oracle"},
    "k2ref/kernels": {"numpy", "numba", "llvmlite", "k2ref.oracle", "k2ref.kernels"},
}
FORBIDDEN = {
    "k2ref": {"mcp", "starlette", "anyio", "k2tools", "conformance", "tests"},
    "k2tools": {"k2ref", "numba", "conformance", "tests"},
    "conformance": {"k2tools", "tests"},
}


def imported(path: Path) -> set[str]:
    """List the modules a file imports by name, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
    return found


def within(module: str, packages: set[str]) -> bool:
    return any(module == p or module.startswith(p + ".") for p in packages)


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", ALLOWED)
def test_the_oracle_and_the_kernels_import_only_what_they_may(folder: str) -> None:
    standard = set(sys.stdlib_module_names)
    for path in files(folder):
        bad = {m for m in imported(path) if not within(m, ALLOWED[folder] | standard)}
        assert not bad, f"{path.relative_to(ROOT)} imports {bad}"


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_no_package_imports_against_the_direction(folder: str) -> None:
    for path in files(folder):
        bad = {m for m in imported(path) if within(m, FORBIDDEN[folder])}
        assert not bad, f"{path.relative_to(ROOT)} imports {bad}"


def test_only_the_kernels_know_numba() -> None:
    for path in files("k2ref") + files("conformance"):
        if "kernels" not in path.parts:
            assert not within_any(imported(path)), path


def within_any(modules: set[str]) -> bool:
    return any(within(m, {"numba", "llvmlite"}) for m in modules)


@pytest.mark.parametrize("package", ["k2ref", "k2ref.oracle", "k2tools", "conformance"])
def test_importing_a_package_does_not_load_numba(package: str) -> None:
    code = f"import sys, {package}; print('numba' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.strip() == "False", run.stderr


def test_the_top_level_is_the_fixed_one() -> None:
    fixed = {"pyproject.toml", "README.md", "LICENSE"}
    fixed |= {"k2ref", "k2tools", "spec", "tests", "conformance"}
    tracked = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=False
    ).stdout.split()
    if not tracked:  # an unpacked source archive
        pytest.skip("not a git checkout")
    top = {name.split("/")[0] for name in tracked}
    assert {name for name in top if not name.startswith(".")} <= fixed
