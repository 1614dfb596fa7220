"""The commands `export` and `check-dump`: an engine is judged by files, without code of ours."""

import argparse
import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from conformance.adapters.dump import SCHEMA, DumpEngine
from conformance.adapters.messages import write_arrays
from conformance.baseline import Exit, exit_code
from conformance.commands import OUTPUTS, write_outputs
from conformance.profiles import build, prompts
from conformance.suite import MODEL_LEVELS, Plan, line, run_suite, summary
from k2ref.config import load_config
from k2ref.errors import InputError
from k2ref.trace import tap_names

README = """\
What to do with this folder:

1. Load `checkpoint` (the published format) in your engine.
2. For each prompt in `manifest.json`, or `PROMPT.safetensors` with ids_T and position_T, run the
   tokens at those positions from an empty cache.
3. Write `outputs/PROMPT.safetensors` with `logits_TW`, one row per token. Any tensor named under
   `taps` in the manifest may be added; with them the first wrong one can be named.
4. Write `outputs/engine.json`: {"name": "…", "version": "…", "precision": "f32"}.
5. k2conf check-dump FOLDER       and, with taps,       k2conf bisect dump:FOLDER
"""


def add_commands(commands: Any) -> None:
    """Add the commands: subparsers."""
    wrote = commands.add_parser("export", help="a checkpoint and prompts, for any engine")
    wrote.add_argument("directory", type=Path, help="a new directory")
    wrote.add_argument("--profile", default="nano", help="nano or kernel")
    wrote.add_argument("--form", default="int4", help="int4, fp8, bf16 or f32")
    wrote.add_argument("--seed", type=int, default=0)
    wrote.set_defaults(run=run_export)
    checked = commands.add_parser("check-dump", help="judge what an engine wrote beside an export")
    checked.add_argument("directory", type=Path)
    checked.add_argument("--results", type=Path, metavar="OUT.jsonl", help="every result, as data")
    for name, (_, help_) in OUTPUTS.items():
        checked.add_argument(f"--{name}", type=Path, metavar="OUT", help=help_)
    checked.set_defaults(run=run_check_dump)


def run_export(options: argparse.Namespace) -> int:
    """Write an export: options -> exit code. The directory appears when it is whole."""
    target: Path = options.directory
    if target.exists():
        raise InputError(f"{target} exists already; give a new directory")
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        export(unfinished, options.profile, form=options.form, seed=options.seed)
        unfinished.rename(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    print(README)
    return Exit.OK


def export(directory: Path, profile: str, *, form: str, seed: int) -> None:
    """Write a checkpoint, prompts and what to do with them: directory, profile, form, seed."""
    checkpoint = directory / "checkpoint"
    build(directory, profile, seed=seed, form=form).rename(checkpoint)
    asked = prompts(checkpoint, seed)
    table = {
        "schema": SCHEMA,
        "seed": seed,
        "prompts": [
            {"name": p.name, "ids": p.ids_T.tolist(), "positions": p.position_T.tolist()}
            for p in asked
        ],
        "taps": tap_names(load_config(checkpoint)),
    }
    (directory / "manifest.json").write_text(json.dumps(table, indent=1) + "\n", "utf-8")
    (directory / "README.md").write_text(README, "utf-8")
    for p in asked:
        arrays = {"ids_T": p.ids_T.astype(np.int64), "position_T": p.position_T.astype(np.int64)}
        write_arrays(directory / f"{p.name}.safetensors", arrays)
    (directory / "outputs").mkdir()


def run_check_dump(options: argparse.Namespace) -> int:
    """Judge an engine's files: options -> exit code."""
    engine = DumpEngine(options.directory)
    run = run_suite(engine, Plan(levels=MODEL_LEVELS, seed=engine.seed))
    for result in run.results:
        print(line(result))
    print(summary(run))
    write_outputs(options, run)
    return exit_code(run.results, [], today=date.today())
