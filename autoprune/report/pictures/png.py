"""The pictures of the report as PNG files, for slides and documents that take no SVG. The one module with matplotlib.

It draws the elements that `svg.Drawing` holds once more, so that both files show the same picture. matplotlib comes
with MLflow.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from autoprune.report.pictures.svg import Drawing

#: Pixels of the file to one of the drawing: sharp on a slide and in print.
_SCALE = 2
_INCH = 100.0
#: Points of a font or a line that is one pixel of the drawing wide.
_POINT = 72.0 / _INCH
_RULE = re.compile(r"\.fig(?: (text)?(?:\.([\w-]+))?)? \{([^}]*)\}")
_MOVE = re.compile(r"([MHVlz])\s*(-?[\d.]+)?(?:[ ,]*(-?[\d.]+))?")
_TURN = re.compile(r"translate\((-?[\d.]+)[ ,]+(-?[\d.]+)\)(?: rotate\((-?[\d.]+)\))?")

Style = dict[str, str]


def png(drawing: Drawing) -> bytes:
    """Returns a picture as a PNG file, twice as large as its SVG in pixels.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    text = drawing.file()
    rules = _rules(text)
    figure = Figure(figsize=(drawing.width / _INCH, drawing.height / _INCH), dpi=_INCH * _SCALE)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, drawing.width)
    axes.set_ylim(drawing.height, 0)
    axes.axis("off")
    for order, node in enumerate(ElementTree.fromstring(text)):
        tag = node.tag.rpartition("}")[2]
        draw = _DRAWN.get(tag)
        if draw is not None:
            draw(axes, node, _style(node, tag, rules), order)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=_fill(_ground(text)))
    return buffer.getvalue()


def _rules(text: str) -> dict[tuple[str, str], Style]:
    """Returns {(element or "", class or ""): properties} of the style sheet in a file."""
    found: dict[tuple[str, str], Style] = {}
    for element, class_, body in _RULE.findall(text):
        pairs = (pair.partition(":") for pair in body.split(";") if ":" in pair)
        found.setdefault((element, class_), {}).update({name.strip(): value.strip() for name, _, value in pairs})
    return found


def _style(node: ElementTree.Element, tag: str, rules: Mapping[tuple[str, str], Style]) -> Style:
    """Returns the properties of an element: its attributes, which rules about it overrule."""
    class_ = node.get("class", "")
    style = {name: value for name, value in node.attrib.items() if name in ("fill", "stroke", "opacity")}
    if tag == "text":
        style |= rules.get(("text", ""), {})
    return style | rules.get(("", class_), {}) | (rules.get(("text", class_), {}) if tag == "text" else {})


def _ground(text: str) -> str | None:
    found = re.search(r'<rect width="100%" height="100%" fill="([^"]+)"', text)
    return found[1] if found else None


def _fill(value: str | None) -> Any:
    """Returns a colour as matplotlib reads it."""
    if value is None or value == "none":
        return "none"
    parts = re.fullmatch(r"rgba\((\d+), (\d+), (\d+), ([\d.]+)\)", value)
    if parts is None:
        return value
    return (*(int(part) / 255 for part in parts.groups()[:3]), float(parts[4]))


def _number(node: ElementTree.Element, name: str) -> float:
    return float(node.get(name, 0.0))


def _edge(style: Style, order: int) -> dict[str, Any]:
    """Returns how matplotlib draws the lines of an element."""
    width = float(style.get("stroke-width", "1").removesuffix("px"))
    dashes = [float(part) / width for part in style.get("stroke-dasharray", "").split()]
    return {
        "linewidth": _POINT * width,
        "linestyle": (0, tuple(dashes)) if dashes else "solid",
        "alpha": float(style["opacity"]) if "opacity" in style else None,
        "zorder": order,
    }


def _shape(style: Style, order: int) -> dict[str, Any]:
    # An element without a rule is filled black: nothing here relies on that.
    return {"facecolor": _fill(style.get("fill")), "edgecolor": _fill(style.get("stroke")), **_edge(style, order)}


def _rect(axes: Any, node: ElementTree.Element, style: Style, order: int) -> None:
    from matplotlib.patches import Rectangle

    if not node.get("width", "").endswith("%"):
        place = (_number(node, "x"), _number(node, "y"))
        axes.add_patch(Rectangle(place, _number(node, "width"), _number(node, "height"), **_shape(style, order)))


def _circle(axes: Any, node: ElementTree.Element, style: Style, order: int) -> None:
    from matplotlib.patches import Circle

    axes.add_patch(Circle((_number(node, "cx"), _number(node, "cy")), _number(node, "r"), **_shape(style, order)))


def _line(axes: Any, node: ElementTree.Element, style: Style, order: int) -> None:
    ends = [[_number(node, f"{axis}{end}") for end in (1, 2)] for axis in "xy"]
    axes.plot(*ends, color=_fill(style.get("stroke")), **_edge(style, order))


def _path(axes: Any, node: ElementTree.Element, style: Style, order: int) -> None:
    places = list(_places(node.get("d", "")) if node.get("d") else _pairs(node.get("points", "")))
    xs, ys = [x for x, _ in places], [y for _, y in places]
    if _fill(style.get("fill")) != "none":
        axes.fill(xs, ys, **_shape(style, order))
    else:
        axes.plot(xs, ys, color=_fill(style.get("stroke")), solid_joinstyle="round", **_edge(style, order))


def _places(path: str) -> Iterator[tuple[float, float]]:
    """Yields the corners of a path of straight lines."""
    x = y = 0.0
    start = (x, y)
    for kind, first, second in _MOVE.findall(path):
        if kind == "M":
            x, y = float(first), float(second)
            start = (x, y)
        elif kind == "H":
            x = float(first)
        elif kind == "V":
            y = float(first)
        elif kind == "l":
            x, y = x + float(first), y + float(second)
        else:
            x, y = start
        yield x, y


def _pairs(points: str) -> Iterator[tuple[float, float]]:
    for pair in points.split():
        x, _, y = pair.partition(",")
        yield float(x), float(y)


def _text(axes: Any, node: ElementTree.Element, style: Style, order: int) -> None:
    from matplotlib.patheffects import withStroke

    x, y, angle = _number(node, "x"), _number(node, "y"), 0.0
    turned = _TURN.match(node.get("transform", ""))
    if turned is not None:
        x, y, angle = (float(part or 0.0) for part in turned.groups())
    effects = []
    if "stroke" in style:
        width = _POINT * float(style.get("stroke-width", "1").removesuffix("px"))
        effects = [withStroke(linewidth=width, foreground=_fill(style["stroke"]))]
    axes.text(
        x,
        y,
        (node.text or "").replace("$", r"\$"),
        color=_fill(style.get("fill")),
        fontsize=_POINT * float(style.get("font-size", "12px").removesuffix("px")),
        fontweight="bold" if style.get("font-weight") == "600" else "normal",
        horizontalalignment={"end": "right", "middle": "center"}.get(node.get("text-anchor", ""), "left"),
        verticalalignment="baseline",
        # Vertical in the drawing grows downwards: matplotlib turns the other way.
        rotation=-angle,
        rotation_mode="anchor",
        path_effects=effects,
        zorder=order,
    )


_Drawer = Callable[[Any, ElementTree.Element, Style, int], None]
_DRAWN: Mapping[str, _Drawer] = {
    "rect": _rect,
    "circle": _circle,
    "line": _line,
    "path": _path,
    "polyline": _path,
    "text": _text,
}
