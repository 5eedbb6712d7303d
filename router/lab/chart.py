"""A chart as SVG text: axes with ticks, lines or bars, a legend. Nothing of what is in it.

Written by hand rather than by a plotting library: three kinds of picture need two hundred lines, no dependency of fifty
megabytes, and the same figures give the same bytes. Colours tell policies apart for colour-blind readers too (Okabe and
Ito's); texts take the page's colour scheme from `prefers-color-scheme`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 64, 190, 40, 48
LINE_PIXELS = 17  # of the legend
PALETTE = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f7f7f", "#b8a800", "#6a3d9a")
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#333}.title{font-size:14px;font-weight:600}"
    ".grid{stroke:#8884;stroke-width:1}.axis{stroke:#888}.page{fill:#fff}"
    "@media(prefers-color-scheme:dark){text{fill:#ccc}.page{fill:#111}}"
)


@dataclass(frozen=True, slots=True)
class Line:
    """Points in ascending order of x. A y of None is a gap."""

    name: str
    points: Sequence[tuple[float, float | None]]
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """From `low` to `high`; a logarithmic one starts above 0."""

    title: str
    low: float
    high: float
    logarithmic: bool = False
    percent: bool = False

    def share(self, value: float) -> float:
        """Where the value lies, 0 to 1; beyond its ends it is at them."""
        if self.logarithmic:
            part = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return min(max(part, 0.0), 1.0)

    def ticks(self) -> list[float]:
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            marks = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
            return [mark for mark in marks if self.low <= mark * 1.0001 and mark <= self.high * 1.0001]
        step = _round_step((self.high - self.low) / 5)
        first = math.ceil(self.low / step - 1e-9)
        return [step * number for number in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def told(self, value: float) -> str:
        return f"{value:.0%}" if self.percent else f"{value:,g}"


def lines(title: str, x: Axis, y: Axis, drawn: Sequence[Line]) -> str:
    """Lines over each other, each in its colour, named on the right."""
    marks = []
    for number, line in enumerate(drawn):
        again = number >= len(PALETTE)  # a colour that was used before
        dash = ' stroke-dasharray="5 4"' if line.dashed else ' stroke-dasharray="2 2"' if again else ""
        style = f'fill="none" stroke="{PALETTE[number % len(PALETTE)]}" stroke-width="{_thickness(number)}"{dash}'
        for run in _runs(line.points):
            points = " ".join(f"{_across(x, one):.1f},{_up(y, other):.1f}" for one, other in run)
            marks.append(f'<polyline {style} points="{points}"/>')
        height = TOP + 8 + LINE_PIXELS * number
        marks.append(f'<path {style} d="M{WIDTH - RIGHT + 12} {height}h22"/>')
        marks.append(_text(WIDTH - RIGHT + 40, height + 4, line.name))
    return _page(title, HEIGHT, [*_frame(x, y), *marks])


def bars(title: str, value: Axis, drawn: Sequence[tuple[str, float]]) -> str:
    """One bar a name from top to bottom, its value at its end. The first name has the first colour, as in `lines`."""
    left, high = 150, 24
    height = TOP + high * len(drawn) + 20
    marks = []
    for number, (name, amount) in enumerate(drawn):
        width = (WIDTH - left - 80) * value.share(amount)
        at = TOP + high * number
        marks.append(_text(left - 8, at + 15, name, "end"))
        colour = PALETTE[0] if number == 0 else PALETTE[7]
        marks.append(f'<rect x="{left}" y="{at + 3}" width="{width:.1f}" height="{high - 7}" fill="{colour}" rx="2"/>')
        marks.append(_text(left + width + 6, at + 15, f"{amount:,.3g}"))
    return _page(f"{title}, {value.title}", height, marks)


def _frame(x: Axis, y: Axis) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    marks = []
    for tick in x.ticks():
        at = _across(x, tick)
        marks.append(f'<path class="grid" d="M{at:.1f} {TOP}V{bottom}"/>')
        marks.append(_text(at, bottom + 17, x.told(tick), "middle"))
    for tick in y.ticks():
        at = _up(y, tick)
        marks.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{right}"/>')
        marks.append(_text(LEFT - 8, at + 4, y.told(tick), "end"))
    marks.append(f'<path class="axis" fill="none" d="M{LEFT} {TOP}V{bottom}H{right}"/>')
    marks.append(_text((LEFT + right) / 2, bottom + 38, x.title, "middle"))
    middle = (TOP + bottom) / 2
    marks.append(
        f'<text x="16" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 16 {middle:.0f})">'
        f"{escape(y.title)}</text>"
    )
    return marks


def _page(title: str, height: int, marks: Sequence[str]) -> str:
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
            f'height="{height}" role="img"><title>{escape(title)}</title><style>{STYLE}</style>',
            f'<rect class="page" width="{WIDTH}" height="{height}"/>',
            f'<text class="title" x="{LEFT}" y="22">{escape(title)}</text>',
            *marks,
            "</svg>\n",
        )
    )


def _runs(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    """The points between gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [run for run in runs if run]


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _across(x: Axis, value: float) -> float:
    return LEFT + (WIDTH - RIGHT - LEFT) * x.share(value)


def _up(y: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * y.share(value)


def _thickness(number: int) -> float:
    return 2.6 if number == 0 else 1.5  # the first is what the picture is about


def _round_step(rough: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that is not below."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= rough * 0.9999)
