"""A graph evaluated in torch: what a cell's function would compute, from data alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .graph import (
    AFFINE,
    ATTENTION,
    CHILDREN,
    COTANGENT,
    EACH,
    ITEM,
    TOTAL,
    TRANSPOSED,
    Graph,
    Node,
    sets,
)
from .ops import OPS
from .sizes import MatrixSize

Visit = Callable[[int, Any], Any]


@dataclass(frozen=True)
class Edges:
    """The members of many sets, one row each: nodes' children, or items.

    Attributes:
        parents: for each member, the row of the step (or node) whose set it is in.
        nodes: how many such rows there are.
    """

    parents: Tensor
    nodes: int

    def lift(self, value: Any) -> Any:
        """What a row has once, for each member of its set; weights have no rows."""
        rows = isinstance(value, Tensor) and value.dim() > 1
        return value[self.parents] if rows else value

    def total(self, value: Tensor) -> Tensor:
        """The sum over each set, (nodes, size); 0 of an empty one."""
        zeros = value.new_zeros(self.nodes, value.shape[-1])
        return zeros.index_add(0, self.parents, value)

    def softmax(self, value: Tensor) -> Tensor:
        """The softmax over each set, unit by unit."""
        index = self.parents[:, None].expand(value.shape)
        least = value.new_full((self.nodes, value.shape[-1]), -math.inf)
        # The greatest is subtracted so that no exponential overflows; it cancels, and
        # so has no gradient. That of an empty set, -inf, is read by no member.
        greatest = least.scatter_reduce(0, index, value.detach(), "amax")
        powers = torch.exp(value - greatest[self.parents])
        return powers / self.total(powers)[self.parents]


#: Of each set by name; one alone is of the children.
ManyEdges = Edges | Mapping[str, Edges] | None


def evaluate(
    graph: Graph,
    W: Any,
    inputs: Mapping[str, Tensor],
    states: Mapping[str, Tensor],
    edges: ManyEdges = None,
    visit: Visit | None = None,
) -> list[Any]:
    """The value of every node, in order.

    Args:
        graph: of a cell, bound or not.
        W: an object with a callable or tensor attribute for every weight, such as
            `layer.cells[0]`.
        inputs: `x` (…, input_size), the named inputs and the items, by name.
        states: the old states (…, size), by name; of a tree cell by `child.name`.
        edges: where there are sets, which rows of an item (or of a child's states)
            belong to which row of x: `{"source": Edges(…)}`, by the name of the set, or
            the children's alone. Without it all are (…, members, size) beside
            x (…, 1, input_size).
        visit: `(node, value) -> value`: what every value is to be.
    """
    return evaluate_nodes(graph.nodes, W, {**inputs, **states}, edges, visit)


def evaluate_nodes(
    nodes: Sequence[Node],
    W: Any,
    leaves: Mapping[str, Tensor],
    edges: ManyEdges = None,
    visit: Visit | None = None,
) -> list[Any]:
    """The value of every node; `leaves` are inputs, states, cotangents by name."""
    values: list[Any] = []
    edges = {CHILDREN: edges} if isinstance(edges, Edges) else edges or {}
    of: dict[str | None, Edges] = {**edges}
    over = sets(nodes, CHILDREN in edges)
    for number, node in enumerate(nodes):
        args = [values[a] for a in node.args]
        own = of.get(over[number])
        if own is not None:
            lift = zip(args, node.args, strict=True)
            args = [v if over[a] else own.lift(v) for v, a in lift]
        op = OPS.get(node.op)
        if op is not None:
            # Arithmetic and comparisons take numbers as they are.
            if op.symbol:
                value = op.evaluate(*args)
            else:
                value = op.on_tensors(args, node.options)
        elif node.op in ("input", "state", ITEM, COTANGENT):
            value = leaves[node.label]
        elif node.op == "constant":
            value = node["value"]
        elif node.op in (TOTAL, ATTENTION):
            value = _OVER_SETS[node.op](args[0], of.get(over[node.args[0]]))
        elif node.op == EACH:
            (value,) = args
        else:
            value = getattr(W, node["weight"])
            if node.op == AFFINE:
                value = value(*args)
            elif node.op == TRANSPOSED:
                value = value.transposed(*args, node["operand"])
            elif isinstance(node.size, MatrixSize):
                value = value.flatten()
        values.append(value if visit is None else visit(number, value))
    return values


def total(value: Tensor, edges: Edges | None = None) -> Tensor:
    """The sum over the members of each set; without edges they are dimension -2."""
    return value.sum(-2, keepdim=True) if edges is None else edges.total(value)


def attention(scores: Tensor, edges: Edges | None = None) -> Tensor:
    """The softmax over the members of each set, as `total`."""
    return torch.softmax(scores, -2) if edges is None else edges.softmax(scores)


_OVER_SETS = {TOTAL: total, ATTENTION: attention}


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
