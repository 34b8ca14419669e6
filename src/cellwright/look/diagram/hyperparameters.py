"""Which numbers of a cell's graph are hyperparameters: ×α says more than ×0.1.

A graph knows numbers only. So the cell is traced with each hyperparameter moved a
little, and the numbers that moved with it bear its name.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ...language.cell import Cell
from ...language.errors import CellError
from ...language.graph import Graph
from .text import Label, Run, symbol


def with_hyperparameters(cell: Cell) -> tuple[Graph, dict[int, Label]]:
    """The cell's graph, and labels of the constants that are a hyperparameter.

    In the graph constants stand apart where two values that the cell has happen to be
    equal: it is that of the moved cell, its constants moved back.
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
    labels, nodes = {}, list(graph.nodes)
    for number, node in enumerate(nodes):
        found = _found(node["value"], moved) if node.op == "constant" else None
        if found:
            name, rest = found
            labels[number] = (
                (Run("(1−"), *symbol(name), Run(")")) if rest else symbol(name)
            )
            value = cell.hyperparameters[name]
            attrs = (("value", 1 - value if rest else value),)
            nodes[number] = replace(node, attrs=attrs)
    return replace(graph, nodes=tuple(nodes)), labels


def _found(constant: float, moved: dict[str, float]) -> tuple[str, bool] | None:
    """Which hyperparameter a number is; True: it is one minus it."""
    for name, value in moved.items():
        if math.isclose(constant, value, rel_tol=1e-14):
            return name, False
        if math.isclose(constant, 1 - value, rel_tol=1e-14):
            return name, True
    return None
