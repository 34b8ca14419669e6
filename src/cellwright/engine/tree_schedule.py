"""`TreeSchedule`: the order in which an engine scans the nodes of a forest."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch


class TreeSchedule:
    """A scan over a forest from the leaves to the roots.

    A level holds the nodes of one height: their children are in the levels before. Rows
    of a level that have the same things (an input, so many children) stand together.

    Args:
        parents, slots, heights, inputs, roots: as `Forest` has them.
        arity: the children that the cell sees; `None`: it sums over all.

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

    def __init__(
        self,
        parents: np.ndarray,
        slots: np.ndarray,
        heights: np.ndarray,
        inputs: np.ndarray,
        roots: np.ndarray,
        arity: int | None,
    ) -> None:
        count = len(parents)
        below = np.flatnonzero(parents >= 0)
        of_input = np.full(count, -1)
        of_input[inputs] = np.arange(len(inputs))
        degree = np.bincount(parents[below], minlength=count)
        self.nodes = np.lexsort((degree, of_input < 0, heights))
        self.rows = np.empty(count, np.int64)
        self.rows[self.nodes] = np.arange(count)
        self.counts = np.bincount(heights)
        self.roots = torch.from_numpy(roots.copy())  # the forest's is the caller's
        levels = np.where(parents >= 0, heights[parents], -1)
        self.parent_levels = levels[self.nodes]
        self.inputs, self.input_rows = of_input[self.nodes], len(inputs)
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
