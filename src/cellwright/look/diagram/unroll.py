"""A cell several times: the chain in time, and a tree of nodes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from ...language.graph import Graph
from .layout import MARGIN, PORT, SMALL, TEXT, Layout, Shape, Text, Wire
from .picture import DrawingError
from .style import Style
from .svg import body, document, draw_text, draw_wire, picture, rectangle, sheets_of
from .text import Label, Run, symbol, width

MOST = 511  # cells of one picture: a binary tree of nine levels


def check_count(graph: Graph, steps: int) -> None:
    """Raise DrawingError for a chain, or a tree, of too many cells, or of none."""
    arity = _arity(graph)
    most = MOST
    if arity > 1:  # the highest tree of at most so many nodes
        most, nodes = 1, 1
        while nodes + arity**most <= MOST:
            nodes += arity**most
            most += 1
    if not 1 <= steps <= most:
        what = f"levels of a tree of {arity} children a node" if arity > 1 else "times"
        raise DrawingError(
            f"[unroll] a picture holds {MOST} cells; received {steps}, expected 1 to "
            f"{most} {what}"
        )


def _arity(graph: Graph) -> int:
    """Children of a node; 1 for a cell over time."""
    return 2 if graph.many else max(1, len(graph.children))


def chain(layout: Layout, steps: int, title: str, style: Style) -> str:
    """The cell at the times 1 to `steps`, side by side: the states go through."""
    pitch = _port(layout, "new") - _port(layout, "state") or layout.width
    content: list[str] = []
    for step in range(1, steps + 1):
        texts = [
            replace(text, label=_at_time(text.label, step))
            for text in layout.texts
            if _shown(layout, text, step, steps)
        ]
        shifted = replace(layout, texts=tuple(texts))
        content.append(f'<g transform="translate({(step - 1) * pitch:g} 0)">')
        content += [*body(layout), *picture(shifted), "</g>"]
    wide = layout.width + (steps - 1) * pitch
    return document(content, (wide, layout.height), title, style, sheets_of(layout))


def _port(layout: Layout, kind: str) -> float:
    """Where states come in, or leave; 0 for a cell without."""
    pairs = zip(layout.shapes, layout.elements, strict=True)
    return next((s.x for s, e in pairs if e.kind == kind), 0.0)


def _shown(layout: Layout, text: Text, step: int, steps: int) -> bool:
    """A state's label stands where the chain begins and where it ends."""
    kind = layout.elements[text.element].kind
    if text.role != "port":
        return True
    return step == 1 if kind == "state" else step == steps


def _at_time(label: Label, step: int) -> Label:
    times = {"t": str(step), "t−1": str(step - 1)}

    def run_at(run: Run) -> list[Run]:
        time, comma, member = run.text.partition(",")  # t, or t,s of an item s
        if not run.sub or time not in times:
            return [run]
        item = [Run(comma + member, run.italic, True)] if comma else []
        return [Run(times[time], False, True), *item]

    return tuple(part for run in label for part in run_at(run))


# -- trees ---------------------------------------------------------------------

BOX_HEIGHT, RISE, GAP, REACH = 40.0, 104.0, 28.0, 24.0  # REACH: an input's line


@dataclass
class _Node:
    number: int
    children: list[_Node]
    x: float = 0.0
    y: float = 0.0


def tree(graph: Graph, height: int, title: str, style: Style) -> str:
    """A full tree of nodes, each the cell: what goes up the lines is their states.

    Args:
        graph: of a tree cell; where it takes any number of children, nodes have two.
        height: levels of nodes.
        title: of the picture.
        style: its colours.
    """
    name: Label = (Run(graph.name.replace("_", " ")),)
    half = max(34.0, width(name, SMALL) / 2 + 8)
    root = _grown(_arity(graph), height)
    nodes = _spread(root, half)
    left = MARGIN + 2 * PORT + REACH
    for node in nodes:
        node.x += left
        node.y = MARGIN + 2 * PORT + REACH + BOX_HEIGHT / 2 + node.y * RISE
    content = [line for node in nodes for line in _draw(node, graph, name, half)]
    top = (root.x, MARGIN + 2 * PORT)
    content += _line((root.x, root.y - BOX_HEIGHT / 2), top)
    result = symbol(graph.states[0].name, str(root.number))
    content += _circle(root.x, MARGIN + PORT, "output", result)
    wide = max(n.x for n in nodes) + half + 2 * MARGIN
    leaf = max(n.y for n in nodes) + BOX_HEIGHT / 2
    size = wide, leaf + REACH + 2 * PORT + MARGIN
    return document(content, size, title, style)


def _grown(arity: int, height: int) -> _Node:
    numbers = itertools.count(1)

    def grow(level: int) -> _Node:
        children = [grow(level - 1) for _ in range(arity)] if level > 1 else []
        return _Node(next(numbers), children)

    return grow(height)


def _spread(root: _Node, half: float) -> list[_Node]:
    """Leaves side by side, parents over the middle of their children; levels as y."""
    nodes: list[_Node] = []
    at = half

    def place(node: _Node, level: int) -> None:
        nonlocal at
        node.y = level
        for child in node.children:
            place(child, level + 1)
        if node.children:
            node.x = sum(c.x for c in node.children) / len(node.children)
        else:
            node.x = at
            at += 2 * half + GAP + PORT
        nodes.append(node)

    place(root, 0)
    return nodes


def _draw(node: _Node, graph: Graph, name: Label, half: float) -> list[str]:
    """A node, what comes up from its children, and its input: beside it, or below."""
    lines = [rectangle(Shape(node.x, node.y, half, BOX_HEIGHT / 2), "body", 8)]
    lines.append(_text(name, node.x, node.y + 4, SMALL))
    below = node.y + BOX_HEIGHT / 2
    for place, child in enumerate(node.children, 1):
        states = [symbol(s.name, str(child.number)) for s in graph.states]
        carried = [run for state in states for run in (Run(", "), *state)][1:]
        x = node.x - half + 2 * half * place / (len(node.children) + 1)
        start, bend = (child.x, child.y - BOX_HEIGHT / 2), below + 26
        lines += _line(start, (child.x, bend), (x, bend), (x, below))
        lines.append(_text(tuple(carried), child.x + 7, start[1] - 9, SMALL, "start"))
    x, y = node.x, below + REACH + PORT
    if node.children:
        x, y = node.x - half - REACH - PORT, node.y
        lines += _line((x + PORT, y), (node.x - half, y))
    else:
        lines += _line((x, y - PORT), (x, below))
    return lines + _circle(x, y, "input", symbol("x", str(node.number)))


def _line(*corners: tuple[float, float]) -> list[str]:
    distinct = [c for i, c in enumerate(corners) if not i or c != corners[i - 1]]
    wire = Wire(0, -1, tuple(_straightened(distinct)), None, (), False)
    return draw_wire(wire)


def _straightened(corners: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(corners) == 4 and abs(corners[1][0] - corners[2][0]) < 1:
        return [corners[0], corners[3]]
    return corners


def _circle(x: float, y: float, kind: str, label: Label) -> list[str]:
    reach = max(PORT, width(label, TEXT) / 2 + 6)
    shape = rectangle(Shape(x, y, reach, PORT), kind, PORT)
    return [shape, _text(label, x, y + 0.33 * TEXT, TEXT)]


def _text(label: Label, x: float, y: float, size: float, anchor: str = "middle") -> str:
    return draw_text(Text(label, x, y, size, anchor, "tree", -1))
