"""Figures of nets beside each other: a convolution and an RNN, a tree and a chain."""

from __future__ import annotations

from itertools import pairwise

from ..diagram.picture import Picture
from ..diagram.text import Label, plain
from .canvas import Canvas, Node, at
from .chains import LEFT, TOP, WEIGHTS

GAP, RISE = 56.0, 74.0  # from column to column, from layer to layer
INDENT = 20.0  # of a column before a caption
DILATIONS = (1, 2, 4)  # of a kernel of two


def convolution() -> Picture:
    """A dilated causal convolution beside an RNN: what the last output depends on."""
    canvas = Canvas()
    count = 1 + sum(DILATIONS)
    caption = f"Convolution: the last {count} inputs, in {len(DILATIONS)} layers"
    canvas.words(LEFT - INDENT, 20, caption, "start")
    _convolution(canvas, LEFT, count + 1)
    left = LEFT + (count + 1) * GAP + 30
    canvas.words(left - INDENT, 20, "RNN: all inputs, in as many steps", "start")
    _recurrence(canvas, left, 5)
    return canvas.picture("A dilated causal convolution, and an RNN")


def _convolution(canvas: Canvas, left: float, count: int) -> None:
    """Layers of units over `count` inputs; strong, what the last output sees."""
    bottom = TOP + 20 + len(DILATIONS) * RISE
    xs = [left + n * GAP for n in range(count)]
    below = [canvas.circle(x, bottom, at("x", n)) for n, x in enumerate(xs, 1)]
    for layer, dilation in enumerate(DILATIONS, 1):
        last, seen = layer == len(DILATIONS), _seen(count, layer)
        above = [
            _unit(canvas, x, bottom - layer * RISE, layer, n, last)
            for n, x in enumerate(xs, 1)
        ]
        for n, unit in enumerate(above):
            kind = "path" if n in seen else "rest"
            for source in (n - dilation, n):
                if source >= 0:
                    canvas.arrow(below[source], unit, kind)
        below = above


def _unit(canvas: Canvas, x: float, y: float, layer: int, n: int, last: bool) -> Node:
    if last:
        return canvas.circle(x, y, at("y", n), "output")
    return canvas.circle(x, y, (), "hidden", f"unit_{layer}_{n}")


def _seen(count: int, layer: int) -> set[int]:
    """Units of a layer, from 0, on which the last output depends."""
    found = {count - 1}
    for dilation in reversed(DILATIONS[layer:]):
        found |= {n - dilation for n in found}
    return found


def _recurrence(canvas: Canvas, left: float, count: int) -> None:
    """An RNN over `count` inputs; strong, the way from each to the last output."""
    bottom = TOP + 20 + len(DILATIONS) * RISE
    rise = len(DILATIONS) * RISE / 2
    states, last = [], count - 1
    for n in range(count):
        x = left + n * (GAP + 6)
        read = canvas.circle(x, bottom, at("x", n + 1))
        state = canvas.circle(x, bottom - rise, at("h", n + 1), "hidden")
        said = canvas.circle(x, bottom - 2 * rise, at("y", n + 1), "output")
        canvas.arrow(read, state, "path")
        canvas.arrow(state, said, "path" if n == last else "rest")
        states.append(state)
    for before, after in pairwise(states):
        canvas.arrow(before, after, "path")


def trees() -> Picture:
    """A chain beside a binary tree over the same four leaves."""
    canvas = Canvas()
    canvas.words(LEFT - INDENT, 20, "Recurrent: a chain", "start")
    words = [at("x", n) for n in range(1, 5)]
    _chain(canvas, words)
    left = LEFT + 5 * (GAP + 16) + 20
    canvas.words(left - INDENT, 20, "Recursive: a tree", "start")
    _tree(canvas, words, left)
    return canvas.picture("A recurrent net over a chain, a recursive net over a tree")


def _chain(canvas: Canvas, leaves: list[Label]) -> None:
    """As a tree in which every node has one child: it climbs."""
    bottom, pitch = TOP + 20 + 3 * RISE, GAP + 16
    before = canvas.circle(LEFT, bottom - 0.9 * RISE, at("h", 0), "hidden")
    for n, leaf in enumerate(leaves, 1):
        x = LEFT + n * pitch
        step = canvas.box(x, bottom - 0.9 * RISE, WEIGHTS, f"step_{n}")
        canvas.arrow(canvas.circle(x, bottom, leaf), step)
        canvas.arrow(before, step)
        before = step
    canvas.arrow(
        before, canvas.circle(before.x, before.y - 1.1 * RISE, plain("ŷ"), "output")
    )


def _tree(canvas: Canvas, leaves: list[Label], left: float) -> None:
    bottom, pitch = TOP + 20 + 3 * RISE, GAP + 16
    nodes = [
        canvas.circle(left + n * pitch, bottom, leaf, name=f"leaf_{n + 1}")
        for n, leaf in enumerate(leaves)
    ]
    level = 0
    while len(nodes) > 1:
        level += 1
        parents = []
        for n, (a, b) in enumerate(zip(nodes[::2], nodes[1::2], strict=True), 1):
            x, y = (a.x + b.x) / 2, bottom - 0.9 * level * RISE
            parent = canvas.box(x, y, WEIGHTS, f"node_{level}_{n}")
            canvas.arrow(a, parent)
            canvas.arrow(b, parent)
            parents.append(parent)
        nodes = parents
    root = nodes[0]
    canvas.arrow(
        root, canvas.circle(root.x, root.y - RISE, plain("ŷ"), "output", "root")
    )
