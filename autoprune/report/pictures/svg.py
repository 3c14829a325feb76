"""Pictures as SVG text: elements with escaped attributes, scales and axes. Drawn once, for the page and for files.

In the page the colours are those of its style sheet, light or dark; a file carries the light ones along, for paper.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from autoprune.report import formats
from autoprune.report.pictures.colours import THEME

#: Colours that tell strategies and runs apart; the theme has as many.
COLOURS = 8

FIGURE_STYLE = """
.fig { display: block; font-family: system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
.fig text { fill: var(--soft); font-size: 12px; }
.fig text.label {
  fill: var(--ink); font-weight: 600; paint-order: stroke; stroke: var(--card); stroke-width: 4px;
  stroke-linejoin: round;
}
.fig text.budget { fill: var(--budget); paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
.fig text.small { font-size: 11px; }
.fig .grid { stroke: var(--grid); } .fig .axis { stroke: var(--line); }
.fig .front { fill: none; stroke: var(--front); stroke-width: 1.6; stroke-linejoin: round; }
.fig .curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
.fig .accent { fill: none; stroke: var(--accent); stroke-width: 2; stroke-linejoin: round; }
.fig .budget-line { stroke: var(--budget); stroke-dasharray: 5 4; stroke-width: 1.4; }
.fig .band { fill: var(--band); }
.fig .dense-line { stroke: var(--soft); stroke-dasharray: 2 4; }
.fig .ring { fill: none; stroke: var(--ink); stroke-width: 2; }
.fig .mark { fill: var(--card); stroke: var(--ink); stroke-width: 2; }
.fig .dense-bar { fill: var(--bar); } .fig .kept-bar { fill: var(--accent); }
.fig .tick { stroke: var(--ink); stroke-width: 1.6; }
.fig .faint { fill: var(--soft); opacity: .38; }
""" + "".join(f".fig .s{i} {{ stroke: var(--c{i}); }} .fig .f{i} {{ fill: var(--c{i}); }}\n" for i in range(COLOURS))


def attribute(value: object) -> str:
    """Returns the text of an attribute; numbers are short."""
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return html.escape(formats.one_line(text, limit=4_000_000), quote=True)


@dataclass
class Drawing:
    """A picture under construction.

    Attributes:
        width: in pixels.
        height: in pixels.
        title: what it shows, for those who cannot see it.
    """

    width: int
    height: int
    title: str
    _parts: list[str] = field(default_factory=list)

    def add(self, tag: str, text: str | None = None, **attributes: object) -> None:
        """Adds an element; `class_` is its class, and an underscore in a name stands for a hyphen."""
        pairs = "".join(
            f' {name.rstrip("_").replace("_", "-")}="{attribute(value)}"'
            for name, value in attributes.items()
            if value is not None
        )
        inner = "" if text is None else html.escape(formats.one_line(text))
        self._parts.append(f"<{tag}{pairs}>{inner}</{tag}>" if text is not None else f"<{tag}{pairs}/>")

    def text(self, x: float, y: float, text: str, **attributes: object) -> None:
        """Adds a text."""
        self.add("text", text, x=x, y=y, **attributes)

    def element(self) -> str:
        """Returns the `svg` element for a page that has `FIGURE_STYLE`."""
        return self._svg("")

    def file(self) -> str:
        """Returns a file that stands alone, in light colours."""
        light = dict(re.findall(r"(--[a-z0-9]+):\s*([^;]+);", THEME.split("@media")[0]))
        rules = re.sub(r"var\((--[a-z0-9]+)\)", lambda match: light[match[1]], FIGURE_STYLE)
        ground = f'<rect width="100%" height="100%" fill="{light["--card"]}"/>'
        style = f"<style>{html.escape(rules, quote=False)}</style>"
        head = '<?xml version="1.0" encoding="UTF-8"?>'
        return f"{head}\n{self._svg(style + ground)}\n"

    def _svg(self, head: str) -> str:
        name = html.escape(formats.one_line(self.title), quote=True)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="fig" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" role="img" aria-label="{name}">{head}'
            f"{''.join(self._parts)}</svg>"
        )


@dataclass(frozen=True)
class Axes:
    """A plot within a drawing: a box in pixels, and the ranges of what it shows.

    Attributes:
        drawing: where.
        box: (left, top, right, bottom).
        x_range: values at left and right.
        y_range: values at bottom and top.
    """

    drawing: Drawing
    box: tuple[float, float, float, float]
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        """Returns the place of a value on the horizontal axis."""
        low, high = self.x_range
        return self.box[0] + (value - low) / (high - low) * (self.box[2] - self.box[0])

    def y(self, value: float) -> float:
        """Returns the place of a value on the vertical axis."""
        low, high = self.y_range
        return self.box[3] - (value - low) / (high - low) * (self.box[3] - self.box[1])

    def holds(self, x: float, y: float) -> bool:
        """Returns whether a point lies within the ranges."""
        return _within(x, self.x_range) and _within(y, self.y_range)

    def grid(
        self,
        *,
        x_name: str,
        y_name: str,
        x_text: Callable[[float, int], str],
        y_text: Callable[[float, int], str],
        x_ticks: int = 8,
        y_ticks: int = 5,
        whole: bool = False,
    ) -> None:
        """Draws lines, figures and names of both axes; `whole` allows only whole numbers on the horizontal one."""
        left, top, right, bottom = self.box
        values, digits = ticks(self.y_range, y_ticks)
        for value in values:
            at = self.y(value)
            self.drawing.add("line", class_="grid", x1=left, x2=right, y1=at, y2=at)
            self.drawing.text(left - 8, at + 4, y_text(value, digits), text_anchor="end")
        values, digits = ticks(self.x_range, x_ticks)
        for value in values:
            if whole and abs(value - round(value)) > 1e-9:
                continue
            at = self.x(value)
            self.drawing.add("line", class_="grid", x1=at, x2=at, y1=top, y2=bottom)
            if x_name:
                self.drawing.text(at, bottom + 18, x_text(value, digits), text_anchor="middle")
        self.drawing.add("line", class_="axis", x1=left, x2=right, y1=bottom, y2=bottom)
        if x_name:
            self.drawing.text((left + right) / 2, bottom + 38, x_name, text_anchor="middle")
        self.drawing.text(4, top - 8, y_name)

    def steps(self, points: Sequence[tuple[float, float]], class_: str, *, to_edge: bool = True) -> None:
        """Draws a staircase through points, from left to right."""
        if not points:
            return
        bottom = self.y_range[0]
        x, y = points[0]
        path = f"M{self.x(x):.1f} {self.y(max(y, bottom)):.1f}"
        for x, y in points[1:]:
            path += f"H{self.x(x):.1f}V{self.y(max(y, bottom)):.1f}"
        self.drawing.add("path", class_=class_, d=path + (f"H{self.box[2]:.1f}" if to_edge else ""))

    def front(self, points: Sequence[tuple[float, float]], class_: str) -> None:
        """Draws the staircase of the best accuracy up to each cost, of (cost, accuracy) points, cheapest first.

        A front by score may hold points whose accuracy is below that of a cheaper one; the line never falls to them.
        """
        rising: list[tuple[float, float]] = []
        for point in points:
            if not rising or point[1] > rising[-1][1]:
                rising.append(point)
        self.steps(rising, class_)

    def bar(self, x: float, low: float, high: float, class_: str) -> None:
        """Draws an error bar; what reaches beyond the ranges is cut off."""
        bottom, top = self.y_range
        at, low, high = self.x(x), self.y(max(low, bottom)), self.y(min(high, top))
        for x1, x2, y1, y2 in ((at, at, low, high), (at - 4, at + 4, low, low), (at - 4, at + 4, high, high)):
            self.drawing.add("line", class_=class_, x1=x1, x2=x2, y1=y1, y2=y2)


def _within(value: float, limits: tuple[float, float]) -> bool:
    slack = 1e-9 * (limits[1] - limits[0])
    return limits[0] - slack <= value <= limits[1] + slack


def padded(low: float, high: float, *, share: float, least: float) -> tuple[float, float]:
    """Returns a range with room at both ends: a share of it, and something even where it is a point."""
    extra = max((high - low) * share, least)
    return low - extra, high + extra


def ticks(limits: tuple[float, float], most: int) -> tuple[list[float], int]:
    """Returns about `most` round values within limits, and how many decimals their percentages need."""
    low, high = limits
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s for s in (m * power for m in (1, 2, 2.5, 5, 10)) if s >= rough - 1e-12 * power)
    start, end = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # A step of 2.5 needs one decimal more than its size says.
    decimals = -math.floor(math.log10(step * 100) + 1e-9) + (1 if abs(step / power - 2.5) < 1e-9 else 0)
    return [index * step for index in range(start, end + 1)], max(0, min(4, decimals))


def percent(value: float, digits: int) -> str:
    """Returns a share as a percentage."""
    return f"{100 * value:.{digits}f} %"


def plain(value: float, digits: int) -> str:
    """Returns a value with the decimals that its percentage needs, and two more."""
    return f"{value:.{min(4, digits + 2)}f}"


def whole(value: float, _digits: int) -> str:
    """Returns a whole number."""
    return f"{round(value):,}"
