"""Recorded values of a scan: rows for the core, columns for who has asked for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..items import ItemBatch
from ..programs import Programs
from ..schedule import Schedule
from ..tracing import readable
from .items import ItemColumns, count_of
from .kept import new_array


class Recorded(NamedTuple):
    """The recorded values of programs over a schedule, and over the items of a call."""

    programs: Programs
    schedule: Schedule
    sets: Mapping[str, ItemBatch]

    def allocate(self, x: Tensor) -> list[Tensor]:
        """New arrays, one for each recorded value."""
        schedule, number = self.schedule, self.programs.number
        found = []
        for size, over in self.programs.recorded_values:
            shape = x.shape[:-1]
            if over is not None:
                shape = schedule.steps, count_of(self.sets[over])
            found.append(new_array(schedule, x, (*shape, size), number))
        return found

    def in_columns(self, records: Sequence[Tensor]) -> list[Tensor]:
        """Values, or their gradients, as engines give them."""
        pairs = zip(records, self.programs.recorded_values, strict=True)
        return [
            record
            if over is None
            else ItemColumns(self.sets[over], self.schedule).padded(record)
            for record, (_, over) in pairs
        ]

    def cotangents(
        self, arrays: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> list[Tensor]:
        """The values' own cotangents as the core reads them; `arrays` are of their
        shapes."""
        found = []
        values = zip(arrays, grads, self.programs.recorded_values, strict=True)
        for array, grad, (size, over) in values:
            if grad is None:
                found.append(torch.zeros_like(array))
                continue
            if over is not None:
                columns = ItemColumns(self.sets[over], self.schedule)
                grad = columns.packed(grad, size)
            found += readable([grad])
        return found
