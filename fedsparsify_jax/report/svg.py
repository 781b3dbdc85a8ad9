"""SVG of drawings, for a page that has the colours or as files with their colours."""

from collections.abc import Iterable
from html import escape

from fedsparsify_jax.report.charts import Chart, Figure
from fedsparsify_jax.report.colours import LIGHT
from fedsparsify_jax.report.drawing import (
    SIZE,
    WIDTH,
    Box,
    Drawing,
    Line,
    Shape,
    Text,
    draw_chart,
    draw_heat_map,
)

FONT = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def classes(colours: Iterable[str], of: str = "var(--{})") -> str:
    """Returns a style sheet for the names of colours.

    Args:
      colours: the names.
      of: format of a name's colour.
    """
    rules = [f".c text{{font-size:{SIZE:g}px}}", ".c .b{font-weight:600}"]
    for name in colours:
        value = of.format(name)
        rules.append(f".c .{name}{{stroke:{value};fill:none}}")
        rules.append(f".c .f{name}{{fill:{value}}}")
        if name.startswith("s"):
            rules.append(f".c .a{name}{{fill:{value};opacity:.18}}")
    return "".join(rules)


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _class(shape: Line | Box, prefix: str = "") -> str:
    tone = "" if shape.series is None else f" t{shape.series}"
    return f'class="{prefix}{shape.colour}{tone}"'


def _shape(shape: Shape) -> str:
    match shape:
        case Text():
            bold = " b" if shape.bold else ""
            anchor = "" if shape.anchor == "start" else f' text-anchor="{shape.anchor}"'
            return (
                f'<text class="f{shape.colour}{bold}" x="{_n(shape.x)}" '
                f'y="{_n(shape.y)}"{anchor}>{escape(shape.words)}</text>'
            )
        case Box(round=True):
            radius = shape.width / 2
            return (
                f'<circle {_class(shape, "f")} cx="{_n(shape.x + radius)}" '
                f'cy="{_n(shape.y + radius)}" r="{_n(radius)}"/>'
            )
        case Box():
            return (
                f'<rect {_class(shape, "f")} x="{_n(shape.x)}" y="{_n(shape.y)}" '
                f'width="{_n(shape.width)}" height="{_n(shape.height)}"/>'
            )
        case Line(filled=True):
            places = " ".join(f"{_n(x)},{_n(y)}" for x, y in shape.points)
            return f'<polygon {_class(shape, "a")} points="{places}"/>'
        case Line():
            places = " ".join(f"{_n(x)},{_n(y)}" for x, y in shape.points)
            width = "" if shape.width == 1 else f' stroke-width="{shape.width:g}"'
            dashes = " ".join(map(_n, shape.dashes))
            dashes = f' stroke-dasharray="{dashes}"' if dashes else ""
            return f'<polyline {_class(shape)} points="{places}"{width}{dashes}/>'


def draw(figure: Figure, *, alone: bool = False) -> Drawing:
    """Returns a figure of either kind as shapes; see `drawing`."""
    if isinstance(figure, Chart):
        return draw_chart(figure, alone=alone)
    return draw_heat_map(figure, alone=alone)


def inline(drawing: Drawing, title: str) -> str:
    """Returns an ``<svg>`` for a page that has the style sheet of `classes`.

    Args:
      drawing: the shapes.
      title: its description for screen readers.
    """
    body = "".join(map(_shape, drawing.shapes))
    return (
        f'<svg class="c" viewBox="0 0 {WIDTH:g} {_n(drawing.height)}" role="img" '
        f'aria-label="{escape(title)}">{body}</svg>'
    )


def document(*figures: Figure) -> str:
    """Returns an SVG file of figures side by side, each with its title and legend.

    Colours are those for light paper.
    """
    drawings = [draw(figure, alone=True) for figure in figures]
    width = f"{WIDTH * len(drawings):g}"
    height = _n(max((drawing.height for drawing in drawings), default=0.0))
    sheet = "".join(
        classes([name]).replace(f"var(--{name})", colour)
        for name, colour in LIGHT.items()
    )
    bodies = ["".join(map(_shape, drawing.shapes)) for drawing in drawings]
    body = "".join(bodies[:1]) + "".join(
        f'<g transform="translate({n * WIDTH:g})">{shapes}</g>'
        for n, shapes in enumerate(bodies[1:], 1)
    )
    title = escape("; ".join(figure.title for figure in figures))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" class="c" role="img" '
        f'width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="{FONT}"><title>{title}</title><style>{sheet}</style>'
        f'<rect class="fpaper" width="{width}" height="{height}"/>{body}</svg>\n'
    )
