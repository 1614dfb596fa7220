"""Commands that read what runs left: show, export, compare, front, plot."""

import argparse
import json
import sys

from conformance.agent import atif, graph, trace


def run_compare(given: argparse.Namespace) -> int:
    from conformance.agent import sweep
    from conformance.agent.scaling import compare

    first, second = (
        {t.task: t.solved for t in sweep.read(path.read_text(encoding="utf-8")).trials}
        for path in (given.first, given.second)
    )
    found = compare(first, second)
    print(f"both {found.both}, only first {found.only_first}, only second {found.only_second}, "
          f"neither {found.neither}; McNemar exact p = {found.p_value:.4g}")  # fmt: skip
    return 0


def run_front(given: argparse.Namespace) -> int:
    from conformance.agent import sweep
    from conformance.agent.scaling import pareto

    rows = {
        f"{path} {setting}".rstrip(): part.price()
        for path in given.runs
        for setting, part in sweep.read(path.read_text(encoding="utf-8")).by_setting().items()
    }
    best = pareto(rows)
    for name, (share, cost) in sorted(rows.items(), key=lambda row: row[1][1]):
        print(f"{'front' if name in best else '':<6}{share:.2f}{cost:>12.0f} tokens  {name}")
    return 0


def run_plot(given: argparse.Namespace) -> int:
    from conformance.agent import sweep

    found = [sweep.read(path.read_text(encoding="utf-8")) for path in given.runs]
    family = found[0].rows[0]["family"]
    given.out.write_text(sweep.overlay(found, f"Success by length, {family}"), encoding="utf-8")
    print(f"wrote {given.out}")
    return 0


def run_show(given: argparse.Namespace) -> int:
    shown = trace.read(given.record)
    lines = trace.view(shown, width=given.width, reasoning=not given.no_reasoning)
    print("\n".join(lines))
    return 0


def run_export(given: argparse.Namespace) -> int:
    found, withhold = trace.read(given.record), given.withhold_reasoning
    if given.format == "atif":
        made = atif.export(found, withhold_reasoning=withhold)
    else:
        drawn = graph.of(found, withhold_reasoning=withhold)
        if given.format == "mermaid":
            print(drawn.mermaid(), end="")
            return 0
        made = drawn.as_dict()
    json.dump(made, sys.stdout, ensure_ascii=False, indent=1)
    print()
    return 0
