"""From the grid to pixels: the tracks that are used, as far apart as they need."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from .place import Placement
from .plan import Plan
from .route import (
    NORTH,
    GridLine,
    Heading,
    Net,
    Point,
    Routing,
    heading_of,
    headings_of,
    opposite,
)
from .sketch import Element
from .text import Label, as_text, width

TEXT, FITTED, SMALL = 17.0, 14.0, 12.5  # labels in shapes, in circles, beside wires
SIGN = 22.0  # of a lone *, which is small
TRACK = 15.0  # between two wires
RADIUS = 7.0  # of a bend
CLEAR = 16.0  # a bend and an arrow between a wire and a shape
CIRCLE, PORT = 13.0, 17.0  # radii
LAYER_HEIGHT = 34.0
PIN = 14.0  # between two wires into one layer
OUTSIDE = 22.0  # of the body, for the states' wires
EDGE = 12.0  # between an input's circle and the body
MARGIN = 14.0

XY = tuple[float, float]


@dataclass(frozen=True)
class Shape:
    """An element's outline: a rectangle, as round as it is high where it is a circle,
    a pill or an input; a point where wires join or leave the cell."""

    x: float
    y: float
    half_width: float
    half_height: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        wide, high = self.half_width, self.half_height
        return self.x - wide, self.y - high, self.x + wide, self.y + high


@dataclass(frozen=True)
class Text:
    """A label in the picture, by its left, centre or right, on its base line."""

    label: Label
    x: float
    y: float
    size: float
    anchor: str
    role: str  # "inside", "name", "mark", "port"
    element: int

    @property
    def box(self) -> tuple[float, float, float, float]:
        wide = width(self.label, self.size)
        left = self.x - {"start": 0.0, "middle": wide / 2, "end": wide}[self.anchor]
        return left, self.y - 0.75 * self.size, left + wide, self.y + 0.35 * self.size


@dataclass(frozen=True)
class Wire:
    """A wire in pixels: corners, of one net; where it forks off, the way it came.

    Attributes:
        source: the element whose value it carries.
        reader: who it goes to.
        corners: from the element or the fork to the reader.
        came: for a fork, the direction of the wire it leaves.
        bridges: where it passes over another wire.
        on_state_line: whether it is part of a state's straight line.
    """

    source: int
    reader: int
    corners: tuple[XY, ...]
    came: Heading | None
    bridges: tuple[XY, ...]
    on_state_line: bool


@dataclass(frozen=True)
class Layout:
    """Everything that `svg` draws.

    Attributes:
        elements: what is drawn, joins included.
        shapes: the outline of each.
        wires: a reader's last stretch each, from the element or a fork.
        routes: the whole way to each reader, over the stretches of others.
        texts: all labels.
        body: the box round the cell: left, top, right, bottom.
        width: of the picture.
        height: of the picture.
    """

    elements: tuple[Element, ...]
    shapes: tuple[Shape, ...]
    wires: tuple[Wire, ...]
    routes: tuple[Wire, ...]
    texts: tuple[Text, ...]
    body: tuple[float, float, float, float]
    width: float
    height: float


def arrange(plan: Plan, placement: Placement, routing: Routing) -> Layout:
    return _Arranger(plan, placement, routing).layout()


class _Arranger:
    def __init__(self, plan: Plan, placement: Placement, routing: Routing) -> None:
        self.plan, self.placement, self.routing = plan, placement, routing
        self.elements = plan.elements
        self.halves = [self.half(n) for n in range(len(self.elements))]
        self.entries = self._entries()
        self.x = self._positions(routing.columns, axis=0)
        self.y = self._positions(routing.rows, axis=1)

    # -- sizes ---------------------------------------------------------------------

    def half(self, number: int) -> XY:
        element = self.elements[number]
        wide = width(element.label, self.size(number)) / 2
        if element.kind == "layer":
            pins = (len(element.inputs) // 2) * PIN
            return max(23.0, wide + 8, pins + 10), LAYER_HEIGHT / 2
        if element.kind == "op":
            return (CIRCLE if wide <= CIRCLE - 2 else wide + 7), CIRCLE
        if element.kind in ("input", "output"):
            return max(PORT, wide + 6), PORT
        return 0.0, 0.0

    def size(self, number: int) -> float:
        """Of the label inside: a little smaller where it then fits a circle."""
        label = self.elements[number].label
        if as_text(label) == "*":
            return SIGN
        fits = width(label, TEXT) > 2 * CIRCLE - 4 >= width(label, FITTED)
        return FITTED if fits and self.elements[number].kind == "op" else TEXT

    def _entries(self) -> dict[tuple[int, int], Heading]:
        """The heading with which each operand arrives at its reader."""
        found = {}
        for net in self.routing.nets.values():
            for path, reader in zip(net.paths, net.readers, strict=True):
                found[reader] = heading_of(path[-2], path[-1])
        return found

    def extent(self, number: int, axis: int, side: int) -> float:
        """How far an element reaches from its own line, its texts included."""
        element = self.elements[number]
        reach = self.halves[number][axis]
        if element.kind in ("state", "new"):
            return OUTSIDE - 4 if axis == 0 else 4.0
        if element.kind in ("input", "output"):
            return reach if axis == 0 else reach + EDGE
        name = self.named(number)
        if name and axis == 0 and side > 0:
            reach = max(reach, 6 + width(name, SMALL))
        if name and axis == 1 and side < 0:
            reach += 15
        for position, wire in enumerate(element.inputs):
            heading = self.entries[number, position]
            if not wire.mark or heading[axis] != -side:
                continue
            reach = max(
                reach,
                self.halves[number][axis]
                + (width(wire.mark, SMALL) - 4 if axis == 0 else 8),
            )
        if axis == 0:
            for position, wire in enumerate(element.inputs):
                heading = self.entries[number, position]
                if wire.mark and heading[1]:
                    pin = self.pin_offset(number, position)
                    reach = max(reach, side * pin + 4 + width(wire.mark, SMALL))
        return reach

    def pin_offset(self, number: int, position: int) -> float:
        net = self.routing.nets[self.elements[number].inputs[position].source]
        path = net.paths[net.readers.index((number, position))]
        return self.routing.columns[path[-1][0]].pin * PIN

    def named(self, number: int) -> Label:
        """The name beside an element: of gates, and of values the cell names."""
        element = self.elements[number]
        if element.kind == "layer":
            return element.name
        results = {e.value for e in self.elements if e.kind in ("new", "output")}
        return () if element.value in results else element.name

    # -- lines -----------------------------------------------------------------------

    def _positions(self, lines: list[GridLine], axis: int) -> list[float]:
        used = self._used(axis)
        extents = self._extents(axis)
        found: list[float] = []
        at, last = 0.0, None
        for index, line in enumerate(lines):
            if line.pin:
                found.append(0.0)
                continue
            if index in used:
                at += 0.0 if last is None else self._gap(last, line, extents)
                last = line
            found.append(at)
        for index, line in enumerate(lines):
            if line.pin:
                found[index] = found[lines.index(GridLine(line.base))] + line.pin * PIN
        return found

    def _used(self, axis: int) -> set[int]:
        lines = self.routing.columns if axis == 0 else self.routing.rows
        where = self.placement.slot if axis == 0 else self.placement.row
        used = {lines.index(GridLine(base)) for base in where.values()}
        for net in self.routing.nets.values():
            for point, heading in net.edges():
                if heading[1 - axis]:
                    used.add(point[axis])
        return used

    def _extents(self, axis: int) -> dict[tuple[int, int], float]:
        where = self.placement.slot if axis == 0 else self.placement.row
        found: dict[tuple[int, int], float] = {}
        for number in range(len(self.elements)):
            for side in (-1, 1):
                key = (where[number], side)
                reach = self.extent(number, axis, side)
                found[key] = max(found.get(key, 0.0), reach)
        return found

    def _gap(
        self, before: GridLine, after: GridLine, extents: dict[tuple[int, int], float]
    ) -> float:
        if before.track and after.track:
            return TRACK
        reach = 0.0 if before.track else extents.get((before.base, 1), 0.0)
        reach += 0.0 if after.track else extents.get((after.base, -1), 0.0)
        return max(reach + CLEAR, TRACK)

    # -- everything in pixels ----------------------------------------------------------

    def layout(self) -> Layout:
        shapes = [self.shape(n) for n in range(len(self.elements))]
        texts = [t for n in range(len(self.elements)) for t in self.texts(n, shapes[n])]
        nets = self.routing.nets.values()
        wires = [w for net in nets for w in self.wires(net)]
        routes = [w for net in nets for w in self.routes(net)]
        left = min([0.0, *(t.box[0] for t in texts)]) - MARGIN
        right = max([self.x[-1], *(t.box[2] for t in texts)]) + MARGIN
        top, bottom = self.y[0] - PORT - MARGIN, self.y[-1] + PORT + MARGIN
        x0, x1 = self.x[0] + OUTSIDE, self.x[-1] - OUTSIDE
        y0, y1 = self.y[0] + PORT + EDGE, self.y[-1] - PORT - EDGE
        move = (-left, -top)
        return Layout(
            self.elements,
            tuple(_moved(s, move) for s in shapes),
            tuple(_moved_wire(w, move) for w in wires),
            tuple(_moved_wire(w, move) for w in routes),
            tuple(_moved(t, move) for t in texts),
            (x0 - left, y0 - top, x1 - left, y1 - top),
            right - left,
            bottom - top,
        )

    def xy(self, point: Point) -> XY:
        return self.x[point[0]], self.y[point[1]]

    def shape(self, number: int) -> Shape:
        slot, row = self.placement.slot[number], self.placement.row[number]
        x = self.x[self.routing.columns.index(GridLine(slot))]
        y = self.y[self.routing.rows.index(GridLine(row))]
        return Shape(x, y, *self.halves[number])

    def texts(self, number: int, shape: Shape) -> list[Text]:
        element = self.elements[number]
        found = []
        if element.kind in ("state", "new"):
            side = -1 if element.kind == "state" else 1
            anchor = "end" if side < 0 else "start"
            x, y = shape.x + 6 * side, shape.y + 0.33 * TEXT
            return [Text(element.label, x, y, TEXT, anchor, "port", number)]
        if element.label:
            size = self.size(number)
            x, y = shape.x, shape.y + 0.33 * size
            found.append(Text(element.label, x, y, size, "middle", "inside", number))
        name = self.named(number)
        if name:
            x, y = shape.x + 6, shape.y - shape.half_height - 5
            found.append(Text(name, x, y, SMALL, "start", "name", number))
        for position, wire in enumerate(element.inputs):
            if wire.mark:
                found.append(self.mark(number, position, shape))
        return found

    def mark(self, number: int, position: int, shape: Shape) -> Text:
        """Beside the arrow, where it meets the element."""
        label = self.elements[number].inputs[position].mark
        heading = self.entries[number, position]
        if heading[1]:
            offset = self.pin_offset(number, position)
            side = -1 if offset < 0 else 1
            x = shape.x + offset + 5 * side
            below = shape.half_height + 0.85 * SMALL
            y = shape.y + (below + 3 if heading == NORTH else -shape.half_height - 6)
            anchor = "start" if side > 0 else "end"
        else:
            side = -heading[0]
            x, y = shape.x + side * (shape.half_width + 3), shape.y - 9
            anchor = "start" if side > 0 else "end"
        return Text(label, x, y, SMALL, anchor, "mark", number)

    def wires(self, net: Net) -> list[Wire]:
        coming = {}
        for point, heading in net.edges():
            coming[point[0] + heading[0], point[1] + heading[1]] = heading
        return [
            self.wire(net, index, path, coming.get(path[0]))
            for index, path in enumerate(net.paths)
        ]

    def routes(self, net: Net) -> list[Wire]:
        """The paths, each with the ways to where it forks off."""
        whole: list[list[Point]] = []
        for path in net.paths:
            before = next((w for w in whole if path[0] in w[1:]), [])
            way = before[: before.index(path[0])] if before else []
            whole.append(way + path)
        return [self.wire(net, i, path, None) for i, path in enumerate(whole)]

    def wire(
        self, net: Net, index: int, path: list[Point], came: Heading | None
    ) -> Wire:
        reader, _ = net.readers[index]
        corners = [self.xy(p) for p in _corners(path)]
        if came is None:
            corners[0] = self.border(net.source, heading_of(*path[:2]), corners[0])
        corners[-1] = self.border(reader, opposite(heading_of(*path[-2:])), corners[-1])
        bridges = tuple(self.xy(p) for p in self.bridges(net, path))
        straight = index < net.fixed
        return Wire(net.source, reader, tuple(corners), came, bridges, straight)

    def border(self, number: int, out: Heading, at: XY) -> XY:
        """Where a wire in that direction leaves an element's outline."""
        wide, high = self.halves[number]
        if out[0]:
            slot = GridLine(self.placement.slot[number])
            return self.x[self.routing.columns.index(slot)] + out[0] * wide, at[1]
        return at[0], at[1] + out[1] * high

    def bridges(self, net: Net, path: list[Point]) -> list[Point]:
        """Points where an upright stretch passes over another net's level one."""
        level = {}
        for other in self.routing.nets.values():
            if other is net:
                continue
            for point, heading in other.edges():
                if heading[0]:
                    level[point] = level[point[0] + heading[0], point[1]] = True
        headings = headings_of(path)
        return [
            point
            for point, (before, after) in zip(
                path[1:], pairwise(headings), strict=False
            )
            if before[1] and before == after and point in level
        ]


def _corners(path: list[Point]) -> list[Point]:
    """The ends of a path, and where it turns."""
    inner = [
        b
        for a, b, c in zip(path, path[1:], path[2:], strict=False)
        if heading_of(a, b) != heading_of(b, c)
    ]
    return [path[0], *inner, path[-1]]


def _moved(item, move: XY):
    return replace(item, x=item.x + move[0], y=item.y + move[1])


def _moved_wire(wire: Wire, move: XY) -> Wire:
    def moved(points: tuple[XY, ...]) -> tuple[XY, ...]:
        return tuple((x + move[0], y + move[1]) for x, y in points)

    return replace(wire, corners=moved(wire.corners), bridges=moved(wire.bridges))
