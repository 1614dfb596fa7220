"""The cases under pytest: passed, failed, skipped, expected and stale."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# once, whether or not the package is installed and pytest finds the plugin by itself
PLUGIN = ("-p", "no:k2conf", "-p", "conformance.pytest_plugin")
ENGINE = """
from k2ref import oracle
NAME = "few"
def silu(x): return oracle.silu(x)
def rms_norm(x_TD, gain_D, eps, **options): return oracle.rms_norm(x_TD, gain_D, 1e-2)
"""


def run(tmp_path: Path, *options: str) -> tuple[int, str]:
    (tmp_path / "few_engine.py").write_text(ENGINE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", *PLUGIN, "-rsxf"]
    found = subprocess.run(
        [*command, "--k2-engine", "few_engine", "-p", "no:cacheprovider", *options],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": "", "OPENBLAS_NUM_THREADS": "1"},
    )
    return found.returncode, found.stdout + found.stderr


def test_each_case_is_a_test_and_a_wrong_one_fails(tmp_path: Path) -> None:
    code, said = run(tmp_path)
    assert code == 1, said
    assert "rms_norm-ordinary: fail:" in said
    assert "Traceback" not in said
    assert "rotate is not offered" in said
    assert "silu" not in said.split("short test summary")[1].split("SKIPPED")[0]


@pytest.mark.slow
def test_a_known_failure_is_expected_and_a_stale_one_fails(tmp_path: Path) -> None:
    known = '[[known]]\ncase = "norm:eps"\nreason = "eps is fixed"\n'
    failing = {
        line.split("::")[-1].split(" ")[0]
        for line in run(tmp_path)[1].splitlines()
        if line.startswith("FAILED")
    }
    entries = "".join(f'[[known]]\ncase = "{n}"\nreason = "eps"\n' for n in failing)
    (tmp_path / "known.toml").write_text(entries)
    code, said = run(tmp_path, "--k2-known", "known.toml")
    assert code == 0, said
    assert f"{len(failing)} xfailed" in said
    (tmp_path / "known.toml").write_text(entries + known.replace("norm:eps", "silu-calm"))
    code, said = run(tmp_path, "--k2-known", "known.toml")
    assert code == 1
    assert "silu-calm: listed as failing, and passes" in said


def test_without_an_engine_nothing_changes(tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text("def test_own(): pass\n")
    command = [sys.executable, "-m", "pytest", *PLUGIN, "-q"]
    found = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}
    )
    assert "1 passed" in found.stdout
