"""The figures of a report, each from the results of a run."""

from collections.abc import Iterable, Sequence
from typing import Any

from conformance.compare import ROUTER_DELTA, TAU_LIMIT
from conformance.report.svg import LogAxis, box, line, mark, svg, text
from conformance.results import Result, Verdict

COLOURS = {
    Verdict.PASS: "#2e7d32",
    Verdict.LOOSE: "#b26a00",
    Verdict.FAIL: "#c62828",
    Verdict.ERRORED: "#7b1fa2",
}
SERIES = ("#1565c0", "#ef6c00", "#00838f", "#6a1b9a")
BAND, CORRECT = "#e3f2e6", 2.7  # the largest tau of a correct engine in the calibration
WIDTH, LEFT, RIGHT, ROW = 860.0, 190.0, 20.0, 18.0


def noise_strips(results: Sequence[Result]) -> str:
    """Draw the error of every case in noise units, one strip per operation: results -> SVG."""
    shown = [r for r in results if r.tau is not None and r.op != "forward"]
    if not shown:
        return ""
    names = sorted({r.op for r in shown})
    height = ROW * len(names) + 60
    bottom = height - 40
    axis = LogAxis(-3, 6, LEFT, WIDTH - RIGHT)
    parts = [box(LEFT, 20, axis.place(CORRECT) - LEFT, bottom - 20, BAND, "correct engines")]
    parts += _vertical(axis, 20, bottom)
    limit = axis.place(TAU_LIMIT)
    parts += [line(limit, 14, limit, bottom, stroke="#c62828", dash="4 3")]
    parts += [text(limit + 4, 14, f"limit {TAU_LIMIT:g}", fill="#c62828")]
    for index, name in enumerate(names):
        y = 20 + ROW * (index + 0.5)
        parts.append(text(LEFT - 8, y + 4, name, anchor="end"))
        parts.append(line(LEFT, y, WIDTH - RIGHT, y))
        for r in (r for r in shown if r.op == name):
            assert r.tau is not None
            said = f"{r.case}: {r.tau:.3g} sigma, {r.verdict.value}"
            if r.bound_use is not None:
                said += f", {r.bound_use:.2g} of the provable bound"
            parts.append(mark(axis.place(r.tau), y, COLOURS.get(r.verdict, "#555"), said))
    parts.append(text(LEFT, height - 4, "row error in noise units (sigma of a correct engine)"))
    return svg(WIDTH, height, parts, title="Noise units by operation")


def layer_divergence(results: Sequence[Result]) -> str:
    """Draw the error of every tensor in causal order, one series per prompt: results -> SVG."""
    series: dict[str, dict[str, float]] = {}
    for r in results:
        if r.level == "L3" and "tau_by_tap" in r.data:
            prompt = r.case.rsplit("-", 1)[-1]
            series.setdefault(prompt, {}).update(r.data["tau_by_tap"])
    if not series:
        return ""
    taps = sorted({tap for taus in series.values() for tap in taus}, key=_causal)
    top, bottom, height = 24.0, 196.0, 300.0
    axis = LogAxis(-2, 6, bottom, top)
    step = (WIDTH - 70) / max(len(taps), 1)
    correct = axis.place(CORRECT)
    parts = [box(50, correct, WIDTH - 70, bottom - correct, BAND, "correct engines")]
    for y, label in axis.ticks():
        parts += [line(50, y, WIDTH - 20, y), text(44, y + 4, label, anchor="end")]
    limit = axis.place(TAU_LIMIT)
    parts.append(line(50, limit, WIDTH - 20, limit, stroke="#c62828", dash="4 3"))
    parts += _layer_names(taps, step, bottom)
    for colour, taus in zip(SERIES, series.values(), strict=False):
        for tap, tau in taus.items():
            x = 50 + step * (taps.index(tap) + 0.5)
            parts.append(mark(x, axis.place(float(tau)), colour, f"{tap}: {float(tau):.3g} sigma"))
    parts += _legend(list(series), 60, 12)
    parts.append(text(50, height - 4, "tensors in causal order, each from the engine's own inputs"))
    return svg(WIDTH, height, parts, title="Divergence by tensor")


def _layer_names(taps: Sequence[str], step: float, y: float) -> list[str]:
    """Write tap names aslant under their places: taps, step, y -> parts."""
    parts = []
    for index, tap in enumerate(taps):
        x = 50 + step * (index + 0.5)
        if index and tap.split(".")[0] != taps[index - 1].split(".")[0]:
            parts.append(line(x - step / 2, 24, x - step / 2, y, stroke="#bbb"))
        words = text(0, 0, tap, anchor="end").replace("<text ", '<text font-size="8" ', 1)
        parts.append(f'<g transform="translate({x + 3:.1f} {y + 8:.1f}) rotate(-60)">{words}</g>')
    return parts


def _causal(tap: str) -> tuple[int, int]:
    order = ["attn.norm", "q_latent", "q_nope", "q_rope", "latent", "k_rope", "heads", "attn.out"]
    order += ["residual", "ffn.norm", "logits", "scores", "experts", "weights", "routed", "shared"]
    order += ["ffn.out", "out"]
    if not tap.startswith("L"):
        return (-1, 0) if tap == "embed" else (1 << 20, int(tap == "logits"))
    layer, _, name = tap.partition(".")
    place = next((i for i, part in enumerate(order) if name.endswith(part)), len(order))
    place = order.index("attn.out") if name == "attn.out" else place
    place = order.index("ffn.out") if name == "ffn.out" else place
    return int(layer[1:]), place


def router_margins(results: Sequence[Result]) -> str:
    """Draw how clear each routing was, as a histogram: results -> SVG."""
    margins = [float(m) for r in results for m in r.data.get("margins", [])]
    if not margins:
        return ""
    flips = sum(int(r.measure or 0) for r in results if r.rule == "flips")
    near = sum(int(r.data.get("near_tie_flips", 0)) for r in results)
    top, bottom = 24.0, 150.0
    axis = LogAxis(-8, 0, 50, WIDTH - RIGHT)
    bins: dict[int, int] = {}
    for margin in margins:
        bins[int((axis.place(margin) - 50) // 15)] = 1 + bins.get(
            int((axis.place(margin) - 50) // 15), 0
        )
    delta = axis.place(ROUTER_DELTA["f32"])
    parts = [box(50, top, delta - 50, bottom - top, "#fdecea", "either expert is admissible")]
    for place, number in bins.items():
        size = (bottom - top) * number / max(bins.values())
        parts.append(box(51 + 15 * place, bottom - size, 13, size, "#1565c0", f"{number}"))
    parts += _vertical(axis, top, bottom)
    parts.append(line(delta, top, delta, bottom, stroke="#c62828", dash="4 3"))
    parts.append(text(delta + 4, top + 10, "below: either expert is admissible", fill="#c62828"))
    words = f"margin of the last chosen expert, {len(margins)} choices; flips {flips}"
    parts.append(text(50, bottom + 32, f"{words} where clear, {near} where tied"))
    return svg(WIDTH, bottom + 38, parts, title="Router margins")


def angle_error(results: Sequence[Result]) -> str:
    """Draw the error of the rotation against the position: results -> SVG."""
    rows = sorted(row for r in results for row in r.data.get("angle_error", []))
    if not rows:
        return ""
    top, bottom = 24.0, 210.0
    across, up = LogAxis(0, 5.6, 70, WIDTH - RIGHT), LogAxis(-9, 0.5, bottom, top)
    parts = _vertical(across, top, bottom)
    for y, label in up.ticks():
        parts += [line(70, y, WIDTH - RIGHT, y), text(64, y + 4, label, anchor="end")]
    for position, found, ideal in rows:
        x = across.place(position + 1)
        parts.append(mark(x, up.place(ideal), SERIES[1], f"{position:.0f}: {ideal:.3g} rad"))
        parts.append(mark(x, up.place(found), SERIES[0], f"{position:.0f}: {found:.3g} rad"))
    parts += _legend(["this engine", "ideal angles, which no engine forms"], 80, 12)
    parts.append(text(70, bottom + 32, "position; radians away from the float32 angle"))
    return svg(WIDTH, bottom + 38, parts, title="Angle error against position")


def kill_matrix(matrix: dict[str, Any]) -> str:
    """Draw which level sees which bug: matrix of `k2conf mutants --json` -> SVG."""
    rows = [*matrix.get("correct", []), *matrix.get("bugs", [])]
    levels = ("L0", "L1", "L2", "L3", "L4", "L5")
    columns = [
        *(("f32", level) for level in (*levels, "laws")),
        *(("bf16", level) for level in levels),
    ]
    names = list(dict.fromkeys(row["name"] for row in rows))
    by_name = {(row["name"], row["precision"]): row for row in rows}
    correct = {row["name"] for row in matrix.get("correct", [])}
    parts = []
    for index, (precision, level) in enumerate(columns):
        parts.append(text(LEFT + 52 * index + 26, 14, f"{precision} {level}", anchor="middle"))
    for place, name in enumerate(names):
        y = 22 + 14.0 * place
        fill = "#2e7d32" if name in correct else "#222"
        parts.append(text(LEFT - 8, y + 10, name, anchor="end", fill=fill))
        for index, (precision, level) in enumerate(columns):
            parts.append(_kill_cell(by_name.get((name, precision)), level, LEFT + 52 * index, y))
    return svg(LEFT + 52 * len(columns) + 10, 30 + 14 * len(names), parts, title="Kill matrix")


def _kill_cell(row: dict[str, Any] | None, level: str, x: float, y: float) -> str:
    if row is None:
        return box(x, y, 50, 12, "#fafafa")
    cases = row["seen_by"].get(level, [])
    fill = "#c62828" if cases else "#bdbdbd" if row.get("allowed") else "#e8eaf0"
    return box(x, y, 50, 12, fill, ", ".join(cases[:4]) or "not seen")


def _vertical(axis: LogAxis, top: float, bottom: float) -> list[str]:
    parts = []
    for x, label in axis.ticks():
        parts += [line(x, top, x, bottom), text(x, bottom + 14, label, anchor="middle")]
    return parts


def _legend(names: Iterable[str], x: float, y: float) -> list[str]:
    parts = []
    for colour, name in zip(SERIES, names, strict=False):
        parts += [mark(x, y - 4, colour, name), text(x + 8, y, name)]
        x += 30 + 6.2 * len(name)
    return parts
