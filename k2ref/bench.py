"""The command `k2ref bench`: what the kernels reach, against this machine and other libraries."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from k2ref import bench_race, bench_tables
from k2ref.bench_tables import Row

TABLES = ("one_token", "experts", "tokens", "forms", "moe", "attention")


def add_bench_command(subparsers: Any) -> None:
    """Add `bench` to a command line: subparsers."""
    bench = subparsers.add_parser("bench", help="measure the kernels against this machine")
    bench.add_argument("--json", type=Path, metavar="F", help="write every figure")
    bench.add_argument("--plot", type=Path, metavar="F.png", help="rate against tokens, roofline")
    bench.add_argument("--only", nargs="+", choices=TABLES, default=TABLES, metavar="TABLE")
    bench.add_argument("--tokens", nargs="+", type=int, default=(64, 512), help="of the moe table")
    bench.add_argument("--turns", type=int, default=5, help="how often everything is timed")
    bench.add_argument("--no-peers", action="store_true", help="our kernels alone")
    bench.set_defaults(run=run_bench)


def run_bench(options: argparse.Namespace) -> None:
    """Measure and print tables: options."""
    kernels = bench_tables.load_kernels()
    tables: dict[str, list[Row]] = {}
    skips: list[str] = []
    peers = not options.no_peers
    for table, experts in (("one_token", False), ("experts", True)):
        if table in options.only:
            rows, reasons = bench_race.one_token(options.turns, peers=peers, experts=experts)
            tables[f"int4_{table}"] = rows
            skips += reasons
    if "tokens" in options.only:
        tables["int4_tokens"] = bench_tables.many_tokens(kernels, options.turns)
    if "forms" in options.only:
        tables["other_weights_one_token"] = bench_tables.other_weights(kernels, options.turns)
    if "moe" in options.only:
        tables["moe_layer"] = [bench_tables.moe_layer(kernels, count) for count in options.tokens]
    if "attention" in options.only:
        tables["attention_decode"] = [
            bench_tables.attention(kernels, count) for count in bench_tables.POSITIONS
        ]
    _print(tables)
    for reason in skips:
        print(reason)
    if options.json:
        options.json.write_text(json.dumps(tables, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        plot(tables.get("int4_tokens", []), options.plot)


def _print(tables: dict[str, list[Row]]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 200)
    for name, rows in tables.items():
        table = Table(title=name.replace("_", " "))
        for key, value in rows[0].items() if rows else ():
            table.add_column(key, justify="left" if isinstance(value, str) else "right")
        for row in rows:
            table.add_row(*(_cell(value) for value in row.values()))
        console.print(table)


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def plot(rows: list[Row], path: Path) -> None:
    """Draw the rate of products against tokens, under the roofline of the run: rows, path."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for shape in dict.fromkeys(row["shape"] for row in rows):
        part = [row for row in rows if row["shape"] == shape]
        tokens = [row["tokens"] for row in part]
        axes.plot(tokens, [row["gflops"] for row in part], "o-", label=f"{shape}, measured")
        least = [row["gflops"] * row["ratio"] for row in part]
        axes.plot(tokens, least, "--", label=f"{shape}, roofline")
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel="GFLOP/s", title="INT4 products")
    axes.legend()
    figure.savefig(path, dpi=150)
