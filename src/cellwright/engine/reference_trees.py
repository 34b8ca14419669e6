"""The reference engine over forests: a tree cell's graph, level by level in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..language import Graph
from ..language.evaluate import Edges, evaluate, rows_of
from .tracing import refuse_jit
from .tree_schedule import TreeSchedule


def scan_trees(
    graph: Graph, W: Any, sources: Sequence[Tensor], schedule: TreeSchedule
) -> tuple[Tensor, list[Tensor]]:
    """Scan a forest with a tree cell, level by level.

    Args:
        graph: the cell with concrete sizes.
        W: the weights, such as `layer.cells[0]`.
        sources: x and the named inputs, (M, size) each.
        schedule: of the forest, for this cell's arity.

    Returns:
        The outputs (N, output_size) of all nodes, in the forest's order, and the
        states (trees, size) of the roots.

    Raises:
        ArgumentError: inside torch.jit.trace.
    """
    refuse_jit("a layer over trees")
    sizes, like = [int(s.size) for s in graph.states], sources[0]
    done: list[list[Tensor]] = [[] for _ in sizes]  # by state: one tensor a level
    outputs: list[Tensor] = []
    waiting = _Children(schedule, [like.new_zeros(0, size) for size in sizes])
    # One gather for the whole scan: that of each level would touch all rows again. A
    # row of zeros after the last stands for what is missing, at index -1.
    having, counts = _index(schedule.inputs, like), schedule.counts.tolist()
    names = [i.name for i in graph.inputs]
    cut = (_with_zero(source)[having].split(counts) for source in sources)
    levels = dict(zip(names, cut, strict=True))
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

    Each row is cut out once, for the level of its parent: a scan costs what its nodes
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
