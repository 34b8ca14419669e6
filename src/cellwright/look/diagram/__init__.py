"""The picture of a cell, in the manner of Olah's "Understanding LSTM Networks" (2015).

From the graph to the picture: `sketch` (layers and operations), `plan` (state lines
and trunks), `place` (slots and rows), `route` (wires on a grid), `layout` (pixels),
`svg` (the text).
"""

from __future__ import annotations

from ...language.cell import Cell
from ...language.hyperparameters import with_hyperparameters
from .layout import arrange
from .moment import Moment
from .picture import DrawingError, Picture
from .place import place
from .plan import plan
from .route import route
from .sketch import sketch
from .steps import Step, walkthrough
from .svg import draw
from .unroll import chain, check_count, tree

MOST_NODES = 120  # twice the largest of the zoo; routing takes minutes from there on


class Diagram(Picture):
    """The picture of a cell.

    Attributes:
        cell: what is drawn.
        plan: what is drawn of it: elements, trunks and state lines.
        layout: where everything is, in pixels.

    Raises:
        DrawingError: the cell has too many operations for a picture.
    """

    def __init__(self, cell: Cell, *, legend: bool = True) -> None:
        self.cell = cell
        if len(cell.graph.nodes) > MOST_NODES:
            raise DrawingError(
                f"[diagram] cell {cell.name!r} is too large for a picture; received "
                f"{len(cell.graph.nodes)} operations, expected at most {MOST_NODES}. "
                "cell.latex() and print(cell) show its equations"
            )
        self.plan = plan(sketch(*with_hyperparameters(cell)))
        placement = place(self.plan)
        self.layout = arrange(self.plan, placement, route(self.plan, placement))
        super().__init__(draw(self.layout, f"The cell {cell.name}", legend))

    def steps(self, moment: Moment | None = None) -> tuple[Step, ...]:
        """The cell step by step: a picture and a caption for each equation.

        Args:
            moment: one step of a trained cell; pictures and captions show its values.
        """
        graph, known = with_hyperparameters(self.cell)
        return walkthrough(graph, known, self.plan, self.layout, self.cell.name, moment)

    def unrolled(self, steps: int) -> Picture:
        """The chain of the cell over time; of a tree cell, a tree so many nodes high.

        Args:
            steps: how often the cell stands there.

        Raises:
            DrawingError: more cells than a picture holds.
        """
        graph, name = self.cell.graph, self.cell.name
        check_count(graph, steps)
        if graph.children:
            return Picture(tree(graph, steps, f"A tree of {name}"))
        return Picture(chain(self.layout, steps, f"{name} over {steps} steps"))

    def __repr__(self) -> str:
        return f"<diagram of {self.cell.name}>"


__all__ = ["Diagram", "DrawingError", "Moment", "Picture", "Step"]
