"""Plots as SVG, written here: bars with spread, stacked bars, lines over a logarithmic axis.

No background, and colours of middle lightness, so that a page may be light or dark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

WIDTH, HEIGHT = 760, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 62, 56
INK, GRID = "#808080", "#80808040"
COLOURS = ("#3b82c4", "#d97706", "#2a9d6f", "#b0589e", "#c9a227", "#7a6fd0", "#c0504d", "#6b8e23", "#7f7f7f", "#4fb3bf")

Spread = Sequence[float]
"""Min, median, max; or a single number."""


@dataclass
class Plot:
    """A plot under way; `y` is the label of the vertical axis, with its unit."""

    title: str
    x: str
    y: str
    names: Sequence[str] = ()
    """Of the series."""
    palette: Sequence[str] = ()
    """Names in the order of their colours, where several plots show the same; else the series'."""
    parts: list[str] = field(default_factory=list)
    top: float = 1.0

    def svg(self) -> str:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
            f'role="img" aria-label={quoteattr(self.title)} font-family="sans-serif" font-size="12">'
        )
        axes = [
            self.text(LEFT, 18, self.title, anchor="start", size=14),
            self.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, self.x),
            f'<g transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)">{self.text(0, 0, self.y)}</g>',
        ]
        legend, at, row = [], float(LEFT), 28
        for name in self.names:
            width = 30 + 6.6 * len(name)
            if at + width > WIDTH:
                at, row = float(LEFT), row + 15
            legend.append(f'<rect x="{at:.1f}" y="{row}" width="10" height="10" fill="{self.colour(name)}"/>')
            legend.append(self.text(at + 14, row + 9, name, anchor="start"))
            at += width
        return "\n".join([head, *axes, *legend, *self.parts, "</svg>"]) + "\n"

    def colour(self, name: str) -> str:
        return COLOURS[list(self.palette or self.names).index(name)]

    @staticmethod
    def text(x: float, y: float, text: str, *, anchor: str = "middle", size: int = 12) -> str:
        where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
        return f'<text {where} fill="{INK}">{escape(text)}</text>'

    def level(self, value: float) -> float:
        """Height of a value."""
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / self.top

    def rule(self, highest: float) -> None:
        """Draw the vertical axis from 0 to a round number above `highest`."""
        step = 10 ** math.floor(math.log10(max(highest, 1e-9) / 4))
        step *= next((factor for factor in (1, 2, 2.5, 5, 10) if step * factor * 5 >= highest), 10)
        count = math.ceil(highest / step)
        self.top = step * count
        for number in range(count + 1):
            at = self.level(number * step)
            self.parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="{GRID}"/>')
            self.parts.append(self.text(LEFT - 6, at + 4, f"{number * step:g}", anchor="end"))

    def mark(self, value: float, label: str) -> None:
        """Draw a line across for an aim."""
        at = self.level(value)
        line = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"'
        self.parts.append(f'<line {line} stroke="{INK}" stroke-dasharray="6 4"/>')
        self.parts.append(self.text(WIDTH - RIGHT, at - 4, label, anchor="end"))

    def box(self, x: float, width: float, low: float, high: float, colour: str) -> None:
        top, bottom = self.level(high), self.level(low)
        where = f'x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{max(0.0, bottom - top):.1f}"'
        self.parts.append(f'<rect {where} fill="{colour}"/>')

    def whisker(self, x: float, spread: Spread) -> None:
        low, high = self.level(spread[0]), self.level(spread[-1])
        self.parts.append(f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="{INK}" stroke-width="1.5" fill="none"/>')


def _middle(spread: Spread) -> float:
    return spread[len(spread) // 2]


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def bars(
    title: str,
    y: str,
    groups: Sequence[str],
    series: Mapping[str, Sequence[Spread | None]],
    *,
    x: str = "",
    aim: float | None = None,
    palette: Sequence[str] = (),
) -> str:
    """Draw a bar for each group and series, at its median, with a whisker from min to max; None leaves a gap."""
    plot = Plot(title, x, y, list(series), palette)
    plot.rule(max([aim or 0.0, *(each[-1] for values in series.values() for each in values if each)]))
    room = (WIDTH - LEFT - RIGHT) / max(1, len(groups))
    width = min(46.0, 0.8 * room / max(1, len(series)))
    for place, group in enumerate(groups):
        centre = LEFT + room * (place + 0.5)
        for number, line in enumerate(group.split("\n")):
            plot.parts.append(plot.text(centre, HEIGHT - BOTTOM + 16 + 13 * number, line))
        for number, (name, values) in enumerate(series.items()):
            spread = values[place]
            if spread is not None:
                left = centre + width * (number - len(series) / 2)
                plot.box(left + 1, width - 2, 0.0, _middle(spread), plot.colour(name))
                plot.whisker(left + width / 2, spread)
                above = plot.level(spread[-1]) - 4
                plot.parts.append(plot.text(left + width / 2, above, _figure(_middle(spread)), size=10))
    if aim is not None:
        plot.mark(aim, f"aim {aim:g}")
    return plot.svg()


def stacks(
    title: str, y: str, groups: Sequence[str], series: Mapping[str, Sequence[float]], *, palette: Sequence[str] = ()
) -> str:
    """Draw one bar a group, its parts on top of one another."""
    plot = Plot(title, "", y, list(series), palette)
    plot.rule(max((sum(column) for column in zip(*series.values(), strict=True)), default=1.0))
    room = (WIDTH - LEFT - RIGHT) / max(1, len(groups))
    width = min(64.0, 0.7 * room)
    for place, group in enumerate(groups):
        centre, below = LEFT + room * (place + 0.5), 0.0
        for number, line in enumerate(group.split("\n")):
            plot.parts.append(plot.text(centre, HEIGHT - BOTTOM + 16 + 13 * number, line))
        for name, values in series.items():
            plot.box(centre - width / 2, width, below, below + values[place], plot.colour(name))
            below += values[place]
        plot.parts.append(plot.text(centre, plot.level(below) - 4, _figure(below), size=10))
    return plot.svg()


def lines(
    title: str,
    x: str,
    y: str,
    series: Mapping[str, Sequence[tuple[float, Spread]]],
    *,
    palette: Sequence[str] = (),
) -> str:
    """Draw each series over a logarithmic horizontal axis, with whiskers."""
    plot = Plot(title, x, y, list(series), palette)
    points = [point for values in series.values() for point in values]
    plot.rule(max((spread[-1] for _, spread in points), default=1.0))
    low = math.log10(min((place for place, _ in points), default=1.0))
    high = math.log10(max((place for place, _ in points), default=10.0))

    def at(place: float) -> float:
        return LEFT + 16 + (WIDTH - LEFT - RIGHT - 32) * (math.log10(place) - low) / max(1e-9, high - low)

    for place in sorted({place for place, _ in points}):
        plot.parts.append(plot.text(at(place), HEIGHT - BOTTOM + 16, f"{place:g}"))
    for name, values in series.items():
        if not values:
            continue
        path = "L".join(f"{at(place):.1f} {plot.level(_middle(spread)):.1f}" for place, spread in sorted(values))
        plot.parts.append(f'<path d="M{path}" fill="none" stroke="{plot.colour(name)}" stroke-width="2"/>')
        for place, spread in values:
            plot.whisker(at(place), spread)
            where = f'cx="{at(place):.1f}" cy="{plot.level(_middle(spread)):.1f}"'
            plot.parts.append(f'<circle {where} r="3" fill="{plot.colour(name)}"/>')
    return plot.svg()
