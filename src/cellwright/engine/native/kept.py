"""The memory of a scan's states, and of what training keeps for the backward scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..programs import Programs
from ..schedule import Schedule
from .core import Memory, cut

Piece = tuple[int, torch.dtype | None]  # so many numbers of a type; None: that of x


class Kept(NamedTuple):
    """Memory of a forward scan.

    Attributes:
        ends: of each state with memory of its own: where its last rows are.
        levels: those states, one after the other; `None` where the core has them.
        of_states: their memory, state by state.
        saved: what training keeps beside y: states, then values.
        values: the memory of what the program stores after the states and y.
    """

    ends: list[Any]
    levels: Tensor | None
    of_states: list[Memory]
    saved: list[Tensor]
    values: list[Memory]

    def round_states(self) -> None:
        """Keep states that the scan itself has read at every level."""
        assert self.levels is not None
        self.saved[0][: self.levels.numel()].copy_(self.levels)


def saved_pieces(
    programs: Programs, schedule: Schedule, counts: Sequence[int]
) -> list[Piece]:
    """What training keeps, in order: states that are not y, then values.

    Args:
        counts: how many numbers there are of each value.
    """
    rows = schedule.rows, schedule.spaced_rows
    pairs = zip(programs.hidden, programs.spaced, strict=True)
    states = [(rows[spaced] * n, programs.kept_as) for n, spaced in pairs]
    return [*states, *zip(counts, programs.saved_types, strict=True)]


def allocate(
    programs: Programs,
    schedule: Schedule,
    like: Tensor,
    counts: Sequence[int],
    training: bool,
) -> Kept:
    """The memory of a forward scan; `counts` as in `saved_pieces`."""
    plan = programs.plan
    apart = plan.rounds == "states"
    sizes = programs.sizes if apart else programs.hidden
    matrices = programs.matrices if apart else programs.hidden_matrices
    every = not apart and (training or plan.is_split)
    together = isinstance(schedule.last, int)
    if together and not every and not training:  # the core has the last two levels
        none: list[Memory] = [None] * len(sizes)
        return Kept([schedule.last_rolling] * len(sizes), None, none, [], [])
    # Of each state but the output: every level; or its last two, a matrix's if it is
    # not saved.
    whole = [every and (training or not m) for m in matrices]
    ends = [schedule.last if w else schedule.last_rolling for w in whole]
    rows = [schedule.rows if w else 2 * schedule.batch for w in whole]
    for k, spaced in enumerate(programs.spaced if training else ()):
        if spaced:
            ends[k], rows[k] = schedule.last_spaced, schedule.spaced_rows
    of_states = [n * size for n, size in zip(rows, sizes, strict=True)]
    levels, saved, values = None, [], []
    if training and not plan.rounds:  # of one type: the states are what is saved
        parts = of_states + list(counts)
        levels = new_empty(like, sum(parts), programs.number)
        memory = cut(levels, parts)
        first = len(of_states)
        return Kept(ends, levels, memory[:first], [levels], memory[first:])
    if every or not together:
        levels = new_empty(like, sum(of_states), programs.number)
    if training:
        pieces = saved_pieces(programs, schedule, counts)
        saved = [
            new_empty(like, sum(n for n, own in pieces if own == dtype), dtype)
            for dtype in dict.fromkeys([programs.kept_as, *programs.saved_types])
        ]
        first = 0 if apart else len(programs.hidden)
        values = cut_typed(saved, pieces)[first:]
    return Kept(ends, levels, cut(levels, of_states), saved, values)


def cut_saved(
    programs: Programs,
    schedule: Schedule,
    counts: Sequence[int],
    saved: Sequence[Tensor],
) -> list[Memory]:
    """The memory of `Kept.saved`, piece by piece; `counts` as in `saved_pieces`."""
    pieces = saved_pieces(programs, schedule, counts)
    if not programs.plan.rounds:
        return cut(saved[0], [count for count, _ in pieces])
    return cut_typed(saved, pieces)


def cut_typed(wholes: Sequence[Tensor], pieces: Sequence[Piece]) -> list[Memory]:
    """Pieces one after the other, each in the tensor of its type, or in the first."""
    at = {t.dtype: t.data_ptr() for t in wholes}
    parts: list[Memory] = []
    for count, own in pieces:
        dtype = own or wholes[0].dtype
        half = dtype is torch.bfloat16
        parts.append((at[dtype], count, 2) if half else (at[dtype], count))
        at[dtype] += count * dtype.itemsize
    return parts


def new_empty(
    like: Tensor, shape: int | Sequence[int], dtype: torch.dtype | None
) -> Tensor:
    """Of a type, or that of `like`: naming none is torch's quicker way."""
    return (
        like.new_empty(shape) if dtype is None else like.new_empty(shape, dtype=dtype)
    )
