"""Figures of nets in time: unrolled, with gradients, with outputs fed back."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from ..diagram.picture import Picture
from ..diagram.text import Label, Run, plain, symbol
from .canvas import Canvas, Node, at, partial

PITCH = 92.0  # from step to step
LEFT, TOP, ROW = 40.0, 34.0, 82.0  # the first column, the first row, from row to row
WEIGHTS = symbol("W")


class Chain(NamedTuple):
    """The nodes of an unrolled net, one of each a step; the first state."""

    start: Node
    inputs: tuple[Node, ...]
    steps: tuple[Node, ...]
    outputs: tuple[Node, ...]


def chain(
    canvas: Canvas,
    inputs: list[Label],
    outputs: list[Label],
    *,
    left: float = LEFT,
    top: float = TOP,
    named: str = "",
) -> Chain:
    """An unrolled net: outputs over steps over inputs, and the first state.

    Args:
        canvas: to draw on.
        inputs: labels, one a step.
        outputs: labels, as many.
        left: x of the first state.
        top: y of the outputs.
        named: what the nodes' names begin with.
    """
    xs = [left + PITCH * n for n in range(1, len(inputs) + 1)]
    start = canvas.circle(left, top + ROW, at("h", 0), "hidden")
    found = Chain(
        start,
        tuple(
            canvas.circle(x, top + 2 * ROW, i) for x, i in zip(xs, inputs, strict=True)
        ),
        tuple(
            canvas.box(x, top + ROW, WEIGHTS, f"{named}step_{n}")
            for n, x in enumerate(xs, 1)
        ),
        tuple(
            canvas.circle(x, top, o, "output") for x, o in zip(xs, outputs, strict=True)
        ),
    )
    for a, b in pairwise((start, *found.steps)):
        canvas.arrow(a, b)
    for i, step, o in zip(found.inputs, found.steps, found.outputs, strict=True):
        canvas.arrow(i, step)
        canvas.arrow(step, o)
    return found


def unrolled() -> Picture:
    """A net with a loop on its state, and the same net unrolled over three steps."""
    canvas = Canvas()
    x = LEFT + 14
    read = canvas.circle(x, TOP + 2 * ROW, at("x", "t"))
    step = canvas.box(x, TOP + ROW, WEIGHTS, "step_t")
    said = canvas.circle(x, TOP, at("y", "t"), "output")
    canvas.arrow(read, step)
    canvas.arrow(step, said)
    right, low = x + step.half_width, TOP + ROW + 46
    loop = [(right, TOP + ROW), (right + 22, TOP + ROW), (right + 22, low)]
    loop += [(x - 46, low), (x - 46, TOP + ROW), (x - step.half_width, TOP + ROW)]
    canvas.bent(loop, "wire", step, step)
    canvas.label(right + 28, TOP + ROW + 28, at("h", "t"), "start")
    canvas.label(right + 70, TOP + ROW + 6, plain("="))
    times = range(1, 4)
    chain(
        canvas,
        [at("x", t) for t in times],
        [at("y", t) for t in times],
        left=right + 112,
    )
    return canvas.picture("A recurrent net, with a loop and unrolled over three steps")


def gradients(steps: int = 3) -> Picture:
    """The unrolled chain with the losses above, and the gradient on its way back.

    Args:
        steps: how many.
    """
    canvas = Canvas()
    times = range(1, steps + 1)
    losses = [at("L", t) for t in times]
    top = TOP + 26
    canvas.words(LEFT - 24, 20, "forward", "start")
    canvas.words(LEFT + 36, 20, "gradient, back", "start", "gradient-words")
    net = chain(canvas, [at("x", t) for t in times], losses, top=top)
    for step, loss in zip(net.steps, net.outputs, strict=True):
        canvas.arrow(loss, step, "gradient", aside=11)
    for before, after in pairwise((net.start, *net.steps)):
        canvas.arrow(after, before, "gradient", aside=-11)
    _sum_of_copies(canvas, net)
    return canvas.picture("Back-propagation through time")


def _sum_of_copies(canvas: Canvas, net: Chain) -> None:
    """The gradients of all copies of W, added on the way to that of W."""
    low = net.inputs[0].y + 50
    total = canvas.box(LEFT + 24, low, partial(plain("L"), WEIGHTS), "gradient")
    following = total
    for step in net.steps:
        x, out = step.x + 38, step.x + 16
        under = step.y + step.half_height
        way = [(out, under), (out, under + 15), (x, under + 15)]
        if step is net.steps[-1]:
            way += [(x, low), following.rim((x, low))]
            canvas.bent(way, "gradient", step, following)
            return
        plus = canvas.sign(x, low, "+", f"sum_{step.name}")
        canvas.bent([*way, (x, low - plus.half_height)], "gradient", step, plus)
        canvas.arrow(plus, following, "gradient")
        following = plus


def teacher_forcing(steps: int = 3) -> Picture:
    """Training on the true outputs; beside it generating from the model's own.

    Args:
        steps: how many.
    """
    canvas = Canvas()
    times = range(1, steps + 1)
    own = [_own(t) for t in times]
    canvas.words(LEFT - 24, 20, "Training reads the true outputs", "start")
    top = TOP + 24
    chain(canvas, [at("y", t - 1) for t in times], own, top=top, named="training_")
    left = LEFT + PITCH * (steps + 1) + 10
    canvas.words(left - 24, 20, "Generating reads its own outputs", "start")
    inputs = [at("y", 0), *own[:-1]]
    free = chain(canvas, inputs, own, left=left, top=top, named="free_")
    for said, read in zip(free.outputs, free.inputs[1:], strict=False):
        middle = (said.x + read.x) / 2
        corners = [(said.x + said.half_width, said.y), (middle, said.y)]
        corners += [(middle, read.y), (read.x - read.half_width, read.y)]
        canvas.bent(corners, "path", said, read)
    return canvas.picture("Teacher forcing, and generating")


def _own(time: int) -> Label:
    return (Run("ŷ", italic=True), Run(str(time), sub=True))
