"""A layer·direction: its cell with concrete sizes, and the weights of a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor

from ..compiler.bindings import own_parameters
from ..engine.programs import Programs
from ..engine.schedule import SequenceBatch
from ..engine.torch_layout import TorchLayout
from ..language import Cell, Graph
from .masks import Mask, draw


@dataclass(frozen=True, eq=False)
class BoundCell:
    """The cell of a layer·direction with concrete sizes, as it trains or is evaluated.

    Attributes:
        cell: the equations, as the reference engine steps them.
        programs: what the other engines run.
        layout: how torch packs it, or `None` where torch has no such cell.
        masks: the inputs that the layer draws.
        columns: of the matrices that weight drop acts on, see `recurrent_columns`.
        weight_drop: its probability.
        tag: tells its draws apart where torch compiles them.
    """

    cell: Cell
    programs: Programs
    layout: TorchLayout | None = None
    masks: tuple[Mask, ...] = ()
    columns: Mapping[str, list[slice]] = field(default_factory=dict)
    weight_drop: float = 0.0
    tag: str = ""

    @property
    def graph(self) -> Graph:
        return self.programs.graph

    def __deepcopy__(self, memo: Any) -> BoundCell:
        return self

    def draw(self, batch: SequenceBatch, like: Tensor) -> dict[str, Tensor]:
        """The masks by name, laid out as x; those of a whole sequence (B, size)."""
        drawn = {}
        for mask in self.masks:
            count = batch.steps if mask.every_step else 1
            value = draw(mask, count, batch.batch, like, self.tag)
            drawn[mask.name] = batch.lay_out(value) if mask.every_step else value[0]
        return drawn


class Direction(NamedTuple):
    """What an engine runs a call on: a layer·direction with its weights of that call.

    Attributes:
        bound: the cell with its sizes and programs.
        weights: see `engine.Weights`.
    """

    bound: BoundCell
    weights: Any

    def with_masks(
        self, inputs: Mapping[str, Tensor], batch: SequenceBatch
    ) -> Mapping[str, Tensor]:
        """The named inputs of a call, and the masks that are drawn for it."""
        if not self.bound.masks:
            return inputs
        like = self.weights.first_parameter()
        return {**inputs, **self.bound.draw(batch, like)}

    def recording(self, nodes: tuple[int, ...], tapped: bool) -> Direction:
        """The same where these nodes' values are results too."""
        programs = self.bound.programs.variant(recorded=nodes, tapped=tapped)
        return self._replace(bound=replace(self.bound, programs=programs))


def bind_cells(
    cell: Cell, graphs: list[Graph], layout: TorchLayout | None, recompute: bool
) -> list[BoundCell]:
    """A cell with the weights of `CellWeights`, for each layer·direction.

    Directions of one graph share their programs.
    """
    made = {
        id(graph): Programs(graph, own_parameters(graph), recompute=recompute)
        for graph in graphs
    }
    return [BoundCell(cell, made[id(graph)], layout) for graph in graphs]
