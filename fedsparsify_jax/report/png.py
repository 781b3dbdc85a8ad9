"""PNG files of drawings, for slides and places that show no SVG."""

from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from fedsparsify_jax.report.charts import Figure
from fedsparsify_jax.report.colours import LIGHT
from fedsparsify_jax.report.drawing import SIZE, WIDTH, Box, Line, Shape, Text
from fedsparsify_jax.report.svg import draw

_SCALE = 3  # dots of the file a unit of the drawing
_FINER = 2  # drawn larger, then shrunk: smooth edges


def _rgb(name: str) -> tuple[int, int, int]:
    value = LIGHT[name].lstrip("#")
    return int(value[:2], 16), int(value[2:4], 16), int(value[4:], 16)


def _pieces(line: Line) -> list[list[tuple[float, float]]]:
    """Returns a line's dashes, or the whole line if it has none."""
    if not line.dashes:
        return [list(line.points)]
    pieces: list[list[tuple[float, float]]] = []
    gap, left, drawing = 0, line.dashes[0], True
    piece = [line.points[0]]
    for (x0, y0), (x1, y1) in zip(line.points, line.points[1:], strict=False):
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        done = 0.0
        while length - done > left:
            done += left
            at = (x0 + (x1 - x0) * done / length, y0 + (y1 - y0) * done / length)
            if drawing:
                pieces.append([*piece, at])
            piece, drawing = [at], not drawing
            gap += 1
            left = line.dashes[gap % len(line.dashes)]
        left -= length - done
        piece.append((x1, y1))
    return [*pieces, piece] if drawing else pieces


def _put(canvas: Any, overlay: Any, fonts: Any, shape: Shape) -> None:
    factor = _SCALE * _FINER
    match shape:
        case Text():
            anchor = {"start": "ls", "middle": "ms", "end": "rs"}[shape.anchor]
            place = (shape.x * factor, shape.y * factor)
            # The letters that come with Pillow have one weight: bold is a stroke.
            canvas.text(
                place,
                shape.words,
                _rgb(shape.colour),
                fonts,
                anchor,
                stroke_width=1 if shape.bold else 0,
            )
        case Box():
            corners = [n * factor for n in (shape.x, shape.y)]
            corners += [(shape.x + shape.width) * factor - 1]
            corners += [(shape.y + shape.height) * factor - 1]
            kind = canvas.ellipse if shape.round else canvas.rectangle
            kind(corners, fill=_rgb(shape.colour))
        case Line(filled=True):
            places = [(x * factor, y * factor) for x, y in shape.points]
            if len(places) > 2:
                overlay.polygon(places, fill=(*_rgb(shape.colour), 46))
        case Line():
            width = max(1, round(shape.width * factor))
            for piece in _pieces(shape):
                places = [(x * factor, y * factor) for x, y in piece]
                canvas.line(places, _rgb(shape.colour), width, joint="curve")


def write_png(figure: Figure, path: Path) -> None:
    """Draws a figure with its title and legend, on white.

    Args:
      figure: a chart or a heat map.
      path: the file to write.
    """
    drawing = draw(figure, alone=True)
    factor = _SCALE * _FINER
    size = (round(WIDTH * factor), round(drawing.height * factor))
    image = Image.new("RGBA", size, (*_rgb("paper"), 255))
    layer = Image.new("RGBA", size, (0, 0, 0, 0))
    fonts = ImageFont.load_default(SIZE * factor)
    canvas, overlay = ImageDraw.Draw(image), ImageDraw.Draw(layer)
    # Ranges lie under all lines.
    areas = [s for s in drawing.shapes if isinstance(s, Line) and s.filled]
    for area in areas:
        _put(canvas, overlay, fonts, area)
    image.alpha_composite(layer)
    for shape in drawing.shapes:
        if shape not in areas:
            _put(canvas, overlay, fonts, shape)
    smaller = (size[0] // _FINER, size[1] // _FINER)
    image.convert("RGB").resize(smaller, Image.Resampling.LANCZOS).save(path)
