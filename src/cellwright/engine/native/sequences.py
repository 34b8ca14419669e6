"""A cell's programs over the rows of one sequence batch, on the core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..bound_weights import BoundWeights
from ..items import ItemBatch
from ..programs import Programs
from ..reference import scan_graph
from ..reference_items import Members
from ..schedule import Schedule
from ..tracing import readable
from .core import Memory, cut, memory, run_core
from .items import ItemColumns
from .kept import Kept, allocate, cut_saved, new_empty


class SequenceScan(NamedTuple):
    """One scan: programs over a schedule.

    Its tensors are, in order: x and the named inputs, one row (…, size) for each of the
    schedule, or of the batch where an input is constant or static; the items, one row
    after the other of the batch's rows; the initial states,
    (B, size) or (1, B, size) each, or `None` for zeros (1, B, size) where the schedule
    is whole; with resets in the schedule, the reset states, (size,) each; the
    parameters, as the binding lists them; with tapped programs, the taps.
    """

    programs: Programs
    schedule: Schedule
    sets: Mapping[str, ItemBatch] = {}  # how many items each row of the batch has

    def fitting(self, training: bool) -> Programs:
        """Its programs, as they are for so many rows."""
        levels = len(self.schedule.counts)
        return self.programs.for_rows(self.schedule.batch, levels, training)

    def parts(self, tensors: Sequence[Any]) -> list[list[Any]]:
        """Sources (inputs, then items), initial states, reset states, parameters and
        taps."""
        programs, rest = self.programs, iter(tensors)
        states = len(programs.sizes)
        resets = 0 if self.schedule.resets is None else states
        counts = len(programs.sources), states, resets, len(programs.binding.parameters)
        return [*(list(islice(rest, n)) for n in counts), list(rest)]

    def _read(self, tensors: Sequence[Any]) -> list[Any]:
        """Inputs, initial states and parameters as the core reads them.

        The reset states become the initial states' last row.
        """
        if self.schedule.resets is not None:
            inputs, states, resets, parameters, _ = self.parts(tensors)
            states = [
                torch.cat([s.reshape(-1, s.shape[-1]), f[None]])
                for s, f in zip(states, resets, strict=True)
            ]
            return readable([*inputs, *states, *parameters])
        if self.programs.tapped:
            tensors = tensors[: len(tensors) - len(self.programs.recorded)]
        return readable(tensors)

    # -- forward

    def forward(
        self, tensors: Sequence[Tensor | None], training: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The outputs, the final states and the recorded values; and what `backward`
        reads, if `training`.

        The final states are shaped as the initial ones.
        """
        programs, schedule = self.fitting(training), self.schedule
        read = self._read(tensors)
        x, first = read[0], len(programs.sources)
        last = first + len(programs.sizes)
        states, number = tensors[first:last], programs.number
        counts = self._counts(programs.saved_values) if training else []
        kept = allocate(programs, schedule, x, counts, training)
        apart = programs.plan.rounds == "states"
        y = _new(
            schedule,
            x,
            *(*x.shape[:-1], programs.output_size),
            dtype=programs.kept_as if apart else number,
        )
        records = self._records(x) if programs.recorded else []
        finals = [
            new_empty(
                x, (1, schedule.batch, size) if state is None else state.shape, number
            )
            for state, size in zip(states, programs.sizes, strict=True)
        ]
        # Where all rows end at one step, the core copies them.
        together = isinstance(schedule.last, int)
        copies = self._copies(finals, kept.ends) if together else ()
        given = memory(read)
        arrays = self._arrays(given[:last], y, kept.of_states, kept.values, apart)
        arrays += memory(records)
        run_core(
            programs.compiled("training" if training else "inference"),
            self._core,
            _bytes(programs, x),
            arrays,
            (given[last:], ()),
            copies,
            programs.isa,
            read,
        )
        if not together:
            self._gather(finals, y, kept)
        if programs.plan.rounds == "values":
            y = y.to(programs.kept_as)
            if training:
                kept.round_states()
        if schedule.empty is not None:
            for final, state in zip(finals, states, strict=True):
                final[..., schedule.empty, :] = state[..., schedule.empty, :]  # type: ignore[index]
        records = self._columns(records) if records else []
        results = [y, *finals, *records]
        return results, [y, *kept.saved] if training else []

    def _arrays(
        self,
        given: list[Memory],
        y: Tensor,
        states: list[Memory],
        values: list[Memory],
        apart: bool = False,
    ) -> list[Any]:
        """The program's arrays up to the saved values: each state beside its initial
        rows; `apart`: y is no state's."""
        first, output = len(self.programs.sources), memory([y])
        is_state = self.programs.output_is_state and not apart
        arrays = given[:first]
        sequences = output + states if is_state else states
        for state, initial in zip(sequences, given[first:], strict=True):
            arrays += (state, initial)
        return arrays + ([] if is_state else output) + values

    def _copies(
        self, finals: Sequence[Tensor], ends: Sequence[Any]
    ) -> list[tuple[int, int, int, int]]:
        """The final states as the core copies them: all rows of a state's last step."""
        programs, schedule, _ = self
        batch, array, copies = schedule.batch, len(programs.sources), []
        if len(ends) < len(finals):  # y keeps every level
            ends = [schedule.last, *ends]
        for final, end in zip(finals, ends, strict=True):
            copies.append((array, end * batch, final.data_ptr(), final.numel()))
            array += 2
        return copies

    def _gather(
        self,
        finals: Sequence[Tensor],
        y: Tensor,
        kept: Kept,
    ) -> None:
        """The final states where each row has its own last step."""
        at, values, ends = 0, [], kept.ends
        if len(ends) < len(finals):  # y has every level
            values, ends = [y], [self.schedule.last, *ends]
        for part in kept.of_states:
            assert part is not None
            assert kept.levels is not None
            values.append(kept.levels[at : at + part[1]])
            at += part[1]
        for final, value, where in zip(finals, values, ends, strict=True):
            size = final.shape[-1]
            torch.index_select(value.view(-1, size), 0, where, out=final.view(-1, size))

    def _records(self, x: Tensor) -> list[Tensor]:
        """New arrays, one for each recorded value."""
        schedule = self.schedule
        shapes = [
            (
                *(
                    x.shape[:-1]
                    if over is None
                    else (schedule.steps, self._items(over))
                ),
                size,
            )
            for size, over in self.programs.recorded_values
        ]
        dtype = self.programs.number
        return [_new(schedule, x, *shape, dtype=dtype) for shape in shapes]

    def _columns(self, records: Sequence[Tensor]) -> list[Tensor]:
        """Recorded values, or their gradients, as engines give them."""
        return [
            record
            if over is None
            else ItemColumns(self.sets[over], self.schedule).padded(record)
            for record, (_, over) in zip(
                records, self.programs.recorded_values, strict=True
            )
        ]

    def _items(self, name: str) -> int:
        """How many there are of a set, of all rows of the batch."""
        return int(self.sets[name].offsets[-1])

    @property
    def _core(self) -> Any:
        """The schedule as the core has it, over the items."""
        names = self.programs.graph.item_sets
        core = self.schedule.core
        return (
            core.with_items(*(self.sets[n].offsets for n in names)) if names else core
        )

    def _counts(self, values: Sequence[tuple[int, str | None]]) -> list[int]:
        """How many numbers there are of each value, at all steps."""
        rows, steps = self.schedule.rows, self.schedule.steps
        return [
            size * (rows if over is None else steps * self._items(over))
            for size, over in values
        ]

    # -- backward

    def backward(
        self,
        tensors: Sequence[Tensor | None],
        saved: Sequence[Tensor],
        grads: Sequence[Tensor | None],
        needed: Sequence[bool],
    ) -> list[Any]:
        """The gradient of every tensor; `None` where it is not needed, or none arrives.

        Args:
            tensors: as `forward` took them.
            saved: what it gave in training.
            grads: of the outputs, the final states and the recorded values; they may be
                `None`.
            needed: for each tensor, whether its gradient is wanted.
        """
        programs, schedule = self.fitting(True), self.schedule
        read = self._read(tensors)
        first, count = len(programs.sources), len(programs.sizes)
        last = first + count
        (y, *kept), (grad_y, *rest) = saved, grads
        if programs.kept_as is not None:
            dtypes = [y.dtype, *(kept[0].dtype for _ in programs.hidden)]
            self._round(read, first, dtypes)
        wanted = tuple(
            name for name, need in zip(programs.sources, needed, strict=False) if need
        )
        grad_y = torch.zeros_like(y) if grad_y is None else readable([grad_y])[0]
        of_states = any(needed[first:last]) or not schedule.whole
        like = read[0].new_empty(0, dtype=programs.number)
        carried, initial, pairs = self._carry(rest[:count], of_states, like)
        of_inputs = self._input_gradients(read, wanted)
        gradients = [torch.empty_like(p) for p in read[last:]]
        taps, totals = (
            self._taps(read[0], rest[count:]) if programs.tapped else ([], [])
        )
        counts = self._counts(programs.saved_values)
        of_kept = cut_saved(programs, schedule, counts, kept)
        hidden = len(programs.hidden)
        given = memory(read)
        arrays = self._arrays(given[:last], y, of_kept[:hidden], of_kept[hidden:])
        # Of weights that are matrices, each row of the batch has its own.
        of_weights = {
            number: like.new_zeros(schedule.batch, read[last + number].numel())
            for number in programs.matrix_weights.values()
        }
        arrays += [
            *memory([grad_y]),
            *pairs,
            *memory([*of_inputs, *of_weights.values()]),
        ]
        arrays += memory([*taps, *totals])
        run_core(
            programs.compiled("backward", wanted),
            self._core,
            _bytes(programs, read[0]),
            arrays,
            (given[last:], memory(gradients)),
            (),
            programs.isa,
            read,
        )
        for number, found in of_weights.items():
            gradients[number] = found.sum(0).view(gradients[number].shape)
        states = tensors[first:last]
        of_states, of_resets = self._state_gradients(states, carried, initial)
        found = iter(of_inputs)
        arrived, gradients = programs.arriving(
            [next(found) if name in wanted else None for name in programs.sources],
            gradients,
        )
        totals = self._columns(totals) if totals else []
        return [*arrived, *of_states, *of_resets, *gradients, *totals]

    def _round(
        self, read: list[Any], first: int, dtypes: Sequence[torch.dtype]
    ) -> None:
        """The initial states as the rows that follow them are kept."""
        if not self.programs.output_is_state:
            dtypes = dtypes[1:]
        for k, dtype in enumerate(dtypes, first):
            read[k] = None if read[k] is None else read[k].to(dtype)

    def _input_gradients(
        self, read: Sequence[Any], wanted: Sequence[str]
    ) -> list[Tensor]:
        """Arrays for those of the wanted inputs."""
        programs, whole = self.programs, self.schedule.batch_rows is None
        added = {*programs.static, *programs.items}  # to what is there
        return [
            torch.empty_like(source)
            if whole and name not in added
            else torch.zeros_like(source)
            for name, source in zip(programs.sources, read, strict=False)
            if name in wanted
        ]

    def _taps(
        self, x: Tensor, grads: Sequence[Tensor | None]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The recorded values' own cotangents, and arrays for their whole gradients."""
        totals = self._records(x)
        own = [
            torch.zeros_like(t) if grad is None else readable([grad])[0]
            for t, grad in zip(totals, self._rows_of(grads), strict=True)
        ]
        return own, totals

    def _rows_of(self, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The opposite of `_columns`."""
        return [
            grad
            if over is None or grad is None
            else ItemColumns(self.sets[over], self.schedule).packed(grad, size)
            for grad, (size, over) in zip(
                grads, self.programs.recorded_values, strict=True
            )
        ]

    def _carry(
        self, grads: Sequence[Tensor | None], wanted: bool, like: Tensor
    ) -> tuple[list[Tensor], list[Tensor], list[Memory]]:
        """The cotangents that are carried from each final state to the initial one.

        Returns:
            Those of the final states, which the core changes; those of the initial
            ones, for the core to fill; the memory of both, state by state. Where nobody
            gives and nobody wants them, they are one piece of memory, the first list.
        """
        schedule, sizes = self.schedule, self.programs.sizes
        batch = schedule.batch
        if not wanted and all(grad is None for grad in grads):
            room = like.new_zeros(2 * batch * sum(sizes))
            pairs = cut(room, [batch * size for size in sizes for _ in range(2)])
            return [room], [], pairs
        carried = [
            like.new_zeros(batch, size)
            if grad is None
            else grad.clone(memory_format=torch.contiguous_format)
            for grad, size in zip(grads, sizes, strict=True)
        ]
        make = like.new_empty if schedule.whole else like.new_zeros
        rows = schedule.gradient_rows or batch
        initial = [make(rows, size) for size in sizes]
        both = zip(carried, initial, strict=True)
        return carried, initial, memory([t for pair in both for t in pair])

    def _state_gradients(
        self,
        states: Sequence[Tensor | None],
        carried: Sequence[Tensor],
        initial: Sequence[Tensor],
    ) -> tuple[list[Any], list[Any]]:
        """Those of the initial states and of the reset states."""
        schedule, batch = self.schedule, self.schedule.batch
        if not initial:
            return [None] * len(states), []
        of_states: list[Any] = [
            None if s is None else v[:batch].view(s.shape)
            for v, s in zip(initial, states, strict=True)
        ]
        if schedule.empty is not None:  # a row without a step ends where it started
            for found, final in zip(of_states, carried, strict=True):
                found[..., schedule.empty, :] = final[..., schedule.empty, :]
        if schedule.resets is None:
            return of_states, []
        return of_states, [v[batch:].sum(0) for v in initial]

    # -- by torch's own operations

    def reference(self, tensors: Sequence[Any]) -> list[Tensor]:
        """What `forward` gives, stepped in torch."""
        programs, schedule, sets = self
        tensors = [
            t if t is None or t.dtype is not programs.kept_as else t.to(programs.number)
            for t in tensors
        ]
        sources, states, resets, parameters, taps = self.parts(tensors)
        states = programs.filled(states, sources[0], schedule.batch)
        inputs, own = sources[: len(programs.inputs)], sources[len(programs.inputs) :]
        members = None
        if sets:
            named = dict(zip(programs.items, own, strict=True))
            members = Members(programs.graph, named, sets, schedule)
        W = BoundWeights(programs.graph, programs.binding, parameters)
        rows = [s.reshape(-1, s.shape[-1]) for s in states]
        parts = inputs, rows, resets, taps
        static = {*programs.constant, *programs.static}
        found = scan_graph(programs, W, parts, schedule, static, members)
        y, finals, records = found
        y = y.to(programs.kept_as or y.dtype)
        finals = [f.reshape(s.shape) for f, s in zip(finals, states, strict=True)]
        return [y, *finals, *records]


def _new(
    schedule: Schedule, like: Tensor, *shape: int, dtype: torch.dtype | None = None
) -> Tensor:
    """An array of the schedule's rows: zero where rows may be left out."""
    if schedule.batch_rows is None:
        return new_empty(like, shape, dtype)
    return like.new_zeros(shape, dtype=dtype)


def _bytes(programs: Programs, x: Tensor) -> int:
    """Of one of the core's own numbers."""
    return programs.number.itemsize if programs.number else x.element_size()
