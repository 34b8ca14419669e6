"""A graph evaluated in torch: what a cell's function would compute, from data alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .graph import AFFINE, COTANGENT, EACH, TOTAL, TRANSPOSED, Graph, Node, per_child
from .ops import OPS

Visit = Callable[[int, Any], Any]


@dataclass(frozen=True)
class Edges:
    """The children of many nodes, one row each: values of a child have these rows.

    Attributes:
        parents: the row of each child's node.
        nodes: how many nodes there are.
    """

    parents: Tensor
    nodes: int

    def lift(self, value: Any) -> Any:
        """What a node has once, for each of its children; weights have no rows."""
        rows = isinstance(value, Tensor) and value.dim() > 1
        return value[self.parents] if rows else value

    def total(self, value: Tensor) -> Tensor:
        zeros = value.new_zeros(self.nodes, value.shape[-1])
        return zeros.index_add(0, self.parents, value)


def evaluate(
    graph: Graph,
    W: Any,
    inputs: Mapping[str, Tensor],
    states: Mapping[str, Tensor],
    edges: Edges | None = None,
    visit: Visit | None = None,
) -> list[Any]:
    """The value of every node, in order.

    Args:
        graph: of a cell, bound or not.
        W: an object with a callable or tensor attribute for every weight, such as
            `layer.cells[0]`.
        inputs: `x` (…, input_size) and the named inputs, by name.
        states: the old states (…, size), by name; of a tree cell by `child.name`.
        edges: where a tree cell sums over children: which rows of a child's states
            belong to which row of x. Without it they are (…, children, size) beside
            x (…, 1, input_size).
        visit: `(node, value) -> value`: what every value is to be.
    """
    return evaluate_nodes(graph.nodes, W, {**inputs, **states}, edges, visit)


def evaluate_nodes(
    nodes: Sequence[Node],
    W: Any,
    leaves: Mapping[str, Tensor],
    edges: Edges | None = None,
    visit: Visit | None = None,
) -> list[Any]:
    """The value of every node; `leaves` are inputs, states, cotangents by name."""
    values: list[Any] = []
    of_child = per_child(nodes, edges is not None)
    for number, node in enumerate(nodes):
        args = [values[a] for a in node.args]
        if edges is not None and of_child[number]:
            lift = zip(args, node.args, strict=True)
            args = [v if of_child[a] else edges.lift(v) for v, a in lift]
        op = OPS.get(node.op)
        if op is not None:
            # Arithmetic and comparisons take numbers as they are.
            value = op.evaluate(*args) if op.symbol else op(*args, **node.options)
        elif node.op in ("input", "state", COTANGENT):
            value = leaves[node.label]
        elif node.op == "constant":
            value = node["value"]
        elif node.op == TOTAL:
            (v,) = args
            value = edges.total(v) if edges else v.sum(-2, keepdim=True)
        elif node.op == EACH:
            (value,) = args
        else:
            value = getattr(W, node["weight"])
            if node.op == AFFINE:
                value = value(*args)
            elif node.op == TRANSPOSED:
                value = value.transposed(*args, node["operand"])
        values.append(value if visit is None else visit(number, value))
    return values


def rows_of(value: Any, rows: int, like: Tensor, size: int | None = None) -> Tensor:
    """A result as (rows, size), even one that depends on no row: a weight, a number.

    Args:
        value: (rows or 1, size or 1), a weight (size,) or (), or a number.
        rows: how many.
        like: a tensor of the device and dtype wanted of a number.
        size: its units; without it as many as the value has.
    """
    if not isinstance(value, Tensor):
        value = like.new_full((1,), value)
    width = value.shape[-1] if value.dim() else 1
    return value.expand(rows, size or width)
