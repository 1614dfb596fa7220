"""The README's examples run and print what they claim.

A ```console block holds a command after `$ ` and its output. Each line of output must be printed,
in order; a line `...` stands for any lines. Durations differ from run to run and are not compared.
A ```python block is run, and what it prints must be the text behind `#` on the lines with `print`.
"""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
DURATION = re.compile(r"\d+(\.\d+)? ?(s|ms|µs)\b")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def sessions() -> list[tuple[str, list[str]]]:
    """Split console blocks into the command and its output: -> command, lines."""
    split = [block.splitlines() for block in blocks("console")]
    return [(first.removeprefix("$ "), lines) for first, *lines in split]


def plain(line: str) -> str:
    return " ".join(DURATION.sub("#", line).split())


def follows(printed: list[str], claimed: list[str]) -> str:
    """Find the first claimed line that is not printed where it should be: -> line, or empty."""
    place, skipping = 0, False
    for line in claimed:
        if line.strip() == "...":
            skipping = True
            continue
        while skipping and place < len(printed) and plain(printed[place]) != plain(line):
            place += 1
        if place == len(printed) or plain(printed[place]) != plain(line):
            return line
        place, skipping = place + 1, False
    return ""


@pytest.mark.parametrize(("command", "claimed"), sessions(), ids=[c for c, _ in sessions()])
def test_a_command_prints_what_the_readme_shows(command, claimed, tmp_path: Path) -> None:
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if shutil.which(command.split()[0], path=here) is None:
        pytest.skip("the commands are not installed: python -m pip install .")
    run = subprocess.run(
        command,
        shell=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
        env={**os.environ, "PATH": here, "COLUMNS": "100"},
    )
    missing = follows(run.stdout.splitlines(), claimed)
    assert not missing, f"not printed: {missing}\n{run.stdout}"


@pytest.mark.parametrize("block", blocks("python"))
def test_a_python_example_prints_its_comments(block: str) -> None:
    claimed = re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, "README.md", "exec"), {})
    assert printed.getvalue().splitlines() == claimed


def test_the_comparison_sees_a_changed_line() -> None:
    assert follows(["a", "x", "took 3.1 s"], ["a", "...", "took 2 s"]) == ""
    assert follows(["a", "x", "b"], ["a", "b"]) == "b"
    assert follows(["a"], ["a", "...", "b"]) == "b"
