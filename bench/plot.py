"""Lines over a logarithmic scale as SVG, without a library: enough to see how something grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 860, 460
LEFT, RIGHT, TOP, BOTTOM = 80, 20, 40, 50
COLOURS = ("#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#d68910", "#555555")
_LEGEND = 18


@dataclass(frozen=True, slots=True)
class Line:
    """What was measured of one case: pairs of x and y, both above 0."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class _Scale:
    """Where values are drawn. `is_log`: each decade is as long as the next."""

    low: float
    high: float
    begin: float
    end: float
    is_log: bool

    def at(self, value: float) -> float:
        low, high, here = (math.log10(item) if self.is_log else item for item in (self.low, self.high, value))
        return self.begin + (here - low) / (high - low) * (self.end - self.begin)


def plot(title: str, across: str, up: str, lines: Sequence[Line], marks: Sequence[float] = ()) -> str:
    """Return a picture of some lines; x is linear from 0 on, y logarithmic in whole decades.

    `marks`: the values of x that are written below; none = all that occur.
    """
    points = [point for line in lines for point in line.points]
    x = _Scale(0.0, max(item for item, _ in points), LEFT, WIDTH - RIGHT, is_log=False)
    low, high = math.floor(math.log10(min(item for _, item in points))), math.ceil(math.log10(max(item for _, item in points)))
    y = _Scale(10.0**low, 10.0 ** max(high, low + 1), HEIGHT - BOTTOM - _LEGEND * len(lines), TOP, is_log=True)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="16">{escape(title)}</text>',
    ]
    for decade in range(low, max(high, low + 1) + 1):
        at = y.at(10.0**decade)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{10**decade:,.0f}</text>')
    across_ = marks or sorted({item for item, _ in points})
    parts += [f'<text x="{x.at(value):.1f}" y="{y.begin + 16:.1f}" text-anchor="middle">{value:,.0f}</text>' for value in across_]
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{y.begin + 32:.1f}" text-anchor="end">{escape(across)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="22" text-anchor="end">{escape(up)}</text>')
    for number, line in enumerate(lines):
        parts += _drawn(line, COLOURS[number % len(COLOURS)], x, y, HEIGHT - _LEGEND * (len(lines) - number) + 10)
    return "\n".join([*parts, "</svg>", ""])


def _drawn(line: Line, colour: str, x: _Scale, y: _Scale, legend: float) -> list[str]:
    """Return a line with its points and its place in the legend."""
    places = [(x.at(across), y.at(up)) for across, up in line.points]
    path = " ".join(f"{across:.1f},{up:.1f}" for across, up in places)
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
        *(f'<circle cx="{across:.1f}" cy="{up:.1f}" r="3" fill="{colour}"/>' for across, up in places),
        f'<rect x="{LEFT}" y="{legend - 9:.1f}" width="18" height="4" fill="{colour}"/>',
        f'<text x="{LEFT + 26}" y="{legend:.1f}">{escape(line.name)}</text>',
    ]
