"""Walks over forests: their order, and the reference engine.

A level holds the nodes of one height: their children are in the levels before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..language import Graph
from ..language.evaluate import Edges, evaluate, rows_of
from .tracing import refuse_jit

if TYPE_CHECKING:
    from .forest import Forest


class TreeSchedule:
    """A walk over a forest from the leaves to the roots.

    A level holds the nodes of one height. Rows of a level that have the same things
    (an input, so many children) stand together.

    Attributes:
        nodes: (N,) the node of each row.
        rows: (N,) the row of each node.
        counts: the rows of each level.
        roots: the nodes that are roots.
        inputs: (N,) the row of x of each row, −1 where it has none.
        children: (arity, N) the node that is each row's child in a place, −1 where it
            is missing; of arity 0 where a cell sums over children.
        edges: (E,) where it does: children of the rows, one after another, as nodes.
        first_edge: (N + 1,) where each row's children begin among the edges.
        parent_levels: (N,) the level of each row's parent, −1 of a root.
    """

    def __init__(self, forest: Forest, arity: int | None) -> None:
        count, parents, slots = forest.nodes, forest.parents, forest.slots
        below = np.flatnonzero(parents >= 0)
        of_input = np.full(count, -1)
        of_input[forest.inputs] = np.arange(len(forest.inputs))
        degree = np.bincount(parents[below], minlength=count)
        self.nodes = np.lexsort((degree, of_input < 0, forest.heights))
        self.rows = np.empty(count, np.int64)
        self.rows[self.nodes] = np.arange(count)
        self.counts = np.bincount(forest.heights)
        self.roots = torch.from_numpy(forest.roots)
        levels = np.where(parents >= 0, forest.heights[parents], -1)
        self.parent_levels = levels[self.nodes]
        self.inputs, self.input_rows = of_input[self.nodes], len(forest.inputs)
        self.children = np.full((arity or 0, count), -1)
        self.edges, self.first_edge = np.empty(0, np.int64), np.zeros(count + 1, int)
        if arity is not None:
            self.children[slots[below], self.rows[parents[below]]] = below
        else:
            self.edges = below[np.lexsort((slots[below], self.rows[parents[below]]))]
            np.cumsum(degree[self.nodes], out=self.first_edge[1:])

    @cached_property
    def core(self) -> Any:
        """The native core's form of it."""
        from .. import _core

        parents = np.repeat(np.arange(len(self.nodes)), np.diff(self.first_edge))
        summed = len(self.children) == 0
        return _core.Schedule.trees(
            counts=self.counts,
            place=self.nodes,
            input=self.inputs,
            inputs=self.input_rows,
            children=self.children,
            first_child=self.first_edge if summed else self.edges,
            child=self.edges,
            parent=parents,
        )

    def levels(self) -> Iterator[tuple[int, int]]:
        """The first row, and the one after the last, of each level."""
        ends = np.cumsum(self.counts)
        yield from zip((ends - self.counts).tolist(), ends.tolist(), strict=True)


def reference(
    graph: Graph,
    W: Any,
    inputs: Mapping[str, Tensor],
    schedule: TreeSchedule,
    like: Tensor,
) -> tuple[Tensor, list[Tensor]]:
    """Walk a tree cell over a forest, level by level.

    Args:
        graph: the cell with concrete sizes.
        W: the weights, such as `layer.cells[0]`.
        inputs: x and the named inputs, (M, size) each.
        schedule: of the forest, for this cell's arity.
        like: a tensor of the device and dtype of the states.

    Returns:
        The outputs (N, output_size) of all nodes, in the forest's order, and the
        states (trees, size) of the roots.

    Raises:
        ArgumentError: inside torch.jit.trace.
    """
    refuse_jit("a layer over trees")
    sizes = [int(s.size) for s in graph.states]
    done: list[list[Tensor]] = [[] for _ in sizes]  # by state: one tensor a level
    outputs: list[Tensor] = []
    waiting = _Children(schedule, [like.new_zeros(0, size) for size in sizes])
    # One gather for the whole walk: that of each level would touch all rows again. A
    # row of zeros after the last stands for what is missing, at index -1.
    having, counts = _index(schedule.inputs, like), schedule.counts.tolist()
    levels = {n: _with_zero(v)[having].split(counts) for n, v in inputs.items()}
    for level, (first, last) in enumerate(schedule.levels()):
        now = {name: v[level] for name, v in levels.items()}
        olds, edges = _children(graph, schedule, first, last, waiting.take(level))
        values = evaluate(graph, W, now, olds, edges)
        news = [
            rows_of(values[update], last - first, like, size)
            for update, size in zip(graph.updates, sizes, strict=True)
        ]
        waiting.put(first, last, news)
        for own, new in zip(done, news, strict=True):
            own.append(new)
        size = int(graph.output_size)
        outputs.append(rows_of(values[graph.output], last - first, like, size))
    rows = _index(schedule.rows, like)
    roots = rows[schedule.roots]
    return torch.cat(outputs)[rows], [torch.cat(own)[roots] for own in done]


class _Children:
    """The states of nodes whose parents are still to come.

    Each row is cut out once, for the level of its parent: a walk costs what its nodes
    cost, however deep it is, and so does its gradient.
    """

    def __init__(self, schedule: TreeSchedule, none: Sequence[Tensor]) -> None:
        self.schedule, self.none = schedule, none
        self.rows: dict[int, list[np.ndarray]] = {}  # by the level of their parents
        self.states: dict[int, list[Sequence[Tensor]]] = {}

    def put(self, first: int, last: int, states: Sequence[Tensor]) -> None:
        """The states of a level's rows, (rows, size) each."""
        levels = self.schedule.parent_levels[first:last]
        order = np.argsort(levels, kind="stable")
        readers, counts = np.unique(levels, return_counts=True)
        index = _index(order, states[0])
        parts = [s[index].split(counts.tolist()) for s in states]
        rows = np.split(first + order, np.cumsum(counts)[:-1])
        for reader, own, *of_states in zip(readers.tolist(), rows, *parts, strict=True):
            if reader >= 0:
                self.rows.setdefault(reader, []).append(own)
                self.states.setdefault(reader, []).append(of_states)

    def take(self, level: int) -> tuple[np.ndarray, list[Tensor]]:
        """The rows whose parents are in a level, ascending, and their states."""
        rows = self.rows.pop(level, [])
        states = [self.none, *self.states.pop(level, [])]
        known = [_with_zero(torch.cat(parts)) for parts in zip(*states, strict=True)]
        return np.concatenate([np.empty(0, np.int64), *rows]), known


def _children(
    graph: Graph,
    schedule: TreeSchedule,
    first: int,
    last: int,
    below: tuple[np.ndarray, Sequence[Tensor]],
) -> tuple[dict[str, Tensor], Edges | None]:
    """The states of a level's children, and for a sum which row each belongs to."""
    rows, known = below
    edges = None
    if graph.many:
        ends = schedule.first_edge[first : last + 1]
        children = [schedule.edges[ends[0] : ends[-1]]]
        parents = np.repeat(np.arange(last - first), np.diff(ends))
        edges = Edges(_index(parents, known[0]), last - first)
    else:
        children = list(schedule.children[:, first:last])
    olds = {}
    for child, nodes in zip(graph.children, children, strict=True):
        places = np.searchsorted(rows, schedule.rows[nodes])
        index = _index(np.where(nodes < 0, -1, places), known[0])
        for state, values in zip(graph.states, known, strict=True):
            olds[f"{child}.{state.name}"] = values[index]
    return olds, edges


def _with_zero(values: Tensor) -> Tensor:
    return torch.cat([values, values.new_zeros(1, values.shape[-1])])


def _index(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.device)
