"""One step of a trained cell, whose values pictures and captions show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ...language.errors import ArgumentError
from ...language.evaluate import evaluate
from ...language.graph import Graph
from ...language.ops import OPS

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Moment:
    """A step of one sequence, as the layer met it.

        with cw.record(layer) as values:
            layer(x)
        old = {"h": values["h"][t - 1, b], "c": values["c"][t - 1, b]}
        moment = Moment(layer.cells[0], {"x": x[t, b]}, old)
        layer.cell.diagram().steps(moment)

    Attributes:
        weights: of one layer·direction: `layer.cells[k]`.
        inputs: `x` (input_size,), and the named inputs, by name.
        states: the old states (size,) by name; of a tree's node by `left.h`.
        place: when it is, for the captions: "after 'x'".
        title: whose step it is.
    """

    weights: Any = field(repr=False)
    inputs: Mapping[str, ArrayLike] = field(repr=False)
    states: Mapping[str, ArrayLike] = field(default_factory=dict, repr=False)
    place: str = ""
    title: str = ""

    @torch.no_grad()
    def values(self, graph: Graph) -> list[Values]:
        """What every node of the cell's graph is at this step, in order: (size,) each.

        Raises:
            ArgumentError: an input or a state is missing, or unknown, or no vector.
        """
        leaves = self._leaves(graph)
        found = evaluate(graph, self.weights, leaves, {})
        return [_vector(value) for value in found]

    def _leaves(self, graph: Graph) -> dict[str, torch.Tensor]:
        if graph.many:
            raise ArgumentError(
                f"[diagram] node {graph.name!r} has any number of children; expected a "
                "cell of sequences or of an arity to show the values of"
            )
        if graph.items:
            raise ArgumentError(
                f"[diagram] cell {graph.name!r} looks at items, which are many values "
                "a step; expected a cell without items to show the values of"
            )
        given = {**self.inputs, **self.states}
        wanted = [n.label for n in graph.nodes if n.op in ("input", "state")]
        if set(given) != set(wanted):
            raise ArgumentError(
                f"[diagram] a step of {graph.name!r} is known by {', '.join(wanted)}; "
                f"received {', '.join(given) or 'nothing'}, expected each of them once"
            )
        return {name: self._row(name, value) for name, value in given.items()}

    def _row(self, name: str, value: ArrayLike) -> torch.Tensor:
        """(1, size), of the weights' own type."""
        row = torch.as_tensor(value).detach()
        if row.dim() != 1:
            raise ArgumentError(
                f"[diagram] {name} of one step of one sequence is a vector; received "
                f"shape {tuple(row.shape)}, expected (size,), such as {name}[t, row]"
            )
        like = next(iter(self.weights.parameters()))
        return row.to(like)[None]


def _vector(value: Any) -> Values:
    array = value.detach().cpu() if isinstance(value, torch.Tensor) else value
    return np.asarray(array, dtype=np.float64).reshape(-1)


def is_share(graph: Graph, number: int) -> bool:
    """Whether its operation keeps a value between 0 and 1: a gate, or 1 − one."""
    node = graph.nodes[number]
    if node.op == "sub":
        one = graph.nodes[node.args[0]]
        return (
            one.op == "constant" and one["value"] == 1 and is_share(graph, node.args[1])
        )
    return node.op in OPS and OPS[node.op].range == (0, 1)
