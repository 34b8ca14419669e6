"""Recorded values of items: as the core has them, and as engines give them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..items import ItemBatch
from ..schedule import Schedule


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
