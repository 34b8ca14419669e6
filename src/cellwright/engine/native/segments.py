"""Training with states that are matrices: a scan in segments, for its memory.

The states of every step of a matrix are large: 4 heads of 64 take 64 KB a step and
row. So the forward scan keeps none of them, but the states at which each segment of
steps starts. The backward scan takes segment after segment, from the last: it runs the
segment forward once more, and then backward. A long segment is cut in the same way
again.

However many the steps are, that holds at most the states of `AT_ONCE` bytes, or of
`LEAST_STEPS` steps, and as many again for each time that segments are cut. A scan of at
most `UNCUT` times as much is not cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...compiler.chunkwise import STEPS
from ..programs import Programs
from ..schedule import SequenceBatch
from .sequences import SequenceScan

AT_ONCE = 20 << 20  # bytes of states
LEAST_STEPS = 8
UNCUT = 3


class Segment(NamedTuple):
    """Steps [first, last) of a batch, and the rows that lie there.

    Attributes:
        begin, end: where its rows begin and end along the first axis of a sequence.
        batch: what is said of them alone.
    """

    first: int
    last: int
    begin: int
    end: int
    batch: SequenceBatch


def segment_steps(
    programs: Programs, steps: int, batch: int, element: int, nested: bool = False
) -> int | None:
    """How many steps a segment has, so that there are not too many segments, if each
    may be cut again; `None`: the scan is not cut."""
    if not batch or not any(programs.matrices) or programs.items:
        return None
    first = batch * sum(programs.sizes) * element  # what a segment starts from
    most = segments = max(LEAST_STEPS, AT_ONCE // first)
    if any(programs.spaced):
        held = batch * sum(_numbers_of_states(programs, STEPS, batch=1)) * element
        most = STEPS * max(1, AT_ONCE // held)
    if steps <= (1 if nested else UNCUT) * most:
        return None
    length = max(most, -(-steps // segments))
    return -(-length // STEPS) * STEPS if any(programs.spaced) else length


def scan_of(
    programs: Programs,
    batch: SequenceBatch,
    reverse: bool,
    learned: bool,
    element: int,
    nested: bool = False,
) -> SequenceScan | SegmentedScan:
    """The scan of a batch that trains: in segments where its states are too large.

    Args:
        element: bytes of a number.
        nested: it is a segment of another.
    """
    length = segment_steps(programs, batch.steps, batch.batch, element, nested)
    if length is not None:
        return SegmentedScan(programs, batch, reverse, learned, length)
    return SequenceScan(programs, batch.schedule(reverse, learned))


def saved_numbers(
    programs: Programs, steps: int, batch: int, rows: int, element: int
) -> int:
    """How many numbers training saves of states and values: from shapes alone.

    Args:
        rows: of all steps, fewer than steps · batch where they are packed.
    """
    length = segment_steps(programs, steps, batch, element)
    if length is not None:
        return -(-steps // length) * batch * sum(programs.sizes)
    states = _numbers_of_states(programs, steps, batch, rows)
    return sum(states) + rows * sum(programs.plan.saved_sizes())


def _numbers_of_states(
    programs: Programs, steps: int, batch: int, rows: int | None = None
) -> list[int]:
    """How many numbers training keeps of each state but the output."""
    rows = steps * batch if rows is None else rows
    spaced = -(-steps // STEPS) * batch
    pairs = zip(programs.hidden, programs.spaced, strict=True)
    return [size * (spaced if every else rows) for size, every in pairs]


class SegmentedScan:
    """As `SequenceScan`, of the same tensors.

    Args:
        length: the steps of a segment.
    """

    def __init__(
        self,
        programs: Programs,
        batch: SequenceBatch,
        reverse: bool,
        learned: bool,
        length: int,
    ) -> None:
        self.programs, self.batch = programs, batch.copy()  # the backward scan's too
        self.reverse, self.learned, self.length = reverse, learned, length
        self.whole = SequenceScan(programs, batch.schedule(reverse, learned))

    @cached_property
    def segments(self) -> list[Segment]:
        """In the order of the scan."""
        length, steps = self.length, self.batch.steps
        found = [
            _segment(self.batch, t, min(t + length, steps))
            for t in range(0, steps, length)
        ]
        return found[::-1] if self.reverse else found

    # -- forward

    def forward(
        self, tensors: Sequence[Tensor | None], training: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As `SequenceScan.forward`; it saves the states before each segment."""
        if not training:
            return self.whole.forward(tensors, False)
        parts = self.whole.parts(tensors)
        like = parts[0][0]
        states = self.programs.filled(parts[1], like, self.batch.batch)
        shapes = [s.shape for s in states]
        states = [s.reshape(self.batch.batch, -1).clone() for s in states]
        sequences: list[Tensor] = []  # the output and the recorded values
        saved = []
        for segment in self.segments:
            self._restart(segment, states, parts[2])
            saved += [s.clone() for s in states]
            scan = SequenceScan(self.programs, self._schedule(segment))
            rows = segment.batch.batch
            given = self._given(segment, parts, [s[:rows] for s in states])
            (y, *results), _ = scan.forward(given, False)
            finals, records = results[: len(states)], results[len(states) :]
            for state, final in zip(states, finals, strict=True):
                state[:rows] = final
            if not sequences:
                length = like.shape[0]
                sequences = [r.new_zeros(length, *r.shape[1:]) for r in (y, *records)]
            for whole, part in zip(sequences, (y, *records), strict=True):
                whole[segment.begin : segment.end] = part
        y, *records = sequences
        finals = [s.view(shape) for s, shape in zip(states, shapes, strict=True)]
        kept = torch.cat([s.reshape(-1) for s in saved])
        return [y, *finals, *records], [y, kept]

    def _schedule(self, segment: Segment) -> Any:
        return segment.batch.schedule(self.reverse, self.learned)

    def _given(
        self, segment: Segment, parts: Sequence[list[Any]], states: Sequence[Tensor]
    ) -> list[Any]:
        """The tensors of a segment's scan."""
        sources, _, resets, parameters, taps = parts
        rows, schedule = segment.batch.batch, self._schedule(segment)
        once = {*self.programs.constant, *self.programs.static}
        inputs = [
            source[:rows] if name in once else source[segment.begin : segment.end]
            for name, source in zip(self.programs.sources, sources, strict=True)
        ]
        fresh = resets if schedule.resets is not None else []
        taps = [tap[segment.begin : segment.end] for tap in taps]
        return [*inputs, *states, *fresh, *parameters, *taps]

    def _cuts(self, segment: Segment) -> Tensor | None:
        """(B, 1) the rows that start anew between a segment and the one that the scan
        has come from; in a reverse scan the segment's own first step says so."""
        batch, at = segment.batch, segment.last
        resets = self.batch.resets
        if not self.reverse or resets is None or at == self.batch.steps:
            return None
        cuts = resets[at].to(torch.bool)
        starts, ends = _bounds(self.batch)
        cuts = cuts & (starts < at) & (at < ends)
        return cuts[:, None] if bool(cuts.any()) and batch.batch else None

    def _restart(
        self, segment: Segment, states: list[Tensor], resets: Sequence[Tensor]
    ) -> None:
        cuts = self._cuts(segment)
        if cuts is not None:
            for k, fresh in enumerate(resets):
                states[k] = torch.where(cuts, fresh, states[k])

    # -- backward

    def backward(
        self,
        tensors: Sequence[Tensor | None],
        saved: Sequence[Tensor],
        grads: Sequence[Tensor | None],
        needed: Sequence[bool],
    ) -> list[Any]:
        """As `SequenceScan.backward`."""
        parts = self.whole.parts(tensors)
        count = len(self.programs.sizes)
        carried = self._carried(grads[1 : 1 + count], parts)
        of_rows = [grads[0], *grads[1 + count :]]  # gradients of sequences
        total = _Total(self, parts)
        sizes = [self.batch.batch * size for size in self.programs.sizes]
        firsts = torch.split(saved[1], sizes * len(self.segments))
        for number, segment in reversed([*enumerate(self.segments)]):
            rows = segment.batch.batch
            own = firsts[number * count : (number + 1) * count]
            states = [s.view(self.batch.batch, -1)[:rows] for s in own]
            given = self._given(segment, parts, states)
            scan = scan_of(
                self.programs,
                segment.batch,
                self.reverse,
                self.learned,
                states[0].element_size(),
                nested=True,
            )
            _, values = scan.forward(given, True)
            cotangents = [
                g if g is None else g[segment.begin : segment.end] for g in of_rows
            ]
            finals = [c[:rows] for c in carried]
            wanted = self._wanted(needed, parts, segment)
            y, *records = cotangents
            found = scan.backward(given, values, [y, *finals, *records], wanted)
            total.add(segment, found)
            for own, gradient in zip(carried, total.of_states, strict=True):
                own[:rows] = gradient
            self._to_resets(segment, carried, total)
        return total.gradients(carried)

    def _carried(
        self, grads: Sequence[Tensor | None], parts: Sequence[list[Any]]
    ) -> list[Tensor]:
        batch, like = self.batch.batch, parts[0][0]
        return [
            like.new_zeros(batch, size)
            if grad is None
            else grad.reshape(batch, size).clone()
            for grad, size in zip(grads, self.programs.sizes, strict=True)
        ]

    def _wanted(
        self, needed: Sequence[bool], parts: Sequence[list[Any]], segment: Segment
    ) -> list[bool]:
        """For each tensor of a segment's scan, whether its gradient is wanted: of its
        states, always."""
        counts = [len(part) for part in parts]
        ends = list(accumulate(counts))
        sources = list(needed[: ends[0]])
        resets = list(needed[ends[1] : ends[2]])
        if self._schedule(segment).resets is None:
            resets = []
        return [*sources, *(True,) * counts[1], *resets, *needed[ends[2] :]]

    def _to_resets(
        self, segment: Segment, carried: list[Tensor], total: _Total
    ) -> None:
        """What reaches a state that a cut has replaced is the reset state's."""
        cuts = self._cuts(segment)
        if cuts is not None:
            for k, own in enumerate(carried):
                total.of_resets[k] = total.of_resets[k] + (own * cuts).sum(0)
                carried[k] = torch.where(cuts, 0, own)

    def reference(self, tensors: Sequence[Any]) -> list[Tensor]:
        """As `SequenceScan.reference`."""
        return self.whole.reference(tensors)


class _Total:
    """The gradients of a scan, from those of its segments.

    Attributes:
        of_states: of the last segment's first states.
        of_resets: of the reset states.
    """

    def __init__(self, scan: SegmentedScan, parts: Sequence[list[Any]]) -> None:
        self.scan, self.parts = scan, parts
        self.of_sources: list[Any] = [None] * len(parts[0])
        self.of_states: list[Tensor] = []
        self.of_resets: list[Any] = [p.new_zeros(p.shape) for p in parts[2]]
        self.of_parameters: list[Any] = [None] * len(parts[3])
        self.of_taps: list[Any] = [None] * len(parts[4])

    def add(self, segment: Segment, found: Sequence[Any]) -> None:
        programs, rest = self.scan.programs, list(found)

        def take(count: int) -> list[Any]:
            taken, rest[:] = rest[:count], rest[count:]
            return taken

        once = {*programs.constant, *programs.static}
        for k, gradient in enumerate(take(len(self.of_sources))):
            by_rows = programs.sources[k] in once
            self._place(self.of_sources, self.parts[0], k, segment, gradient, by_rows)
        self.of_states = take(len(programs.sizes))
        if self.scan._schedule(segment).resets is not None:
            for k, gradient in enumerate(take(len(self.of_resets))):
                if gradient is not None:
                    self.of_resets[k] = self.of_resets[k] + gradient
        for k, gradient in enumerate(take(len(self.of_parameters))):
            if gradient is not None:
                old = self.of_parameters[k]
                self.of_parameters[k] = gradient if old is None else old.add_(gradient)
        for k, gradient in enumerate(take(len(self.of_taps))):
            self._place(self.of_taps, self.parts[4], k, segment, gradient, False)

    def _place(
        self,
        into: list[Any],
        like: Sequence[Tensor],
        k: int,
        segment: Segment,
        gradient: Tensor | None,
        by_rows: bool,
    ) -> None:
        """A segment's rows of a sequence; or, of what is given once, a sum by rows."""
        if gradient is None:
            return
        if into[k] is None:
            into[k] = gradient.new_zeros(like[k].shape)
        if by_rows:
            into[k][: segment.batch.batch] += gradient
        else:
            into[k][segment.begin : segment.end] = gradient

    def gradients(self, carried: Sequence[Tensor]) -> list[Any]:
        """Of every tensor of the whole scan."""
        states = [
            None if state is None else found.view(state.shape)
            for found, state in zip(carried, self.parts[1], strict=True)
        ]
        return [
            *self.of_sources,
            *states,
            *self.of_resets,
            *self.of_parameters,
            *self.of_taps,
        ]


def _bounds(batch: SequenceBatch) -> tuple[Tensor, Tensor]:
    """(B,) the steps at which each row begins and ends."""
    starts = torch.zeros(batch.batch, dtype=torch.long)
    if batch.starts is not None:
        starts = batch.starts.to("cpu", torch.long)
    ends = torch.full((batch.batch,), batch.steps)
    if batch.lengths is not None:
        ends = starts + batch.lengths.to("cpu", torch.long)
    return starts, ends


def _segment(batch: SequenceBatch, first: int, last: int) -> Segment:
    if batch.batch_sizes is not None:
        sizes = batch.batch_sizes
        begin, end = sum(sizes[:first]), sum(sizes[:last])
        part = SequenceBatch(last - first, sizes[first], batch_sizes=sizes[first:last])
        return Segment(first, last, begin, end, part)
    resets = None if batch.resets is None else batch.resets[first:last]
    lengths = starts = None
    if batch.lengths is not None or batch.starts is not None:
        starts, ends = (b.clamp(first, last) - first for b in _bounds(batch))
        lengths = ends - starts
        starts = None if batch.starts is None else torch.where(lengths > 0, starts, 0)
    part = SequenceBatch(
        last - first, batch.batch, lengths=lengths, resets=resets, starts=starts
    )
    return Segment(first, last, first, last, part)
