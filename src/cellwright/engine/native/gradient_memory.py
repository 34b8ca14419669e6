"""The memory of a backward scan: cotangents that it reads, gradients that it writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..programs import Programs
from ..schedule import Schedule
from ..tracing import readable
from .core import Memory, cut, memory


class StateGradients(NamedTuple):
    """What is carried from the final states to the initial ones.

    Attributes:
        carried: the cotangents of the final states, which the core changes.
        initial: those of the initial ones, for the core to fill; none where nobody
            gives and nobody wants them: both are then one tensor, in `carried`.
        pairs: the memory of both, state by state.
    """

    carried: list[Tensor]
    initial: list[Tensor]
    pairs: list[Memory]

    def found(
        self, schedule: Schedule, states: Sequence[Tensor | None]
    ) -> tuple[list[Any], list[Any]]:
        """The gradients of the initial states, and of the reset states."""
        if not self.initial:
            return [None] * len(states), []
        batch = schedule.batch
        of_states: list[Any] = [
            None if s is None else v[:batch].view(s.shape)
            for v, s in zip(self.initial, states, strict=True)
        ]
        if schedule.empty is not None:  # a row without a step ends where it started
            for found, final in zip(of_states, self.carried, strict=True):
                found[..., schedule.empty, :] = final[..., schedule.empty, :]
        if schedule.resets is None:
            return of_states, []
        return of_states, [v[batch:].sum(0) for v in self.initial]


def state_gradients(
    programs: Programs,
    schedule: Schedule,
    grads: Sequence[Tensor | None],
    wanted: bool,
    like: Tensor,
) -> StateGradients:
    """The memory that goes from the final states to the initial ones.

    Args:
        grads: the final states' cotangents; they may be `None`.
        wanted: somebody wants the initial states' gradients.
        like: of the core's device, as x is.
    """
    batch, sizes, number = schedule.batch, programs.sizes, programs.number
    wanted = wanted or not schedule.whole
    if not wanted and all(grad is None for grad in grads):
        room = _zeros(like, (2 * batch * sum(sizes),), number)
        counts = [batch * size for size in sizes for _ in range(2)]
        return StateGradients([room], [], cut(room, counts))
    carried = [
        _zeros(like, (batch, size), number)
        if grad is None
        else grad.clone(memory_format=torch.contiguous_format)
        for grad, size in zip(grads, sizes, strict=True)
    ]
    make = like.new_empty if schedule.whole else like.new_zeros
    rows = schedule.gradient_rows or batch
    initial = [make((rows, size), dtype=number) for size in sizes]
    both = zip(carried, initial, strict=True)
    return StateGradients(carried, initial, memory([t for pair in both for t in pair]))


class GradientMemory(NamedTuple):
    """What a backward scan reads and writes beside the forward scan's.

    Attributes:
        output: the cotangent of y.
        states: see `StateGradients`.
        wanted: the inputs and items that need their gradients,
        sources: and arrays for these.
        matrices: by the number of a parameter that is a matrix of its own for each row
            of the batch: that of each, (B, elements).
        parameters: arrays for the parameters' gradients.
        taps: the recorded values' own cotangents,
        totals: and arrays for their whole gradients.
    """

    output: Tensor
    states: StateGradients
    wanted: tuple[str, ...]
    sources: list[Tensor]
    matrices: dict[int, Tensor]
    parameters: list[Tensor]
    taps: list[Tensor]
    totals: list[Tensor]

    def arrays(self) -> list[Memory]:
        """The program's arrays after what the forward scan has kept."""
        last = *self.sources, *self.matrices.values(), *self.taps, *self.totals
        return [*memory([self.output]), *self.states.pairs, *memory(last)]

    def arrived(self, programs: Programs) -> tuple[list[Any], list[Any]]:
        """The gradients of the sources and of the parameters."""
        for number, found in self.matrices.items():
            like = self.parameters[number]
            self.parameters[number] = found.sum(0).view(like.shape)
        found = iter(self.sources)
        of_sources = [
            next(found) if name in self.wanted else None for name in programs.sources
        ]
        return programs.arriving(of_sources, self.parameters)


def allocate_gradients(
    scan: Any, read: Sequence[Any], y: Tensor, grads: Sequence[Any], needed: Any
) -> GradientMemory:
    """The memory of a `SequenceScan`'s backward scan.

    Args:
        read: its tensors as the core reads them.
        y: the output.
        grads, needed: as `SequenceScan.backward` has them.
    """
    programs, schedule, x = scan.programs, scan.schedule, read[0]
    first, count = len(programs.sources), len(programs.sizes)
    last = first + count
    pairs = zip(programs.sources, needed, strict=False)
    wanted = tuple(name for name, need in pairs if need)
    of_states = any(needed[first:last])
    totals = scan.recorded.allocate(x) if programs.tapped else []
    batch, number = schedule.batch, programs.number
    return GradientMemory(
        torch.zeros_like(y) if grads[0] is None else readable(grads[:1])[0],
        state_gradients(programs, schedule, grads[1 : 1 + count], of_states, x),
        wanted,
        _of_sources(programs, schedule, read[:first], wanted),
        {
            k: x.new_zeros((batch, read[last + k].numel()), dtype=number)
            for k in programs.matrix_weights.values()
        },
        [torch.empty_like(p) for p in read[last:]],
        scan.recorded.cotangents(totals, grads[1 + count :]) if totals else [],
        totals,
    )


def _of_sources(
    programs: Programs,
    schedule: Schedule,
    sources: Sequence[Tensor],
    wanted: Sequence[str],
) -> list[Tensor]:
    """Arrays for the gradients of the wanted inputs and items."""
    whole = schedule.batch_rows is None
    added = {*programs.static, *programs.items}  # to what is there
    return [
        torch.empty_like(source)
        if whole and name not in added
        else torch.zeros_like(source)
        for name, source in zip(programs.sources, sources, strict=True)
        if name in wanted
    ]


def _zeros(like: Tensor, shape: tuple[int, ...], number: torch.dtype | None) -> Tensor:
    if number is None:  # torch's quicker way: see `kept.new_empty`
        return like.new_zeros(*shape)
    return like.new_zeros(*shape, dtype=number)
