"""Schedules: the order in which the native core walks over rows.

A walk goes from level to level. The rows of a level stand together in memory; each row
follows one of an earlier level, or starts from a row of the initial states. A sequence
has a level a step; walked in reverse, its levels are listed from the last step on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """A walk over sequences, and where it leaves each row's last state.

    Attributes:
        core: the native core's form of it.
        rows: of all levels together.
        batch: rows of the widest level, and of the initial states.
        last: rows of a sequence array that hold the final states, in order.
        last_rolling: the same for an array that keeps the last two levels only.
        steps: first row and number of rows of each level, in the order of the walk.
    """

    core: Any
    rows: int
    batch: int
    last: slice | Tensor
    last_rolling: slice | Tensor
    steps: tuple[tuple[int, int], ...]


@lru_cache(maxsize=256)
def dense(steps: int, batch: int, reverse: bool = False) -> Schedule:
    """Every row at every step: row r of a step follows row r of the one before."""
    from .. import _core

    order = range(steps - 1, -1, -1) if reverse else range(steps)
    offsets = [t * batch for t in order]
    core = _core.Schedule(offsets, [batch] * steps, batch)
    last, block = 0 if reverse else steps - 1, (steps - 1) % 2
    return Schedule(
        core,
        steps * batch,
        batch,
        slice(last * batch, (last + 1) * batch),
        slice(block * batch, (block + 1) * batch),
        tuple((offset, batch) for offset in offsets),
    )


@lru_cache(maxsize=256)
def packed(batch_sizes: tuple[int, ...], reverse: bool = False) -> Schedule:
    """Rows of different lengths, the longest first, as `PackedSequence` holds them."""
    from .. import _core

    steps, batch = len(batch_sizes), batch_sizes[0]
    offsets = [sum(batch_sizes[:t]) for t in range(steps)]
    order = range(steps - 1, -1, -1) if reverse else range(steps)
    levels = tuple((offsets[t], batch_sizes[t]) for t in order)
    core = _core.Schedule([o for o, _ in levels], [n for _, n in levels], batch)
    lengths = [sum(n > row for n in batch_sizes) for row in range(batch)]
    ends = [0 if reverse else length - 1 for length in lengths]
    last = [offsets[t] + row for row, t in enumerate(ends)]
    blocks = [(steps - 1 - t if reverse else t) % 2 for t in ends]
    rolling = [block * batch + row for row, block in enumerate(blocks)]
    return Schedule(
        core,
        sum(batch_sizes),
        batch,
        torch.tensor(last),
        torch.tensor(rolling),
        levels,
    )


def gathered(counts: Sequence[int], previous: Sequence[int], initial_rows: int) -> Any:
    """The core's form of any walk in which a row has at most one successor.

    Args:
        counts: rows of each level, in the order of the walk.
        previous: for each row the row it follows, of an earlier level, or −1 − i to
            start from row i of the initial states.
        initial_rows: how many there are.
    """
    from .. import _core

    offsets = [sum(counts[:level]) for level in range(len(counts))]
    return _core.Schedule(offsets, list(counts), initial_rows, list(previous))
