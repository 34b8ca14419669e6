"""A layer·direction: its cell with concrete sizes, and the weights of a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor

from ..compiler.bindings import own_parameters
from ..compiler.once import Once, made_once
from ..engine.call import Call
from ..engine.programs import Programs
from ..engine.schedule import SequenceBatch
from ..engine.torch_layout import TorchLayout
from ..language import Cell, Graph
from ..language.evaluate import evaluate_nodes
from .items import ItemInputs
from .masks import Mask, draw


@dataclass(frozen=True, eq=False)
class BoundCell:
    """The cell of a layer·direction with concrete sizes, as it trains or is evaluated.

    Attributes:
        cell: the equations, as the reference engine steps them.
        programs: what the other engines run.
        layout: how torch packs it, or `None` where torch has no such cell.
        masks: the inputs that the layer draws.
        once: what is made of the items once a call, and what is left to every step, of
            which the programs are; `None` without items.
        columns: of the matrices that weight drop acts on, see `recurrent_columns`.
        weight_drop: its probability.
        tag: tells its draws apart where torch compiles them.
    """

    cell: Cell
    programs: Programs
    layout: TorchLayout | None = None
    masks: tuple[Mask, ...] = ()
    once: Once | None = None
    columns: Mapping[str, list[slice]] = field(default_factory=dict)
    weight_drop: float = 0.0
    tag: str = ""

    @property
    def graph(self) -> Graph:
        """The whole step."""
        return self.programs.graph if self.once is None else self.once.whole

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

    def with_items(self, call: Call, items: ItemInputs) -> Call:
        """A call with the items of its steps."""
        return call._replace(items=self.made(items), sets=items.sets)

    def made(self, items: ItemInputs) -> dict[str, Tensor]:
        """The items of every step by name: the cell's, and what is made of them."""
        once = self.bound.once
        assert once is not None
        values = evaluate_nodes(once.nodes, self.weights, items.values, items.edges)
        return {name: values[node] for name, node in once.made.items()}

    def recording(self, nodes: tuple[int, ...], tapped: bool) -> Direction:
        """The same where these nodes' values are results too."""
        programs = self.bound.programs.variant(recorded=nodes, tapped=tapped)
        return self._replace(bound=replace(self.bound, programs=programs))


def bind_step(graph: Graph, **options: Any) -> tuple[Programs, Once | None]:
    """The programs of a cell's step, and what is made of its items before it."""
    once = made_once(graph) if graph.items else None
    step = graph if once is None else once.step
    return Programs(step, own_parameters(step), **options), once


def bind_cells(
    cell: Cell, graphs: list[Graph], layout: TorchLayout | None, recompute: bool
) -> list[BoundCell]:
    """A cell with the weights of `CellWeights`, for each layer·direction.

    Directions of one graph share their programs.
    """
    made = {id(graph): bind_step(graph, recompute=recompute) for graph in graphs}
    found = (made[id(graph)] for graph in graphs)
    return [BoundCell(cell, own, layout, once=once) for own, once in found]
