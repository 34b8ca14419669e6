"""A graph evaluated in torch: what a cell's function would compute, from data alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .graph import AFFINE, Graph
from .ops import OPS


def evaluate(
    graph: Graph,
    W: Any,
    inputs: Mapping[str, Tensor],
    states: Mapping[str, Tensor],
) -> list[Any]:
    """The value of every node, in order.

    Args:
        graph: of a cell, bound or not.
        W: an object with a callable or tensor attribute for every weight, such as
            `layer.cells[0]`.
        inputs: `x` (…, input_size) and the named inputs, by name.
        states: the old states (…, size), by name.
    """
    values: list[Any] = []
    for node in graph.nodes:
        args = [values[a] for a in node.args]
        if node.op == AFFINE:
            values.append(getattr(W, node["weight"])(*args))
        elif node.op == "weight":
            values.append(getattr(W, node["weight"]))
        elif node.op == "constant":
            values.append(node["value"])
        elif node.op == "input":
            values.append(inputs[node["name"]])
        elif node.op == "state":
            values.append(states[node["name"]])
        else:
            values.append(_operation(node.op, args, node.options))
    return values


def _operation(name: str, args: list[Any], options: dict[str, Any]) -> Any:
    op = OPS[name]
    if op.symbol:  # arithmetic and comparisons take numbers as they are
        return op.evaluate(*args)
    return op(*args, **options)
