"""Figures as SVG text: axes, marks and words, escaped."""

import math
from collections.abc import Iterable
from html import escape


def svg(width: float, height: float, parts: Iterable[str], *, title: str) -> str:
    """Put parts into a picture: width, height, parts -> SVG."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" role="img" font-family="system-ui, sans-serif" '
        f'font-size="11"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )


def text(x: float, y: float, words: str, *, anchor: str = "start", fill: str = "#222") -> str:
    """Write words: place, words -> SVG."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{escape(words)}</text>'
    )


def line(
    x1: float, y1: float, x2: float, y2: float, *, stroke: str = "#ddd", dash: str = ""
) -> str:
    """Draw a line: two places -> SVG."""
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}"{dashed}/>'
    )


def mark(x: float, y: float, colour: str, hint: str) -> str:
    """Draw a point with a hint: place, colour, hint -> SVG."""
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}" fill-opacity="0.75">'
        f"<title>{escape(hint)}</title></circle>"
    )


def box(x: float, y: float, width: float, height: float, fill: str, hint: str = "") -> str:
    """Fill a rectangle: place, size -> SVG."""
    said = f"<title>{escape(hint)}</title>" if hint else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="{fill}">{said}</rect>'
    )


class LogAxis:
    """A logarithmic axis between two powers of ten; what lies outside sits on the edge."""

    def __init__(self, low: float, high: float, start: float, stop: float) -> None:
        self.low, self.high, self.start, self.stop = low, high, start, stop

    def place(self, value: float) -> float:
        """Find where a value lies: value -> coordinate."""
        if not value > 0:
            return self.start
        bounded = min(max(math.log10(value), self.low), self.high)
        share = (bounded - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def ticks(self, step: int = 1) -> list[tuple[float, str]]:
        """List the powers of ten: -> coordinates and labels."""
        powers = range(math.ceil(self.low), math.floor(self.high) + 1, step)
        return [(self.place(10.0**p), f"1e{p}" if abs(p) > 2 else f"{10.0**p:g}") for p in powers]
