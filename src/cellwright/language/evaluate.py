"""A graph evaluated in torch: what a cell's function would compute, from data alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .graph import AFFINE, COTANGENT, TRANSPOSED, Graph, Node
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
    return evaluate_nodes(graph.nodes, W, {**inputs, **states})


def evaluate_nodes(
    nodes: Sequence[Node], W: Any, leaves: Mapping[str, Tensor]
) -> list[Any]:
    """The value of every node; `leaves` are inputs, states, cotangents by name."""
    values: list[Any] = []
    for node in nodes:
        args = [values[a] for a in node.args]
        if node.op == AFFINE:
            values.append(getattr(W, node["weight"])(*args))
        elif node.op == TRANSPOSED:
            affine = getattr(W, node["weight"])
            values.append(affine.transposed(*args, node["operand"]))
        elif node.op == "weight":
            values.append(getattr(W, node["weight"]))
        elif node.op == "constant":
            values.append(node["value"])
        elif node.op in ("input", "state", COTANGENT):
            values.append(leaves[node["name"]])
        else:
            values.append(_operation(node.op, args, node.options))
    return values


def _operation(name: str, args: list[Any], options: dict[str, Any]) -> Any:
    op = OPS[name]
    if op.symbol:  # arithmetic and comparisons take numbers as they are
        return op.evaluate(*args)
    return op(*args, **options)
