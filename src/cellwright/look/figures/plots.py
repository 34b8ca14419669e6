"""Figures of curves: the gradient's norm over time, the forget gate's activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from ..diagram.picture import Picture
from ..diagram.text import Run, plain, symbol
from .canvas import XY, Canvas, Node, partial

WIDTH, HEIGHT = 250.0, 170.0


class Axes(NamedTuple):
    """Where a plot lies, in pixels, and how large a unit of each axis is there."""

    canvas: Canvas
    origin: XY
    unit: XY

    def line(
        self, function: Callable[[float], float], ends: XY, kind: str = "path"
    ) -> XY:
        """A function's curve between two abscissae; where it ends, in pixels."""
        xs = [ends[0] + n / 80 * (ends[1] - ends[0]) for n in range(81)]
        points = [self.at(x, function(x)) for x in xs]
        self.canvas.curve(points, kind)
        return points[-1]

    def at(self, x: float, y: float) -> XY:
        return self.origin[0] + x * self.unit[0], self.origin[1] - y * self.unit[1]


def axes(canvas: Canvas, left: float, low: float, origin: XY, unit: XY) -> Axes:
    """Two axes through `origin` (in pixels from the lower left corner)."""
    x, y = left + origin[0], low - origin[1]
    corner, right = _point(left, y), _point(left + WIDTH, y)
    canvas.arrow(corner, right)
    canvas.arrow(_point(x, low), _point(x, low - HEIGHT))
    return Axes(canvas, (x, y), unit)


def _point(x: float, y: float) -> Node:
    return Node("axis", x, y, 0.0, 0.0)


def gradient_norms() -> Picture:
    """The norm of ∂h_T/∂h_{T−k} against k on a log axis: it falls, lasts, or rises."""
    canvas = Canvas()
    left, low = 30.0, 50 + HEIGHT
    last, before = (
        (Run("h", italic=True), Run(index, italic=True, sub=True))
        for index in ("T", "T−k")
    )
    title = (Run("log |"), *partial(last, before), Run("|"))
    canvas.label(left - 14, 26, title, "start")
    plot = axes(canvas, left, low, (0, HEIGHT / 2), (1.0, 1.0))
    for slope, rule, kind in (
        (0.36, "> 1: explodes", "gradient"),
        (0.0, "= 1: lasts", "path"),
        (-0.36, "< 1: vanishes", "path"),
    ):
        _, y = plot.line(lambda k, s=slope: s * k, (0, WIDTH - 34), kind)
        label = (*symbol("rho"), Run(" " + rule))
        canvas.label(left + WIDTH + 8, y + 5, label, "start")
    canvas.label(left + WIDTH - 12, plot.origin[1] + 22, symbol("k"))
    return canvas.picture("The gradient's norm against the number of steps")


def forget_gates() -> Picture:
    """Three activations of a forget gate; beside them what becomes of C."""
    canvas = Canvas()
    low = 40 + HEIGHT
    canvas.words(16, 22, "The gate: f of its argument", "start")
    plot = axes(canvas, 16, low, (106, 66), (22.0, 44.0))
    for name, function, ends, kind, place in (
        ("tanh", math.tanh, (-4.4, 5.4), "third", (-4.4, -1.36)),
        ("ReLU", lambda v: max(v, 0.0), (-4.4, 2.1), "gradient", (2.3, 1.9)),
        ("σ", _sigmoid, (-4.4, 5.4), "path", (5.6, 0.9)),
    ):
        plot.line(function, ends, kind)
        canvas.label(*plot.at(*place), plain(name), "start")
    left = 16 + WIDTH + 50
    canvas.words(left, 22, "C after k steps with the same f", "start")
    plot = axes(canvas, left, low, (0, 66), (26.0, 60.0))
    for f, said, end, kind, place in (
        (1.18, "f > 1: explodes", 4.0, "gradient", (4.2, 1.4)),
        (0.9, "0 < f < 1: fades", 8.0, "path", (8.2, 0.3)),
        (-0.85, "f < 0: changes its sign", 8.0, "third", (3.6, -0.8)),
    ):
        plot.line(lambda k, f=f: 0.8 * _power(f, k), (0, end), kind)
        canvas.label(*plot.at(*place), plain(said), "start")
    return canvas.picture("Activations of the forget gate")


def _power(f: float, k: float) -> float:
    """f^k; of a negative f straight from each whole k to the next."""
    if f > 0:
        return f**k
    whole = math.floor(k)
    return f**whole + (k - whole) * (f ** (whole + 1) - f**whole)


def _sigmoid(v: float) -> float:
    return 1 / (1 + math.exp(-v))
