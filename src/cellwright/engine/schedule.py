"""Sequence batches and their schedules: the order in which an engine scans rows.

A scan goes from level to level. Each row follows one of an earlier level, or starts
from a row of the initial states. A sequence has a level a step; scanned in reverse, its
levels are listed from the last step on. Where sequences have lengths of their own, a
level has the rows that are still alive; a reset starts a row anew.

`SequenceBatch` is what a call says of its sequences. Its `schedule` is for the native
core and the reference, its `segments` are a packed batch for torch's kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, wraps
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..compiler.chunkwise import STEPS
from ..language import ArgumentError
from .tracing import numbers

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False)
class Schedule:
    """A scan over sequences, and where it leaves each row's last state.

    Attributes:
        rows: of a sequence array.
        batch: of the initial states.
        offsets, counts: the first row and the number of rows of each level, in the
            order of the scan.
        last: rows of a sequence array that hold the final states, in order; a number
            where they are all rows of that step.
        last_level: the level of each row's last step; a number where it is the same.
        batch_rows: row r of a level is row batch_rows[r] of the batch: it starts from
            that of the initial states; `None`: r.
        places: and stands at the level's offset + places[r], where sequences begin at
            steps of their own; `None`: at batch_rows[r].
        resets: (n, 4): level, row, initial row, gradient's row of the rows that start
            anew, or `None`.
        gradient_rows: rows of the initial states' gradients: theirs, then the resets'.
        empty: rows of the batch that no level has, or `None`.
    """

    rows: int
    batch: int
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    last: int | Tensor
    last_level: int | Tensor
    batch_rows: Tensor | None = None
    places: Tensor | None = None
    resets: Tensor | None = None
    gradient_rows: int = 0
    empty: Tensor | None = None

    @property
    def whole(self) -> bool:
        """Every row starts from its own initial states, and there alone."""
        return self.batch_rows is None and self.resets is None

    @property
    def steps(self) -> int:
        """Of the sequence arrays."""
        padded = self.batch_rows is not None
        return self.rows // self.batch if padded else len(self.counts)

    @property
    def last_rolling(self) -> int | Tensor:
        """As `last`, for an array that keeps the last two levels only."""
        return self._in_blocks(self.last_level % 2)

    @property
    def last_spaced(self) -> int | Tensor:
        """As `last`, for an array that keeps every `STEPS`-th level and the last."""
        return self._in_blocks(self.last_level // STEPS)

    @property
    def spaced_rows(self) -> int:
        """Of such an array."""
        return -(-self.steps // STEPS) * self.batch

    def _in_blocks(self, blocks: int | Tensor) -> int | Tensor:
        """The rows of the batch, each in its block of rows."""
        if isinstance(blocks, Tensor):
            return blocks * self.batch + torch.arange(self.batch)
        return blocks

    @property
    def at(self) -> Tensor | None:
        """Where the rows of a level stand, from its offset on; `None`: one by one."""
        return self.batch_rows if self.places is None else self.places

    @cached_property
    def core(self) -> Any:
        """The native core's form of it."""
        from .. import _core

        return _core.Schedule(
            offsets=self.offsets,
            counts=self.counts,
            initial_rows=self.batch + (self.resets is not None),
            batch_rows=() if self.batch_rows is None else self.batch_rows.tolist(),
            places=() if self.places is None else self.places.tolist(),
            width=0 if self.batch_rows is None else self.batch,
            rows=self.rows,
            resets=self.resets,
            gradient_rows=self.gradient_rows,
        )


# A schedule has up to 80 bytes for each level and row, and making one takes far less
# time than a long scan over it. So only short ones are cached: 256 of a kind, 20 MB.
_CACHED, _SHORT = 256, 1024  # how many; levels and rows of the batch together


def dense(steps: int, batch: int, reverse: bool = False) -> Schedule:
    """Every row at every step: row r of a step follows row r of the one before."""
    # Traced sizes may be symbols: they have no hash.
    plain = not torch.compiler.is_compiling() and type(steps) is type(batch) is int
    make = _cached_dense if plain and steps <= _SHORT else _dense
    return make(steps, batch, reverse)


def _dense(steps: int, batch: int, reverse: bool) -> Schedule:
    order = range(steps - 1, -1, -1) if reverse else range(steps)
    last = 0 if reverse else steps - 1
    return Schedule(
        steps * batch,
        batch,
        tuple(t * batch for t in order),
        (batch,) * steps,
        last,
        steps - 1,
    )


_cached_dense = lru_cache(maxsize=_CACHED)(_dense)


def packed(batch_sizes: tuple[int, ...], reverse: bool = False) -> Schedule:
    """Rows of different lengths, the longest first, as `PackedSequence` holds them."""
    short = len(batch_sizes) + batch_sizes[0] <= _SHORT
    return (_cached_packed if short else _packed)(batch_sizes, reverse)


def _packed(batch_sizes: tuple[int, ...], reverse: bool) -> Schedule:
    counts = np.array(batch_sizes)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    lengths = _lengths(counts)
    ends = np.zeros_like(lengths) if reverse else lengths - 1
    levels = len(counts) - 1 - ends if reverse else ends
    rows = np.arange(counts[0])
    step = -1 if reverse else 1
    return Schedule(
        int(counts.sum()),
        int(counts[0]),
        tuple(offsets[:-1][::step].tolist()),
        tuple(counts[::step].tolist()),
        torch.from_numpy(offsets[ends] + rows),
        torch.from_numpy(levels),
    )


_cached_packed = lru_cache(maxsize=_CACHED)(_packed)


def _lengths(counts: np.ndarray) -> np.ndarray:
    """The length of each row, the longest first, from the rows of each step."""
    return len(counts) - np.searchsorted(counts[::-1], np.arange(counts[0]), "right")


def _counts(lengths: np.ndarray, steps: int) -> np.ndarray:
    """The rows of each step that are longer than it."""
    longer = np.searchsorted(np.sort(lengths), np.arange(steps), "right")
    return len(lengths) - longer


@dataclass(frozen=True, eq=False)
class Segments:
    """A batch cut at its resets, every segment a sequence of a packed batch.

    Attributes:
        rows: (N,) the packed rows, as rows of the batch's own array.
        batch_sizes: of the packed batch.
        initial: for each segment the initial row it starts from; `batch` is the row of
            the reset state.
        last: for each row of the batch the segment that ends with its final state.
        empty: (batch, 1) rows without a step.
    """

    rows: Tensor
    batch_sizes: Tensor
    initial: Tensor
    last: Tensor
    empty: Tensor


def outside_graphs(method: F) -> F:
    """What depends on the data breaks torch.compile's graph, rather than fail in it."""

    @wraps(method)
    def outside(*arguments: Any) -> Any:
        with torch._C._DisableFuncTorch():  # else torch.func wraps what is made here
            return method(*arguments)

    return torch.compiler.disable(outside)  # type: ignore[return-value]


class SequenceBatch:
    """What one call says of its sequences; its schedules are made once.

    Args:
        steps, batch: T and B.
        batch_sizes: the rows of each step where they are packed, never more than of the
            step before; else they are padded, (T, B).
        lengths: (B,), in any order; `None`: to the end.
        resets: (T, B), booleans or 0 and 1: the row starts anew at this step.
        starts: (B,), the step at which each row's sequence begins; `None`: all at 0.

    `schedule` and `segments` raise an ArgumentError where a row's steps are not among
    0 … T, or a reset is neither 0 nor 1.
    """

    def __init__(
        self,
        steps: int,
        batch: int,
        *,
        batch_sizes: Sequence[int] | None = None,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> None:
        self.steps, self.batch = steps, batch
        self.batch_sizes = None if batch_sizes is None else tuple(batch_sizes)
        self.lengths, self.resets, self.starts = lengths, resets, starts
        self._schedules: dict[tuple[bool, bool], Schedule] = {}

    def copy(self) -> SequenceBatch:
        """The same, whatever the caller does to his lengths and resets later."""
        own = (
            value if value is None else value.clone()
            for value in (self.lengths, self.resets, self.starts)
        )
        lengths, resets, starts = own
        return SequenceBatch(
            self.steps,
            self.batch,
            batch_sizes=self.batch_sizes,
            lengths=lengths,
            resets=resets,
            starts=starts,
        )

    @cached_property
    def _given(self) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
        """Lengths, resets and first steps, where they say anything.

        Resets are counted from each row's own first step.
        """
        given = {"lengths": self.lengths, "resets": self.resets, "starts": self.starts}
        lengths, resets, starts = (
            None if value is None else numbers(name, value)
            for name, value in given.items()
        )
        steps = np.arange(self.steps)[:, None]
        if lengths is not None:
            _check_lengths(lengths, self.steps)
        if starts is not None:
            _check_starts(starts, lengths, self.steps)
            lengths = self.steps - starts if lengths is None else lengths
            starts = np.where(lengths > 0, starts, 0)
            starts = starts if starts.any() else None
        if lengths is not None and (not self.batch or lengths.min() == self.steps):
            lengths = None
        if resets is not None:
            resets = _as_booleans(resets)
        if resets is not None and starts is not None:
            where = np.minimum(steps + starts, self.steps - 1)
            resets = np.take_along_axis(resets, where, 0)
        if resets is not None and lengths is not None:
            resets = resets & (steps < lengths)
        if resets is not None and not resets.any():
            resets = None
        return lengths, resets, starts

    @property
    def _first(self) -> np.ndarray:
        """Where each row of the batch begins, as a row of the batch's own array."""
        rows, starts = np.arange(self.batch), self._given[2]
        return rows if starts is None else starts * self.batch + rows

    @property
    def batch_rows(self) -> Tensor | None:
        """Of packed rows: the row of the batch of each; `None` if they are padded."""
        if self.batch_sizes is None:
            return None
        return torch.cat([torch.arange(count) for count in self.batch_sizes])

    def lay_out(self, value: Tensor) -> Tensor:
        """(T, B, size) as the rows lie: without the padding, where they are packed."""
        if self.batch_sizes is None:
            return value
        rows = [
            step[:count] for step, count in zip(value, self.batch_sizes, strict=True)
        ]
        return torch.cat(rows)

    @property
    def plain(self) -> bool:
        """Every row at every step, and none starts anew."""
        if self.batch_sizes is not None:
            return False
        if self.lengths is self.resets is self.starts is None:
            return True
        return self._whole()

    @outside_graphs
    def _whole(self) -> bool:
        return self._given[0] is self._given[1] is None

    def schedule(self, reverse: bool = False, learned: bool = False) -> Schedule:
        """The scan's; `learned`: the gradient of the reset state is wanted."""
        if self.batch_sizes is not None:
            return packed(self.batch_sizes, reverse)
        if self.lengths is self.resets is self.starts is None:
            return dense(self.steps, self.batch, reverse)
        return self._made(reverse, learned)

    @outside_graphs
    def _made(self, reverse: bool, learned: bool) -> Schedule:
        if self.plain:
            return dense(self.steps, self.batch, reverse)
        learned = learned and self._given[1] is not None
        key = reverse, learned
        if key not in self._schedules:
            self._schedules[key] = self._padded(reverse, learned)
        return self._schedules[key]

    def _padded(self, reverse: bool, learned: bool) -> Schedule:
        steps, batch, (lengths, _, starts) = self.steps, self.batch, self._given
        step, first = -1 if reverse else 1, self._first
        batch_rows, places, empty = None, None, None
        counts = np.full(steps, batch)
        ends = np.full(batch, steps)
        if lengths is not None:
            steps = max(int(lengths.max()), 1)
            counts, ends = _counts(lengths, steps), lengths
            sort = np.argsort(-lengths, kind="stable")
            batch_rows = torch.from_numpy(sort[: counts[0]].copy())
            if starts is not None:
                places = torch.from_numpy(first[batch_rows.numpy()])
            if counts[0] < batch:
                empty = torch.from_numpy(sort[counts[0] :].copy())
        last = np.zeros_like(ends) if reverse else np.maximum(ends - 1, 0)
        levels = steps - 1 - last if reverse else last
        resets, gradient_rows = self._resets(batch_rows, steps, reverse, learned)
        return Schedule(
            self.steps * batch,
            batch,
            tuple((np.arange(steps) * batch)[::step].tolist()),
            tuple(counts[::step].tolist()),
            torch.from_numpy(last * batch + first),
            torch.from_numpy(levels),
            batch_rows,
            places,
            resets,
            gradient_rows,
            empty,
        )

    def _resets(
        self, batch_rows: Tensor | None, steps: int, reverse: bool, learned: bool
    ) -> tuple[Tensor | None, int]:
        """`resets` and `gradient_rows` of the schedule.

        Scanned in reverse, the row of step t − 1 starts anew where t is reset. All read
        the one reset state. A gradient that nobody wants goes to its batch row.
        """
        resets = self._given[1]
        if resets is None:
            return None, 0
        resets = resets if batch_rows is None else resets[:, batch_rows.numpy()]
        resets = resets[1:steps][::-1] if reverse else resets[:steps]
        level, row = np.nonzero(resets)
        level = level + 1 if reverse else level
        own = np.arange(len(row)) if learned else row
        found = np.stack([level, row, np.full_like(row, self.batch), self.batch + own])
        rows = self.batch + (len(row) if learned else self.batch)
        return torch.from_numpy(np.ascontiguousarray(found.T)), rows

    @outside_graphs
    def segments(self, reverse: bool = False) -> Segments:
        """The sequences cut at every reset; scanned in reverse, each from its end."""
        steps, batch, (lengths, resets, _) = self.steps, self.batch, self._given
        offsets, at = np.arange(steps) * batch, self._first
        if self.batch_sizes is not None:
            counts = np.array(self.batch_sizes)
            offsets, lengths = np.cumsum(counts) - counts, _lengths(counts)
        elif lengths is None:
            lengths = np.full(batch, steps)
        cuts = np.zeros((batch, steps), bool)
        if resets is not None:
            cuts |= resets.T
        first = lengths > 0
        reset_first = cuts[:, 0] & first
        cuts[:, 0] = first
        row, begin = np.nonzero(cuts)  # by row, then by step
        final = np.append(row[1:] != row[:-1], True)[: len(row)]  # of its row
        end = np.where(final, lengths[row], np.append(begin[1:], 0)[: len(row)])
        given = final if reverse else (begin == 0) & ~reset_first[row]
        initial = np.where(given, row, batch)
        ending = np.zeros(batch, int)
        chosen = (begin == 0) if reverse else final

        sort = np.argsort(begin - end, kind="stable")  # the longest first
        rank = np.empty_like(sort)
        rank[sort] = np.arange(len(sort))
        ending[row[chosen]] = rank[chosen]
        length = end - begin
        sizes = _counts(length, int(length.max(initial=0)))
        segment = np.repeat(np.arange(len(row)), length)
        within = np.arange(len(segment)) - np.repeat(np.cumsum(length) - length, length)
        t = end[segment] - 1 - within if reverse else begin[segment] + within
        rows = np.empty(len(segment), int)
        rows[(np.cumsum(sizes) - sizes)[within] + rank[segment]] = (
            offsets[t] + at[row[segment]]
        )
        tensors = rows, sizes, initial[sort], ending, ~first[:, None]
        return Segments(*map(torch.from_numpy, tensors))


def _check_lengths(lengths: np.ndarray, steps: int) -> None:
    wrong = np.flatnonzero((lengths < 0) | (lengths > steps))
    if len(wrong):
        row = int(wrong[0])
        raise ArgumentError(
            f"[lengths] a length counts steps of x; received {int(lengths[row])} for "
            f"row {row}, expected 0 … {steps}"
        )


def _check_starts(starts: np.ndarray, lengths: np.ndarray | None, steps: int) -> None:
    ends = starts if lengths is None else starts + lengths
    wrong = np.flatnonzero((starts < 0) | (ends > steps))
    if not len(wrong):
        return
    row = int(wrong[0])
    start, end, most = int(starts[row]), int(ends[row]), steps
    of_length = ""
    if lengths is not None:
        most -= int(lengths[row])
        of_length = f", of length {end - start} in {steps} steps"
    raise ArgumentError(
        f"[starts] a row's real steps are steps of x, starts … starts + lengths - 1; "
        f"received {start} for row {row}{of_length}, expected 0 … {most}"
    )


def _as_booleans(resets: np.ndarray) -> np.ndarray:
    if resets.dtype != bool:
        wrong = np.argwhere((resets < 0) | (resets > 1))
        if len(wrong):
            step, row = wrong[0].tolist()
            raise ArgumentError(
                "[resets] a reset is a boolean, or 0 or 1; received "
                f"{resets[step, row]} at step {step} of row {row}"
            )
    return resets.astype(bool)
