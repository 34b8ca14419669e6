"""The items that the reference engine's steps look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..language import Graph
from ..language.evaluate import Edges, rows_of
from .items import ItemBatch, ItemRows
from .schedule import Schedule

#: Items by name, and which rows they are of by set: as `evaluate` takes them.
Seen = tuple[dict[str, Tensor], dict[str, Edges]]


class Members:
    """Items, and the values that vary over them, for the rows of each level.

    A level has the first rows of a schedule's order: so it sees the first items, once
    they are in that order.

    Args:
        graph: of the step.
        items, sets: as in `Call`.
        schedule: of the scan; `None`: every row of the batch takes one step.
    """

    def __init__(
        self,
        graph: Graph,
        items: Mapping[str, Tensor],
        sets: Mapping[str, ItemBatch],
        schedule: Schedule | None = None,
    ) -> None:
        self._graph, self._sets, self._batches = graph, graph.sets, sets
        self._rows: dict[str, ItemRows] = {}
        self._items: dict[str, Tensor] = {}
        self._seen: dict[int, Seen] = {}
        order = None if schedule is None else schedule.batch_rows
        for item in graph.items:
            values = items[item.name]
            if item.set not in self._rows:
                self._rows[item.set] = sets[item.set].rows(order, values.device)
            taken = self._rows[item.set].taken
            self._items[item.name] = values if taken is None else values[taken]

    def of(self, rows: int) -> Seen:
        """What the first rows look at."""
        if rows not in self._seen:
            items = {
                item.name: self._items[item.name][: self._rows[item.set].ends[rows]]
                for item in self._graph.items
            }
            edges = {
                name: Edges(own.parents[: own.ends[rows]], rows)
                for name, own in self._rows.items()
            }
            self._seen[rows] = items, edges
        return self._seen[rows]

    # -- values of a node as columns, one row for each of the level

    def width(self, node: int) -> int:
        """Columns of a value; of one that varies over items, all of its items'."""
        name, size = self._sets[node], int(self._graph.nodes[node].size)
        return size if name is None else self._batches[name].longest * size

    def padded(self, node: int, value: Any, rows: int, like: Tensor) -> Tensor:
        """A value as (rows, width), zeros where a row has no item."""
        name, size = self._sets[node], int(self._graph.nodes[node].size)
        if name is None:
            return rows_of(value, rows, like, size)
        own = self._rows[name]
        zeros = value.new_zeros(rows * self._batches[name].longest, size)
        where = own.padded[: own.ends[rows]]
        return zeros.index_copy(0, where, value).view(rows, self.width(node))

    def packed(self, node: int, columns: Tensor) -> Tensor:
        """The opposite: (rows, width) as the value has them."""
        name, size = self._sets[node], int(self._graph.nodes[node].size)
        if name is None:
            return columns
        own, rows = self._rows[name], len(columns)
        flat = columns.reshape(rows * self._batches[name].longest, size)
        return flat[own.padded[: own.ends[rows]]]
