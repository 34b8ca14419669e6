"""`ItemBatch`: how many items each row of a batch looks at, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..language import ArgumentError
from ..language.evaluate import Edges
from .schedule import outside_graphs
from .tracing import numbers


@dataclass(frozen=True)
class ItemRows:
    """The items that rows look at, one row's after the other's.

    Attributes:
        taken: the rows of the array that they are in, in this order; `None`: as it is.
        parents: the row that each is of.
        padded: where each lies where every row has `longest`.
        ends: the items of the first n rows, n from 0 on.
    """

    taken: Tensor | None
    parents: Tensor
    padded: Tensor
    ends: list[int]


class ItemBatch:
    """What one call says of a set of items.

    Engines take items packed, (Σ lengths, size): those of row 0, those of row 1, ….

    Args:
        batch: the rows of the batch.
        longest: S, the most items of a row.
        lengths: (batch,) items of each row; `None`: all have the most.
        name: of the argument that says the lengths, for messages.

    Raises:
        ArgumentError: a length that is not among 0 … S.
    """

    def __init__(
        self,
        batch: int,
        longest: int,
        lengths: Tensor | None = None,
        name: str = "lengths",
    ) -> None:
        self.batch, self.longest = batch, longest
        self._lengths = None if lengths is None else self._checked(lengths, name)

    @outside_graphs
    def _checked(self, lengths: Tensor, name: str) -> np.ndarray | None:
        found = numbers(name, lengths)
        wrong = np.flatnonzero((found < 0) | (found > self.longest))
        if len(wrong):
            row = int(wrong[0])
            raise ArgumentError(
                f"[{name}] a length counts items; received {int(found[row])} for row "
                f"{row}, expected 0 … {self.longest}"
            )
        # Second derivatives read them again, when the caller may have changed his.
        return None if (found == self.longest).all() else found.copy()

    @property
    def counts(self) -> np.ndarray:
        """The items of each row, (batch,)."""
        if self._lengths is None:
            return np.full(self.batch, self.longest)
        return self._lengths

    @cached_property
    def offsets(self) -> Tensor:
        """(batch + 1,) of int64, on the CPU: the items of row r are the packed rows
        offsets[r] … offsets[r + 1] - 1."""
        ends = np.concatenate([[0], np.cumsum(self.counts)])
        return torch.from_numpy(ends.astype(np.int64))

    def pack(self, items: Tensor) -> Tensor:
        """Items (batch, S, size), packed."""
        flat = items.reshape(self.batch * self.longest, items.shape[-1])
        if self._lengths is None:
            return flat
        return flat[self.rows(None, items.device).padded]

    def edges(self, device: torch.device) -> Edges:
        """Which packed items are of which row of the batch."""
        return Edges(self.rows(None, device).parents, self.batch)

    def rows(self, order: Tensor | None, device: torch.device) -> ItemRows:
        """The packed items as some rows of the batch look at them.

        Args:
            order: the rows of the batch; `None`: all, in order.
        """
        if order is not None or self._lengths is not None:
            found = self._ordered(order)
            taken = None if found.taken is None else found.taken.to(device)
            indices = found.parents.to(device), found.padded.to(device)
            return ItemRows(taken, *indices, found.ends)
        size = self.longest
        padded = torch.arange(self.batch * size, device=device)
        parents = padded // max(size, 1)
        ends = [size * rows for rows in range(self.batch + 1)]
        return ItemRows(None, parents, padded, ends)

    @outside_graphs
    def _ordered(self, order: Tensor | None) -> ItemRows:
        rows = np.arange(self.batch) if order is None else order.numpy()
        counts, first = self.counts[rows], self.offsets.numpy()[rows]
        ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        parents = np.repeat(np.arange(len(rows)), counts)
        within = np.arange(len(parents)) - ends[parents]
        taken = None if order is None else torch.from_numpy(first[parents] + within)
        padded = torch.from_numpy(parents * self.longest + within)
        return ItemRows(taken, torch.from_numpy(parents), padded, ends.tolist())
