"""Small plots as inline SVG: lines with interval bars, no dependency, the same bytes each time."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 170, 44, 52
COLOURS = ("#1b6ca8", "#c0392b", "#2e8b57", "#8e6c00", "#6a3d9a", "#444444")


class Point(NamedTuple):
    """One point with its interval."""

    x: float
    y: float
    low: float
    high: float


class Line(NamedTuple):
    """One labelled series; a dashed line is a calculation, not a measurement."""

    label: str
    points: Sequence[Point]
    dashed: bool = False


def svg(title: str, x_label: str, y_label: str, lines: Sequence[Line], *, note: str = "") -> str:
    """Draw lines over 0 <= y <= 1: title, labels, lines -> SVG text."""
    xs = [point.x for line in lines for point in line.points]
    low, high = min(xs, default=0.0), max(xs, default=1.0)
    body = [*_frame(title, x_label, y_label, note), *_ticks(sorted(set(xs)), low, high)]
    for index, line in enumerate(lines):
        body += _series(line, COLOURS[index % len(COLOURS)], index, low, high)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
    style = 'font-family="sans-serif" font-size="12"'
    return f"{head} {style}>\n" + "\n".join(body) + "\n</svg>\n"


def _x(value: float, low: float, high: float) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _y(value: float) -> float:
    return round(HEIGHT - BOTTOM - value * (HEIGHT - TOP - BOTTOM), 1)


def _text(x: float, y: float, text: str, anchor: str = "middle", size: int = 12) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'


def _path(points: Sequence[tuple[float, float]], colour: str, dashed: bool = False) -> str:
    dots = " ".join(f"{x},{y}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{dots}" fill="none" stroke="{colour}" stroke-width="1.5"{dash}/>'


def _frame(title: str, x_label: str, y_label: str, note: str) -> list[str]:
    right, bottom, middle = WIDTH - RIGHT, HEIGHT - BOTTOM, (LEFT + WIDTH - RIGHT) / 2
    grid = [
        _path([(LEFT, _y(v)), (right, _y(v))], "#dddddd")
        + _text(LEFT - 8, _y(v) + 4, f"{v:g}", "end")
        for v in (0, 0.25, 0.5, 0.75, 1)
    ]
    side = f'<text x="16" y="{(TOP + bottom) / 2}" text-anchor="middle" transform="rotate(-90 16 {(TOP + bottom) / 2})">{escape(y_label)}</text>'  # noqa: E501
    return [
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *grid,
        _text(LEFT, 18, title, "start", 14),
        _text(LEFT, 34, note, "start", 11),
        _text(middle, HEIGHT - 12, x_label),
        side,
    ]


def _ticks(xs: Sequence[float], low: float, high: float) -> list[str]:
    shown = xs if len(xs) <= 8 else xs[:: len(xs) // 8 + 1]
    return [_text(_x(x, low, high), HEIGHT - BOTTOM + 18, f"{x:g}") for x in shown]


def _series(line: Line, colour: str, index: int, low: float, high: float) -> list[str]:
    places = [(_x(p.x, low, high), _y(p.y)) for p in line.points]
    bars = [
        _path([(x, _y(p.low)), (x, _y(p.high))], colour)
        for (x, _), p in zip(places, line.points, strict=True)
        if p.high > p.low
    ]
    dots = [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in places]
    key_y = TOP + 12 + 18 * index
    key = _path([(WIDTH - RIGHT + 12, key_y), (WIDTH - RIGHT + 32, key_y)], colour, line.dashed)
    label = _text(WIDTH - RIGHT + 38, key_y + 4, line.label, "start", 11)
    drawn = [_path(places, colour, line.dashed), *([] if line.dashed else bars + dots)]
    return [*drawn, key, label]
