"""Rows as torch packs them, and what follows from their numbers.

Level t has the first `sizes[t]` rows of a batch, never more than the level before, one
level after the other. So a row's predecessor is the same row one level back, and no row
is padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from ...compiler.program import Array


@dataclass(frozen=True)
class Rows:
    """The rows of a packed batch.

    Attributes:
        sizes: rows of each level.
        device: where tables of them are.
    """

    sizes: tuple[int, ...]
    device: torch.device

    @property
    def batch(self) -> int:
        return self.sizes[0]

    @cached_property
    def offsets(self) -> list[int]:
        return [0, *accumulate(self.sizes)]

    @property
    def total(self) -> int:
        return self.offsets[-1]

    @property
    def whole(self) -> bool:
        """Every row is there at every level."""
        return self.sizes[-1] == self.sizes[0]

    @cached_property
    def tables(self) -> tuple[Tensor, Tensor]:
        """The first row and the number of rows of each level."""
        levels, device = len(self.sizes), self.device
        if self.whole:  # nothing crosses from the host
            counts = torch.full((levels,), self.batch, device=device)
            return torch.arange(levels, device=device) * self.batch, counts
        both = torch.tensor([self.offsets[:-1], self.sizes], device=device)
        return both[0], both[1]

    @cached_property
    def numbers(self) -> Tensor:
        """Of each row, the row of the batch that it is of."""
        return torch.cat([torch.arange(n) for n in self.sizes]).to(self.device)

    @cached_property
    def lengths(self) -> Tensor:
        """Of each row of the batch."""
        return torch.bincount(self.numbers, minlength=self.batch)

    def shifted(self, sequence: Tensor, initial: Tensor) -> Tensor:
        """Of each row, what its predecessor has in a sequence."""
        if self.whole:
            return torch.cat([initial, sequence[: self.total - self.batch]])
        before = self.tables[0].roll(1).repeat_interleave(self.tables[1])
        index = self.batch + before + self.numbers
        index[: self.batch] = self.numbers[: self.batch]
        return torch.cat([initial, sequence])[index]

    def last(self, array: Array, rows: Tensor) -> Tensor:
        """What each row of the batch has at its last level."""
        rolling = array.rows == "rolling"
        if self.whole:
            level = len(self.sizes) - 1
            first = level % array.depth * self.batch if rolling else level * self.batch
            return rows[first : first + self.batch].clone()
        level, row = self.lengths - 1, self.numbers[: self.batch]
        first = level % array.depth * self.batch if rolling else self.tables[0][level]
        return rows[first + row]
