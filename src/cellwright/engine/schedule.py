"""Schedules: the order in which the native core walks over rows.

A walk goes from level to level. Level l has `counts[l]` rows, which stand together in
memory from row `offsets[l]` on; each row follows one of an earlier level, or starts
from a row of the initial states. A sequence has a level a step; walked in reverse, its
levels are listed from the last step to the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=256)
def dense(steps: int, batch: int, reverse: bool = False) -> Any:
    """Every row at every step: row r of a step follows row r of the one before."""
    from .. import _core

    order = range(steps - 1, -1, -1) if reverse else range(steps)
    return _core.Schedule([t * batch for t in order], [batch] * steps, batch)


def packed(batch_sizes: Sequence[int], reverse: bool = False) -> Any:
    """Rows of different lengths, the longest first, as `PackedSequence` holds them."""
    from .. import _core

    offsets = [sum(batch_sizes[:t]) for t in range(len(batch_sizes))]
    pairs = list(zip(offsets, batch_sizes, strict=True))
    if reverse:
        pairs.reverse()
    widest = max(batch_sizes, default=0)
    return _core.Schedule([o for o, _ in pairs], [n for _, n in pairs], widest)


def gathered(
    counts: Sequence[int], previous: Sequence[int], initial_rows: int
) -> Any:
    """Any walk in which a row has at most one successor.

    Args:
        counts: rows of each level, in the order of the walk.
        previous: for each row the row it follows, of an earlier level, or −1 − i to
            start from row i of the initial states.
        initial_rows: how many there are.
    """
    from .. import _core

    offsets = [sum(counts[:level]) for level in range(len(counts))]
    return _core.Schedule(offsets, list(counts), initial_rows, list(previous))
