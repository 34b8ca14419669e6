"""Items as the core has them: what is made of them before a scan, recorded values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...language.evaluate import evaluate_nodes
from ..bound_weights import BoundWeights
from ..engine import Items
from ..items import ItemBatch
from ..programs import Programs
from ..schedule import Schedule


def made_ahead(
    programs: Programs, parameters: Sequence[Tensor], given: Items
) -> tuple[Programs, list[Tensor]]:
    """The programs that run a call, and their items in order: the items' parts of
    products that mix them with values of the step are made here, once.

    Args:
        parameters: as the programs' binding lists them.
    """
    values, sets = given
    if programs.ahead is None:
        return programs, [values[name] for name in programs.items]
    own, once = programs.ahead
    if parameters:
        values = {n: v.to(parameters[0].dtype) for n, v in values.items()}
    W = BoundWeights(once.whole, own.binding, parameters)
    device = next(iter(values.values())).device
    edges = {name: sets[name].edges(device) for name in once.whole.item_sets}
    found = evaluate_nodes(once.nodes, W, values, edges)
    return own, [found[once.made[name]] for name in own.items]


def count_of(items: ItemBatch) -> int:
    """How many there are of a set, of all rows of the batch."""
    return int(items.offsets[-1])


class ItemColumns(NamedTuple):
    """The core has them packed, (T, Σ lengths, size); engines give them in columns,
    (…, S · size), one row for each of the outputs."""

    items: ItemBatch
    schedule: Schedule

    def padded(self, packed: Tensor) -> Tensor:
        """In columns; zeros after a row's own items."""
        batch, longest = self.items.batch, self.items.longest
        where = self.items.rows(None, packed.device).padded
        steps, _, size = packed.shape
        zeros = packed.new_zeros(steps, batch * longest, size)
        columns = zeros.index_copy(1, where, packed).view(steps, batch, longest * size)
        counts = self._counts
        if counts is None:
            return columns
        return torch.cat([step[:n] for step, n in zip(columns, counts, strict=True)])

    def packed(self, columns: Tensor, size: int) -> Tensor:
        """The opposite; what rows without a step have is 0."""
        batch, longest, counts = self.items.batch, self.items.longest, self._counts
        if counts is not None:
            whole = columns.new_zeros(len(counts), batch, columns.shape[-1])
            for step, rows in zip(whole, columns.split(counts), strict=True):
                step[: len(rows)] = rows
            columns = whole
        where = self.items.rows(None, columns.device).padded
        return columns.reshape(len(columns), batch * longest, size)[:, where]

    @property
    def _counts(self) -> list[int] | None:
        """The rows of each step where x is packed, or `None`."""
        schedule = self.schedule
        if schedule.rows == schedule.steps * schedule.batch:
            return None
        upwards = schedule.offsets[0] == 0
        return [*schedule.counts[:: 1 if upwards else -1]]
