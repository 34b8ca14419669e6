"""What a figure is drawn with: nodes, arrows between them, words, curves.

The colours are those of a cell's picture. An arrow's `data-from` and `data-to` say
which nodes it joins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple
from xml.sax.saxutils import quoteattr

from ..diagram.layout import SMALL, TEXT, Shape, Text
from ..diagram.picture import Picture
from ..diagram.style import CELL, Sheet, Style
from ..diagram.svg import HEAD, document, draw_text, px, rectangle, words
from ..diagram.text import Label, Run, as_text, plain, symbol, width

XY = tuple[float, float]
MARGIN = 16.0
BEND = 7.0  # where an arrow turns
RADIUS = 17.0  # of a round node; half the height of a box

SHEET = Sheet(
    """
.cw-gradient { fill: none; stroke: #c2410c; stroke-width: 2; stroke-dasharray: 6 4 }
.cw-gradient-head, .cw-gradient-words { fill: #c2410c; stroke: none }
.cw-path { fill: none; stroke: #1f5f99; stroke-width: 2.8 }
.cw-path-head { fill: #1f5f99; stroke: none }
.cw-third { fill: none; stroke: #00664b; stroke-width: 2; stroke-dasharray: 2 3 }
.cw-rest { fill: none; stroke: #22303c; stroke-width: 1.2; opacity: 0.28 }
.cw-rest-head { fill: #22303c; opacity: 0.28; stroke: none }
.cw-hidden { fill: #edf5ee; stroke: #6f937a; stroke-width: 1.3 }
""",
    """
.cw-gradient { stroke: #ff9a66 }
.cw-gradient-head, .cw-gradient-words { fill: #ff9a66 }
.cw-path { stroke: #6cbcf0 }
.cw-path-head { fill: #6cbcf0 }
.cw-third { stroke: #4cc9a0 }
.cw-rest { stroke: #dfe7ee }
.cw-rest-head { fill: #dfe7ee }
.cw-hidden { fill: #1c2a25; stroke: #7fa98c }
""",
)


class Node(NamedTuple):
    """A circle or a box: its name among the nodes, its middle and its half sides."""

    name: str
    x: float
    y: float
    half_width: float = RADIUS
    half_height: float = RADIUS
    round: bool = True

    def rim(self, toward: XY) -> XY:
        """Where a straight line from the middle to a point leaves the node."""
        dx, dy = toward[0] - self.x, toward[1] - self.y
        if self.round:
            part = self.half_height / math.hypot(dx, dy)
        else:
            part = min(
                self.half_width / abs(dx) if dx else math.inf,
                self.half_height / abs(dy) if dy else math.inf,
            )
        return self.x + part * dx, self.y + part * dy


class Canvas:
    """A figure in the making: it grows with what is drawn on it."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._nodes: list[str] = []  # over the lines
        self._right = self._bottom = 0.0

    def circle(
        self, x: float, y: float, label: Label, kind: str = "input", name: str = ""
    ) -> Node:
        """A round node: an input, an output, a state; its name is its label's text."""
        return self._node(Node(name or as_text(label), x, y), label, kind)

    def sign(self, x: float, y: float, text: str, name: str) -> Node:
        """A small round node: an operation."""
        return self._node(Node(name, x, y, 11.0, 11.0), plain(text), "op")

    def box(self, x: float, y: float, label: Label, name: str) -> Node:
        """A use of the weights, with a name of its own and the label of all."""
        node = Node(
            name, x, y, max(24.0, width(label, TEXT) / 2 + 7), 18.0, round=False
        )
        return self._node(node, label, "layer")

    def _node(self, node: Node, label: Label, kind: str) -> Node:
        shape = Shape(node.x, node.y, node.half_width, node.half_height)
        radius = node.half_height if node.round else 5.0
        more = f" data-node={quoteattr(node.name)}"
        self._nodes.append(rectangle(shape, kind, radius, more))
        size = TEXT if width(label, TEXT) <= 2 * node.half_width + 2 else SMALL
        text = Text(label, node.x, node.y + 0.33 * size, size, "middle", "node", -1)
        self._nodes.append(draw_text(text))
        self._grow(node.x + node.half_width, node.y + node.half_height)
        return node

    def arrow(
        self, start: Node, end: Node, kind: str = "wire", *, aside: float = 0.0
    ) -> None:
        """A straight arrow from rim to rim.

        Args:
            start: where it begins.
            end: where it points.
            kind: "wire", "gradient" (back, dashed), "path" (strong), "rest" (pale).
            aside: pixels to its right, so that two ways lie side by side.
        """
        length = math.hypot(end.x - start.x, end.y - start.y)
        dx = aside * -(end.y - start.y) / length
        dy = aside * (end.x - start.x) / length
        a, b = start.rim((end.x, end.y)), end.rim((start.x, start.y))
        corners = [(a[0] + dx, a[1] + dy), (b[0] + dx, b[1] + dy)]
        self._way(corners, kind, f"{start.name} {end.name}")

    def bent(self, corners: list[XY], kind: str, start: Node, end: Node) -> None:
        """An arrow along corners."""
        self._way(corners, kind, f"{start.name} {end.name}")

    def _way(self, corners: list[XY], kind: str, joins: str) -> None:
        (x0, y0), (x1, y1) = corners[-2:]
        length = math.hypot(x1 - x0, y1 - y0)
        ux, uy = (x1 - x0) / length, (y1 - y0) / length
        bx, by = x1 - HEAD * ux, y1 - HEAD * uy
        source, target = joins.split(" ")
        data = f"data-from={quoteattr(source)} data-to={quoteattr(target)}"
        way = _rounded([*corners[:-1], (bx + 2 * ux, by + 2 * uy)])
        self._lines.append(f'<path class="cw-{kind}" {data} d="{way}"/>')
        side = 3.6
        left = (bx - side * uy, by + side * ux)
        points = [(x1, y1), left, (bx + side * uy, by - side * ux)]
        head = "head" if kind == "wire" else f"{kind}-head"
        self._lines.append(
            f'<polygon class="cw-{head}" points="{" ".join(map(_at, points))}"/>'
        )
        for x, y in corners:
            self._grow(x, y)

    def curve(self, points: Iterable[XY], kind: str = "wire") -> None:
        """A line through points, without an arrow."""
        listed = list(points)
        way = "L".join(map(_at, listed))
        self._lines.append(f'<path class="cw-{kind}" d="M{way}"/>')
        for x, y in listed:
            self._grow(x, y)

    def label(self, x: float, y: float, label: Label, anchor: str = "middle") -> None:
        """A formula."""
        self._nodes.append(draw_text(Text(label, x, y, TEXT, anchor, "label", -1)))
        self._grow(x + width(label, TEXT) * _after(anchor), y + 5)

    def words(
        self, x: float, y: float, text: str, anchor: str = "middle", kind: str = "words"
    ) -> None:
        """Plain words."""
        line = words(text, x, y, 13, anchor)
        self._nodes.append(line.replace("cw-words", f"cw-words cw-{kind}", 1))
        self._grow(x + 0.9 * width(plain(text), 13) * _after(anchor), y + 5)

    def _grow(self, x: float, y: float) -> None:
        self._right, self._bottom = max(self._right, x), max(self._bottom, y)

    def picture(self, title: str) -> Picture:
        """What was drawn, as a picture."""
        content = [*self._lines, *self._nodes]
        wide, high = self._right + MARGIN, self._bottom + MARGIN
        sheets = (CELL, SHEET)
        return Picture(document(content, (wide, high), title, Style(), sheets))


def at(name: str, time: str | int) -> Label:
    """A value at a time: x with subscript 1."""
    return symbol(name, str(time))


def partial(of: Label, by: Label) -> Label:
    """∂a/∂b in one line."""
    return (Run("∂"), *of, Run(" / ∂"), *by)


def _after(anchor: str) -> float:
    """How much of a text lies to the right of where it is anchored."""
    return {"start": 1.0, "middle": 0.5, "end": 0.0}[anchor]


def _rounded(corners: list[XY]) -> str:
    """A path along corners, each of them a small bend."""
    parts = [f"M{_at(corners[0])}"]
    for before, corner, after in zip(corners, corners[1:], corners[2:], strict=False):
        inward, outward = _near(corner, before), _near(corner, after)
        parts.append(f"L{_at(inward)}Q{_at(corner)} {_at(outward)}")
    return "".join([*parts, f"L{_at(corners[-1])}"])


def _near(corner: XY, other: XY) -> XY:
    """The point of the way to another corner at which a bend begins."""
    length = math.dist(corner, other)
    part = min(BEND, length / 2) / length
    return tuple(c + part * (o - c) for c, o in zip(corner, other, strict=True))  # pyright: ignore[reportReturnType]


def _at(point: XY) -> str:
    return f"{px(point[0])} {px(point[1])}"
