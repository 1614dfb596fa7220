"""`k2conf repro ENGINE [CASE] --out FILE`."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from conformance.baseline import Exit
from conformance.engine import Engine, open_engine
from conformance.repro import operation
from conformance.results import Verdict
from conformance.suite import Plan, checks
from k2ref.errors import InputError

MAX_BYTES = 50_000


def add_commands(commands: Any) -> None:
    """Add the command: subparsers."""
    parser = commands.add_parser("repro", help="a failure as one file that needs no k2conf")
    parser.add_argument(
        "engine", help="module:NAME, stdio:COMMAND, hf:[DIR][,patch=FILE], mlx: or dump:DIR"
    )
    parser.add_argument(
        "case", nargs="?", help="as `run` printed it, or a tensor; the first failure without"
    )
    parser.add_argument("--precision", choices=("f64", "f32", "bf16"), help="declared precision")
    parser.add_argument("--out", type=Path, default=Path("repro.py"), metavar="FILE")
    parser.set_defaults(run=run_repro)


def run_repro(options: argparse.Namespace) -> int:
    """Write the file, and run it once: options -> exit code."""
    scheme = options.engine.partition(":")[0].replace("https", "http")
    if scheme in REFUSED:
        raise InputError(f"no file for {scheme}: {REFUSED[scheme]}; {OTHERWISE}")
    engine = open_engine(options.engine, precision=options.precision)
    try:
        text, raised = _text(engine, options.engine, options.case)
    finally:
        engine.close()
    size = len(text.encode())
    if size > MAX_BYTES:
        raise InputError(f"the smallest input makes a file of {size} bytes, above {MAX_BYTES}")
    options.out.write_text(text, encoding="utf-8")
    run = subprocess.run([sys.executable, str(options.out)], capture_output=True, text=True)
    said = run.stdout.strip()
    if not said.startswith("REPRODUCED") or said.startswith("REPRODUCED: raised") != raised:
        print(f"{options.out}: {size} bytes, but it does not reproduce: {run.stdout}{run.stderr}")
        return Exit.HARNESS
    print(f"{options.out}: {size} bytes, {said}")
    return Exit.OK


REFUSED = {
    "gguf": "llama.cpp offers logits alone; build it from source and ask its operations by stdio:",
    "kt": "the client of kt-kernel is part of this kit",
    "http": "a server offers logits alone; ask the engine behind it through module: or stdio:",
}
OTHERWISE = "`run --save-failures DIR` writes failing inputs as vectors, `export` whole models"


def _text(engine: Engine, address: str, case: str | None) -> tuple[str, bool]:
    """Write the file: engine, address, case -> text, and whether the engine raises there."""
    scheme = address.partition(":")[0]
    if scheme == "dump":
        from conformance.repro import dumped

        return dumped.script(engine, address, case), False
    if scheme == "hf" and not (case and operation.is_case(case)):
        from conformance.repro import transformers_model  # needs torch

        return transformers_model.script(engine, address, case), False
    name = case or _first_failure(engine)
    return operation.script(engine, address, operation.find_case(name))


def _first_failure(engine: Engine) -> str:
    for result in checks(engine, Plan(levels=frozenset({"L0", "L1", "L2"})), 0):
        if result.verdict in (Verdict.FAIL, Verdict.ERRORED):
            return result.case
    raise InputError(f"{engine.info.name}: no operation fails; `bisect` looks at whole models")
