"""Which numbers of a cell's graph are hyperparameters: α n_t says more than 0.1 n_t.

A graph knows numbers only. So the cell is traced with each hyperparameter moved a
little, and the numbers that moved with it get its name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from .errors import CellError
from .graph import Graph


class Parametrised(Protocol):
    """A cell, as far as this module knows it."""

    @property
    def graph(self) -> Graph: ...
    @property
    def hyperparameters(self) -> Mapping[str, Any]: ...
    def partial(self, **hyperparameters: Any) -> Parametrised: ...


class Known(NamedTuple):
    """What a number is: a hyperparameter, or one minus it."""

    name: str
    rest: bool


def with_hyperparameters(cell: Parametrised) -> tuple[Graph, dict[int, Known]]:
    """The cell's graph, and its constants that are a hyperparameter, by node.

    The graph is that of the moved cell, its constants moved back: two constants that
    happen to be equal stay two nodes.
    """
    moved = {
        name: value * (1 + 2.0 ** (-20 - place))
        for place, (name, value) in enumerate(cell.hyperparameters.items())
        if isinstance(value, float) and value
    }
    try:
        graph = cell.partial(**moved).graph
    except CellError:  # a value that the cell takes by itself alone
        return cell.graph, {}
    known, nodes = {}, list(graph.nodes)
    for number, node in enumerate(nodes):
        found = _found(node["value"], moved) if node.op == "constant" else None
        if found:
            known[number] = found
            value = cell.hyperparameters[found.name]
            attrs = (("value", 1 - value if found.rest else value),)
            nodes[number] = replace(node, attrs=attrs)
    return replace(graph, nodes=tuple(nodes)), known


def _found(constant: float, moved: dict[str, float]) -> Known | None:
    for name, value in moved.items():
        if math.isclose(constant, value, rel_tol=1e-14):
            return Known(name, rest=False)
        if math.isclose(constant, 1 - value, rel_tol=1e-14):
            return Known(name, rest=True)
    return None
