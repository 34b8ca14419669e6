"""A cell's programs over the rows of one sequence batch, on the core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..bound_weights import BoundWeights
from ..items import ItemBatch
from ..programs import Programs
from ..reference import scan_graph
from ..reference_items import Members
from ..schedule import Schedule
from ..tracing import readable
from .core import Memory, memory, run_core
from .gradient_memory import allocate_gradients
from .items import count_of
from .kept import Kept, MemoryPlan, new_array, new_empty, placed, plan_memory
from .recorded import Recorded


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

    # -- memory

    def _plan(
        self, programs: Programs, dtype: torch.dtype, training: bool
    ) -> MemoryPlan:
        """The memory that these programs take of the scan, of x in a type."""
        schedule = self.schedule
        if self.sets:  # as many as there are in this call
            return self._new_plan(programs, dtype, training)
        plans = programs.made(("memory", dtype, training), WeakKeyDictionary)
        found = plans.get(schedule)
        if found is None:
            found = plans[schedule] = self._new_plan(programs, dtype, training)
        return found

    def _new_plan(
        self, programs: Programs, dtype: torch.dtype, training: bool
    ) -> MemoryPlan:
        schedule, counts = self.schedule, []
        for size, over in programs.saved_values if training else ():
            rows = schedule.rows
            if over is not None:
                rows = schedule.steps * count_of(self.sets[over])
            counts.append(size * rows)
        return plan_memory(programs, schedule, counts, training, dtype)

    def _arrays(
        self, given: list[Memory], y: Tensor, states: list[Memory], apart: bool
    ) -> list[Memory]:
        """The program's arrays up to the saved values: each state beside its initial
        rows.

        Args:
            given: sources and initial states.
            states: those with memory of their own.
            apart: y is no state's.
        """
        first, output = len(self.programs.sources), memory((y,))
        is_state = self.programs.output_is_state and not apart
        arrays = given[:first]
        sequences = output + states if is_state else states
        for pair in zip(sequences, given[first:], strict=True):
            arrays += pair
        return arrays if is_state else arrays + output

    @property
    def recorded(self) -> Recorded:
        return Recorded(*self)

    def _run(
        self,
        program: Any,
        arrays: Sequence[Memory],
        weights: tuple[Sequence[Memory], Sequence[Memory]],
        read: Sequence[Tensor | None],
        finals: Sequence[tuple[int, int, int, int]] = (),
    ) -> None:
        """Run a compiled program on the core: as `run_core`."""
        core, number = self.schedule.core, self.programs.number
        if self.sets:
            names = self.programs.graph.item_sets
            core = core.with_items(*(self.sets[name].offsets for name in names))
        element = number.itemsize if number else read[0].element_size()  # type: ignore[union-attr]
        isa = self.programs.isa
        run_core(program, core, element, arrays, weights, finals, isa, read)

    # -- forward

    def forward(
        self, tensors: Sequence[Tensor | None], training: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The outputs, the final states and the recorded values; and what `backward`
        reads, if `training`.

        The final states are shaped as the initial ones.
        """
        programs, read = self.fitting(training), self._read(tensors)
        x, given, first = read[0], memory(read), len(programs.sources)
        last = first + len(programs.sizes)
        states = tensors[first:last]
        plan = self._plan(programs, x.dtype, training)
        kept = plan.allocate(x)
        y, finals = self._results(plan, x, states)
        records = self.recorded.allocate(x) if programs.recorded else []
        arrays = self._arrays(given[:last], y, kept.of_states, plan.apart)
        arrays += kept.values
        if records:
            arrays += memory(records)
        program = programs.compiled("training" if training else "inference")
        weights = given[last:], ()
        self._run(program, arrays, weights, read, plan.final_copies(finals))
        if plan.copies is None:
            self._gather(plan, finals, y, kept)
        if self.schedule.empty is not None:
            self._keep_empty(finals, states)
        if programs.plan.rounds == "values":
            y = y.to(programs.kept_as)
            if training:
                kept.round_states()
        if records:
            records = self.recorded.in_columns(records)
        return [y, *finals, *records], [y, *kept.saved] if training else []

    def _results(
        self, plan: MemoryPlan, x: Tensor, states: Sequence[Tensor | None]
    ) -> tuple[Tensor, list[Tensor]]:
        """New tensors for y and the final states."""
        programs, schedule = self.programs, self.schedule
        shape = *x.shape[:-1], programs.output_size
        y = new_array(schedule, x, shape, plan.output)
        batch, number = schedule.batch, plan.number
        return y, [
            new_empty(x, (1, batch, size) if state is None else state.shape, number)
            for state, size in zip(states, programs.sizes, strict=True)
        ]

    def _gather(
        self, plan: MemoryPlan, finals: Sequence[Tensor], y: Tensor, kept: Kept
    ) -> None:
        """The final states where each row has its own last step."""
        values = [y] if len(plan.states) < len(finals) else []  # it has every level
        if plan.states:
            assert kept.levels is not None
            counts = [piece.numbers for piece in plan.states]
            values += kept.levels[: sum(counts)].split(counts)
        for final, value, rows in zip(finals, values, plan.ends, strict=True):
            size = final.shape[-1]
            torch.index_select(value.view(-1, size), 0, rows, out=final.view(-1, size))

    def _keep_empty(
        self, finals: Sequence[Tensor], states: Sequence[Tensor | None]
    ) -> None:
        """A row without a step ends where it started."""
        rows = self.schedule.empty
        for final, state in zip(finals, states, strict=True):
            final[..., rows, :] = state[..., rows, :]  # type: ignore[index]

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
        first = len(programs.sources)
        last = first + len(programs.sizes)
        y, *kept = saved
        read = self._read(tensors)
        if programs.kept_as is not None:  # initial rows are as those that follow
            for k, state in enumerate(read[first:last], first):
                read[k] = None if state is None else state.to(programs.kept_as)
        given = memory(read)
        own = allocate_gradients(self, read, y, grads, needed)
        plan, hidden = self._plan(programs, y.dtype, True), len(programs.hidden)
        pieces = placed(plan.pieces, kept)
        arrays = self._arrays(given[:last], y, pieces[:hidden], apart=False)
        arrays += pieces[hidden:] + own.arrays()
        program = programs.compiled("backward", own.wanted)
        weights = given[last:], memory(own.parameters)
        self._run(program, arrays, weights, read)
        of_sources, of_parameters = own.arrived(programs)
        of_states, of_resets = own.states.found(schedule, tensors[first:last])
        of_taps = self.recorded.in_columns(own.totals) if own.totals else []
        return [*of_sources, *of_states, *of_resets, *of_parameters, *of_taps]

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
