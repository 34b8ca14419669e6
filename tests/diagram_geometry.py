"""Reads a drawn cell back from its SVG: shapes, lines, and what touches what.

Nothing here knows how the picture was made. A line that ends on a shape is its operand;
one that starts on another line carries what that one carries there; one that ends on
another line is concatenated to it from there on.
"""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass, field

SVG = "{http://www.w3.org/2000/svg}"
TOUCH = 6.0  # an arrow's line ends within its head; a state's, beside its label
ON = 0.6  # on a line, up to the rounding of curves and of decimals

Point = tuple[float, float]
Piece = tuple[Point, Point]
Box = tuple[float, float, float, float]


@dataclass
class Shape:
    element: int
    kind: str
    box: Box


@dataclass
class Label:
    element: int
    role: str
    text: str
    x: float
    y: float
    size: float
    anchor: str


@dataclass
class Line:
    """A path: its points in order; where it is straight; where it bridges."""

    points: list[Point] = field(default_factory=list)
    straight: list[Piece] = field(default_factory=list)
    bridges: list[Point] = field(default_factory=list)
    state: bool = False

    @property
    def start(self) -> Point:
        return self.points[0]

    @property
    def end(self) -> Point:
        return self.points[-1]


@dataclass
class Picture:
    shapes: list[Shape]
    labels: list[Label]
    lines: list[Line]


def read(svg: str) -> Picture:
    """The picture without its legend and page."""
    root = ET.fromstring(svg)
    shapes, labels, lines = [], [], []
    for item in root.iter():
        element = item.get("data-element")
        if item.tag == f"{SVG}rect" and element is not None:
            x, y, w, h = (float(item.get(k, 0)) for k in ("x", "y", "width", "height"))
            kind = item.get("class", "").removeprefix("cw-").split()[0]
            shapes.append(Shape(int(element), kind, (x, y, x + w, y + h)))
        elif item.tag == f"{SVG}text" and element is not None:
            labels.append(_label(item, int(element)))
        elif item.tag == f"{SVG}path" and item.get("data-line") is not None:
            lines.append(_line(item))
    return Picture(shapes, labels, lines)


def _label(item: ET.Element, element: int) -> Label:
    x, y, size = (float(item.get(k, 0)) for k in ("x", "y", "font-size"))
    role, anchor = item.get("data-role", ""), item.get("text-anchor", "")
    return Label(element, role, text_of(item), x, y, size, anchor)


def text_of(item: ET.Element) -> str:
    """A label's text, with the accents that are drawn over letters."""
    text = "".join(item.itertext())
    for sign, combining in zip("˜ˆ¯", "\u0303\u0302\u0304", strict=True):
        text = text.replace(sign, combining)
    return unicodedata.normalize("NFC", text)


def _line(item: ET.Element) -> Line:
    line = Line(state="cw-state" in item.get("class", ""))
    for command, text in re.findall(r"([MLQA])([^MLQA]*)", item.get("d", "")):
        numbers = [float(n) for n in text.split()]
        end = (numbers[-2], numbers[-1])
        if command == "M":
            line.points.append(end)
        elif command == "Q":
            line.points += _curve(line.end, (numbers[0], numbers[1]), end)
        else:
            if command == "A":
                (x0, y0), (x1, y1) = line.end, end
                line.bridges.append(((x0 + x1) / 2, (y0 + y1) / 2))
            if math.dist(line.end, end) > 0.01:
                line.straight.append((line.end, end))
            line.points.append(end)
    return line


def _curve(a: Point, b: Point, c: Point) -> list[Point]:
    found = []
    for n in range(1, 13):
        t = n / 12
        weights = ((1 - t) ** 2, 2 * t * (1 - t), t * t)
        x, y = (
            sum(w * p[k] for w, p in zip(weights, (a, b, c), strict=True))
            for k in (0, 1)
        )
        found.append((x, y))
    return found


# -- which operands each element has -------------------------------------------------


def recovered(picture: Picture) -> dict[int, Counter[tuple[int, str]]]:
    """For each element, its operands: (element, mark) and how often."""
    reader = _Reader(picture)
    found = {s.element: Counter() for s in picture.shapes}
    found |= {p.element: Counter() for p in picture.labels if p.role == "port"}
    for number, line in enumerate(picture.lines):
        target = reader.touched(line.end)
        if target is not None:
            carried = reader.carried(number, math.inf)
            mark = reader.mark(target, line.end)
            found[target] += Counter((element, mark) for element in carried.elements())
    return found


class _Reader:
    def __init__(self, picture: Picture) -> None:
        self.picture = picture
        self.joins: dict[int, list[tuple[float, int]]] = {}
        for number, line in enumerate(picture.lines):
            if self.touched(line.end) is None:
                host, at = self.host(number, line.end)
                self.joins.setdefault(host, []).append((at, number))

    def touched(self, point: Point) -> int | None:
        """The shape on whose border a point is, or the state whose label is at it."""
        for shape in self.picture.shapes:
            if _distance(shape.box, point) <= TOUCH:
                return shape.element
        for label in self.picture.labels:
            if label.role != "port":
                continue
            if abs(label.x - point[0]) <= 12 and abs(label.y - 5.6 - point[1]) <= 3:
                return label.element
        return None

    def host(self, number: int, point: Point, least: float = 0) -> tuple[int, float]:
        """The other line that a point is on, and how far along it: at least so far."""
        found = []
        for other, line in enumerate(self.picture.lines):
            if other != number:
                at = _along(line.points, point)
                if at is not None and at >= least:
                    found.append((at, other))
        assert found, f"the line {number} ends in nothing at {point}"
        at, other = min(found)
        return other, at

    def carried(self, number: int, until: float) -> Counter[int]:
        """What a line carries at a distance from its start."""
        line = self.picture.lines[number]
        source = self.touched(line.start)
        content: Counter[int] = Counter()
        joined = [j for at, j in self.joins.get(number, []) if at <= until + ON]
        if source is not None:
            content[source] += 1
        elif not any(at <= 8 for at, _ in self.joins.get(number, [])):
            host, at = self.host(number, line.start, least=1)
            content += self.carried(host, at)
        for other in joined:
            content += self.carried(other, math.inf)
        return content

    def mark(self, element: int, end: Point) -> str:
        """The mark whose label is at the end of a line."""
        marks = [
            label
            for label in self.picture.labels
            if label.role == "mark" and label.element == element
        ]
        near = [m for m in marks if math.dist((m.x, m.y - 4), end) <= 16]
        ends = [line.end for line in self.picture.lines]
        for mark in sorted(near, key=lambda m: math.dist((m.x, m.y - 4), end)):
            place = (mark.x, mark.y - 4)
            if min(ends, key=lambda e: math.dist(place, e)) == end:
                return mark.text
        return ""


def _distance(box: Box, point: Point) -> float:
    """From a rectangle to a point; a point deep inside touches nothing."""
    dx = max(box[0] - point[0], 0, point[0] - box[2])
    dy = max(box[1] - point[1], 0, point[1] - box[3])
    outside = math.hypot(dx, dy)
    if outside:
        return outside
    return min(
        point[0] - box[0], box[2] - point[0], point[1] - box[1], box[3] - point[1]
    )


def _along(points: list[Point], point: Point) -> float | None:
    """How far along a line a point is, if it is on it."""
    at = 0.0
    for a, b in itertools.pairwise(points):
        length = math.dist(a, b)
        if length:
            t = (point[0] - a[0]) * (b[0] - a[0]) + (point[1] - a[1]) * (b[1] - a[1])
            t = min(max(t / length**2, 0.0), 1.0)
            foot = (a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]))
            if math.dist(foot, point) <= ON:
                return at + t * length
        at += length
    return None


# -- what must not be ------------------------------------------------------------


def flaws(picture: Picture, width: object) -> list[str]:
    """Overlaps of shapes, lines and labels; crossings without a bridge.

    Args:
        picture: what was read.
        width: of a label's text, `(text, size) -> pixels`.
    """
    found = []
    shapes, lines = picture.shapes, picture.lines
    for n, a in enumerate(shapes):
        for b in shapes[n + 1 :]:
            if overlap(a.box, b.box, 3.0):
                found.append(f"shapes {a.element} and {b.element} overlap")
    for n, line in enumerate(lines):
        for shape in shapes:
            for segment in line.straight:
                if overlap(extent(segment), shape.box, -3.0):
                    found.append(f"line {n} runs through shape {shape.element}")
    bridged = [b for line in lines for b in line.bridges]
    for n, a in enumerate(lines):
        for m, b in enumerate(lines[n + 1 :], n + 1):
            for s in a.straight:
                for t in b.straight:
                    found += _meeting((n, a), (m, b), s, t, bridged)
    boxes = [(label, text_box(label, width)) for label in picture.labels]
    for n, (a, box) in enumerate(boxes):
        for b, other in boxes[n + 1 :]:
            if overlap(box, other, 0.0):
                found.append(f"labels {a.text!r} and {b.text!r} overlap")
        for shape in shapes:
            inside = a.role == "inside" and shape.element == a.element
            if not inside and overlap(box, shape.box, 0.0):
                found.append(f"label {a.text!r} is on shape {shape.element}")
            if inside and not _within(box, shape.box):
                found.append(f"label {a.text!r} does not fit its shape")
        if a.role != "inside":
            for m, line in enumerate(lines):
                if any(overlap(extent(s), box, -0.8) for s in line.straight):
                    found.append(f"label {a.text!r} is on line {m}")
    return found


def _meeting(
    one: tuple[int, Line],
    two: tuple[int, Line],
    s: Piece,
    t: Piece,
    bridged: list[Point],
) -> list[str]:
    """Two straight pieces: on each other, or across without a bridge."""
    (n, _), (m, _) = one, two
    a, b = extent(s), extent(t)
    flat = [abs(p[0][1] - p[1][1]) < 0.01 for p in (s, t)]
    if flat[0] == flat[1]:
        k = 1 if flat[0] else 0
        same = abs(s[0][k] - t[0][k]) < 2
        length = min(a[3 - k], b[3 - k]) - max(a[1 - k], b[1 - k])
        return [f"lines {n} and {m} run on each other"] if same and length > 1 else []
    x = (t if flat[0] else s)[0][0]
    y = (s if flat[0] else t)[0][1]
    inside = all(
        box[0] - 0.1 < x < box[2] + 0.1 and box[1] - 0.1 < y < box[3] + 0.1
        for box in (a, b)
    )
    ends = [p for _, line in (one, two) for p in (line.start, line.end)]
    if not inside or any(math.dist((x, y), end) < 8 for end in ends):
        return []  # a fork or a join is no crossing
    bridge = any(math.dist((x, y), p) < 1 for p in bridged)
    return [] if bridge else [f"lines {n} and {m} cross at {x:g}, {y:g} on the flat"]


def crossings(picture: Picture) -> int:
    return sum(len(line.bridges) for line in picture.lines)


def text_box(label: Label, width: object) -> Box:
    wide = width(label)  # type: ignore[operator]
    left = label.x - {"start": 0.0, "middle": wide / 2, "end": wide}[label.anchor]
    up, down = (0.7, 0.25) if label.role != "inside" else (0.6, 0.2)
    return left, label.y - up * label.size, left + wide, label.y + down * label.size


def extent(segment: Piece) -> Box:
    (x0, y0), (x1, y1) = segment
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def overlap(a: Box, b: Box, gap: float) -> bool:
    return (
        a[0] < b[2] + gap
        and b[0] < a[2] + gap
        and a[1] < b[3] + gap
        and b[1] < a[3] + gap
    )


def _within(inner: Box, outer: Box) -> bool:
    return (
        inner[0] >= outer[0] + 1
        and inner[1] >= outer[1]
        and inner[2] <= outer[2] - 1
        and inner[3] <= outer[3]
    )
