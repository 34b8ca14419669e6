"""The picture of a cell, in the manner of Olah's "Understanding LSTM Networks" (2015).

From the graph to the picture: `sketch` (layers and operations), `plan` (state lines
and trunks), `place` (slots and rows), `route` (wires on a grid), `layout` (pixels),
`svg` (the text, in the colours of `style`).
"""

from __future__ import annotations

from collections.abc import Mapping

from ...language.cell import Cell
from ...language.notation import notated
from .layout import arrange
from .moment import Moment
from .picture import DrawingError, Picture
from .place import place
from .plan import plan
from .route import route
from .sketch import sketch
from .steps import Step, Steps, walkthrough
from .style import THEMES, Style
from .svg import draw
from .unroll import chain, check_count, tree

MOST_NODES = 120  # twice the largest of the zoo; routing takes minutes from there on


class Diagram(Picture):
    """The picture of a cell.

    Attributes:
        cell: what is drawn.
        graph: its graph, under the names that the picture has.
        known: the graph's constants that are hyperparameters, by node.
        plan: what is drawn of it: elements, trunks and state lines.
        layout: where everything is, in pixels.
        style: its colours.

    Raises:
        DrawingError: the cell has too many operations for a picture.
        CellError: `names` do not fit the cell; see `Cell.latex`.
    """

    def __init__(
        self,
        cell: Cell,
        *,
        legend: bool = True,
        names: Mapping[str, str] | None = None,
        style: Style | None = None,
    ) -> None:
        self.cell, self.style = cell, style or Style()
        if len(cell.graph.nodes) > MOST_NODES:
            raise DrawingError(
                f"[diagram] cell {cell.name!r} is too large for a picture; received "
                f"{len(cell.graph.nodes)} operations, expected at most {MOST_NODES}. "
                "cell.latex() and print(cell) show its equations"
            )
        self.graph, self.known = notated(cell, names)
        self.plan = plan(sketch(self.graph, self.known))
        placement = place(self.plan)
        self.layout = arrange(self.plan, placement, route(self.plan, placement))
        title = f"The cell {cell.name}"
        super().__init__(draw(self.layout, title, self.style, legend))

    def steps(self, moment: Moment | None = None) -> Steps:
        """The cell step by step: a picture and a caption for each equation.

        Args:
            moment: one step of a trained cell; pictures and captions show its values.
        """
        return walkthrough(self, moment)

    def unrolled(self, steps: int) -> Picture:
        """The chain of the cell over time; of a tree cell, a tree so many nodes high.

        Args:
            steps: how often the cell stands there.

        Raises:
            DrawingError: more cells than a picture holds.
        """
        graph, name, style = self.graph, self.cell.name, self.style
        check_count(graph, steps)
        if graph.children:
            return Picture(tree(graph, steps, f"A tree of {name}", style))
        return Picture(chain(self.layout, steps, f"{name} over {steps} steps", style))


__all__ = [
    "THEMES", "Diagram", "DrawingError", "Moment", "Picture", "Step", "Steps", "Style",
]  # fmt: skip
