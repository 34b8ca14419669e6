"""The memory of a scan's states, and of what training keeps for the backward scan.

How much it is, and where each value lies in it, follows from the programs, the schedule
and the type of numbers. So that is made once of them, as a `MemoryPlan`; a call then
allocates a tensor or two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..programs import Programs
from ..schedule import Schedule
from .core import Memory


class Piece(NamedTuple):
    """A part of one of a call's tensors.

    Attributes:
        tensor: which of them.
        offset: in bytes, from the tensor's begin.
        numbers: how many there are.
        half: they are in bf16.
    """

    tensor: int
    offset: int
    numbers: int
    half: bool


class Kept(NamedTuple):
    """Memory of a forward scan.

    Attributes:
        levels: states with memory of their own, one after the other; `None` where the
            core has them.
        of_states: their memory, state by state.
        saved: what training keeps beside y: states, then values.
        values: the memory of what the program stores after the states and y.
    """

    levels: Tensor | None
    of_states: list[Memory]
    saved: list[Tensor]
    values: list[Memory]

    def round_states(self) -> None:
        """Keep states that the scan itself has read at every level."""
        assert self.levels is not None
        self.saved[0][: self.levels.numel()].copy_(self.levels)


class MemoryPlan(NamedTuple):
    """The memory of a forward scan, from its programs and schedule alone.

    Attributes:
        number: the type of the states; `None`: that of x.
        output: the type of y as the program stores it.
        apart: y is no state's: what levels hand on lies apart from it.
        ends: of each final state where its rows are, among the levels that are kept.
        copies: the same where the core copies them: array of the program and first
            row; `None` where rows end at different levels.
        states: of each state with memory of its own its part of the levels.
        levels: how many numbers all of them are; `None` where the core has them.
        saved: of each tensor that training keeps: how many numbers of which type.
        pieces: what training keeps, in order: states that are not y, then values.
        first_value: the first of them that the program stores beside its states.
        one_tensor: the levels are what training keeps first.
    """

    number: torch.dtype | None
    output: torch.dtype | None
    apart: bool
    ends: list[Any]
    copies: list[tuple[int, int]] | None
    states: list[Piece]
    levels: int | None
    saved: Sequence[tuple[int, torch.dtype | None]] = ()
    pieces: Sequence[Piece] = ()
    first_value: int = 0
    one_tensor: bool = False

    def final_copies(self, finals: Sequence[Tensor]) -> list[tuple[int, int, int, int]]:
        """What the core copies to the final states, as `run_core` takes it."""
        return [
            (array, row, final.data_ptr(), final.numel())
            for (array, row), final in zip(self.copies or (), finals, strict=False)
        ]

    def allocate(self, like: Tensor) -> Kept:
        """The memory of one call; `like` is its x."""
        if self.levels is None and not self.saved:
            return Kept(None, [None] * len(self.states), [], [])
        saved = [new_empty(like, (count,), dtype) for count, dtype in self.saved]
        memory = placed(self.pieces, saved)
        values = memory[self.first_value :]
        if self.one_tensor:
            return Kept(saved[0], memory[: self.first_value], saved, values)
        if self.levels is None:
            nowhere: list[Memory] = [None] * len(self.states)
            return Kept(None, nowhere, saved, values)
        levels = new_empty(like, (self.levels,), self.number)
        return Kept(levels, placed(self.states, [levels]), saved, values)


def placed(pieces: Sequence[Piece], tensors: Sequence[Tensor]) -> list[Memory]:
    """The memory of pieces of tensors, as the core takes it."""
    begin = [t.data_ptr() for t in tensors]
    return [
        (begin[t] + offset, count, 2) if half else (begin[t] + offset, count)
        for t, offset, count, half in pieces
    ]


def plan_memory(
    programs: Programs,
    schedule: Schedule,
    counts: Sequence[int],
    training: bool,
    dtype: torch.dtype,
) -> MemoryPlan:
    """The memory of a forward scan.

    Args:
        programs: those that fit so many rows.
        counts: how many numbers there are of each value that training saves.
        dtype: of x.
    """
    plan, number = programs.plan, programs.number
    apart = plan.rounds == "states"
    sizes = programs.sizes if apart else programs.hidden
    every = not apart and (training or plan.is_split)
    together = isinstance(schedule.last, int)
    ends, rows = _state_rows(programs, schedule, training, apart, every)
    of_states = [n * size for n, size in zip(rows, sizes, strict=True)]
    core_has_levels = together and not every  # the last two of each
    levels = None if core_has_levels else sum(of_states)
    states = _pieces([(n, number) for n in of_states], [number], dtype)
    if len(ends) < len(programs.sizes):  # y keeps every level
        ends = [schedule.last, *ends]
    copies = _copies(programs, schedule.batch, ends) if together else None
    output = programs.kept_as if apart else number
    forward = MemoryPlan(number, output, apart, ends, copies, states, levels)
    if not training:
        return forward
    wanted = [*_saved_states(programs, schedule)]
    first = 0 if apart else len(wanted)
    wanted += zip(counts, programs.saved_types, strict=True)
    types = list(dict.fromkeys([programs.kept_as, *programs.saved_types]))
    saved = [(sum(n for n, own in wanted if own == t), t) for t in types]
    pieces = _pieces(wanted, types, dtype)
    return forward._replace(
        saved=saved, pieces=pieces, first_value=first, one_tensor=not plan.rounds
    )


def _state_rows(
    programs: Programs, schedule: Schedule, training: bool, apart: bool, every: bool
) -> tuple[list[Any], list[int]]:
    """Of each state with memory of its own: where its last rows are, and how many rows
    there are. That is every level; or the last two, a matrix's if it is not saved."""
    matrices = programs.matrices if apart else programs.hidden_matrices
    whole = [every and (training or not m) for m in matrices]
    ends = [schedule.last if w else schedule.last_rolling for w in whole]
    rows = [schedule.rows if w else 2 * schedule.batch for w in whole]
    for k, spaced in enumerate(programs.spaced if training else ()):
        if spaced:
            ends[k], rows[k] = schedule.last_spaced, schedule.spaced_rows
    return ends, rows


def _copies(
    programs: Programs, batch: int, ends: Sequence[int]
) -> list[tuple[int, int]]:
    """The array and the first row of each final state; `ends` are steps."""
    first = len(programs.sources)  # each state is beside its initial rows
    return [(first + 2 * k, end * batch) for k, end in enumerate(ends)]


def _saved_states(
    programs: Programs, schedule: Schedule
) -> list[tuple[int, torch.dtype | None]]:
    """How many numbers, and of which type, training saves of states that are not y."""
    rows = schedule.rows, schedule.spaced_rows
    pairs = zip(programs.hidden, programs.spaced, strict=True)
    return [(rows[spaced] * n, programs.kept_as) for n, spaced in pairs]


def _pieces(
    wanted: Sequence[tuple[int, torch.dtype | None]],
    types: Sequence[torch.dtype | None],
    dtype: torch.dtype,
) -> list[Piece]:
    """Pieces one after the other, each in the tensor of its type; `None` is `dtype`."""
    at = [0] * len(types)
    found = []
    for count, own in wanted:
        k, real = types.index(own), own or dtype
        found.append(Piece(k, at[k], count, real is torch.bfloat16))
        at[k] += count * real.itemsize
    return found


def new_empty(like: Tensor, shape: Sequence[int], dtype: torch.dtype | None) -> Tensor:
    """Of a type, or that of `like`: torch's quicker way names none, and takes sizes one
    by one."""
    if dtype is None:
        return like.new_empty(*shape)
    return like.new_empty(*shape, dtype=dtype)


def new_array(
    schedule: Schedule, like: Tensor, shape: Sequence[int], dtype: torch.dtype | None
) -> Tensor:
    """An array of the schedule's rows: zero where rows may be left out."""
    if schedule.batch_rows is None:
        return new_empty(like, shape, dtype)
    return like.new_zeros(shape, dtype=dtype)
