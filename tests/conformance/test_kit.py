"""Without the packages of the extra `kit` the command starts, and says what needs them."""

import subprocess
import sys

import pytest

BARE = """
import importlib.util, sys
lacking = ("hypothesis", "scipy", "jsonschema", "matplotlib", "torch", "mlx")
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *given: None if name in lacking else find(name, *given)
sys.modules.update(dict.fromkeys(lacking))
from conformance.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def bare(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", BARE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


def test_the_command_runs_on_the_base_install() -> None:
    ended = bare("run", "k2ref.oracle", "--level", "L5")
    assert ended.returncode == 0, ended.stderr
    assert "counts are judged with SciPy: python -m pip install 'k2ref[kit]'" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("mutants",), "mutants need hypothesis"),
        (("run", "k2ref.oracle", "--properties"), "laws need hypothesis"),
    ],
)
def test_what_needs_the_extra_says_so(arguments: tuple[str, ...], sentence: str) -> None:
    ended = bare(*arguments)
    assert ended.returncode == 2
    assert ended.stderr == f"k2conf: error: {sentence}: python -m pip install 'k2ref[kit]'\n"
