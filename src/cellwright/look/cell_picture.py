"""The cell's picture for a page, and where in it each named value is chosen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..language.cell import Cell
from .diagram import Diagram, DrawingError
from .diagram.layout import Layout

# Where a value is chosen: a state where it leaves the cell, then what makes the value.
KINDS = ("new", "layer", "op", "output", "input")
SMALLEST = 32.0  # of a box, in pixels of the picture: a finger finds it
EDGE = 3.0  # round a label

Box = tuple[float, float, float, float]  # left, top, right, bottom


def cell_picture(cell: Cell) -> dict[str, Any] | None:
    """The picture and its boxes; None where the cell is too large for one.

    Returns:
        "svg"; its "width" in pixels; "boxes": of each name left, top, width and
        height, as shares of the picture's.
    """
    try:
        diagram = Diagram(cell, legend=False)
    except DrawingError:
        return None
    layout = diagram.layout
    found = {
        name: _shares(box, layout.width, layout.height)
        for name, node in cell.graph.values.items()
        if (box := _box(layout, node))
    }
    return {"svg": diagram.svg, "width": layout.width, "boxes": found}


def _box(layout: Layout, node: int) -> Box | None:
    """What the picture has of a node's value: a shape, and the name beside it."""
    elements = [n for n, e in enumerate(layout.elements) if e.value == node]
    elements = [n for n in elements if layout.elements[n].kind in KINDS]
    if not elements:
        return None
    first = min(elements, key=lambda n: KINDS.index(layout.elements[n].kind))
    return _around(list(_parts(layout, first)))


def _parts(layout: Layout, element: int) -> Iterator[Box]:
    port = layout.elements[element].kind == "new"
    if not port:
        yield layout.shapes[element].box
    for text in layout.texts:
        if text.element == element and text.role in ("port", "name"):
            left, top, right, bottom = text.box
            yield left - EDGE, top - EDGE, right + EDGE, bottom + EDGE


def _around(boxes: list[Box]) -> Box:
    """The box round all, and no smaller than a finger needs."""
    left, top = (min(box[side] for box in boxes) for side in (0, 1))
    right, bottom = (max(box[side] for box in boxes) for side in (2, 3))
    wide = max(0.0, SMALLEST - (right - left)) / 2
    high = max(0.0, SMALLEST - (bottom - top)) / 2
    return left - wide, top - high, right + wide, bottom + high


def _shares(box: Box, width: float, height: float) -> list[float]:
    left, top, right, bottom = box
    parts = left / width, top / height, (right - left) / width, (bottom - top) / height
    return [round(part, 5) for part in parts]
