"""The native engine over forests: the programs of a tree cell on the compiled core.

As in `native`, the core walks the levels; here a schedule says where children are. All
arrays have one row a node, in the forest's order: nothing is gathered beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..compiler.plan import Plan
from ..compiler.split import split_affines
from . import tracing, trees
from .native import BoundWeights, NativeCell, check_memory, memory
from .native_op import gradients_of
from .tracing import readable
from .trees import TreeSchedule


class NativeTreeCell(NativeCell):
    """The programs of a bound tree cell, compiled when they are first run."""

    @cached_property
    def plan(self) -> Plan:
        return Plan(*split_affines(self.graph, self.binding))

    @cached_property
    def of_child(self) -> tuple[bool, ...]:
        """Which of the saved values have a row for each child."""
        found = self.plan.graph.per_child
        return tuple(found[number] for number in self.plan.saved)

    def __reduce__(self) -> tuple[Any, ...]:
        return NativeTreeCell, (self.graph, self.binding, self.isa)

    def run_forward(
        self,
        inputs: Sequence[Tensor],
        parameters: Sequence[Tensor],
        schedule: TreeSchedule,
        training: bool,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The outputs, the states of all nodes, and what the backward walk will read.

        Args:
            inputs: x and the named inputs, (M, size) each, contiguous.
            parameters: as the binding lists them, contiguous.
            schedule: the forest's.
            training: keep what the backward walk reads.
        """
        like = inputs[0]
        count = len(schedule.nodes)
        states = [like.new_empty(count, size) for size in self.sizes]
        y = states[0]
        if not self.output_is_state:
            y = like.new_empty(count, self.output_size)
        saved = []
        if training:
            rows = [len(schedule.edges) if each else count for each in self.of_child]
            sizes = self.plan.saved_sizes()
            saved = [like.new_empty(n, s) for n, s in zip(rows, sizes, strict=True)]
        kind = "training" if training else "inference"
        self._run_tree(kind, (), inputs, states, y, saved, [], parameters, [], schedule)
        return y, states, saved

    def run_backward(
        self,
        inputs: Sequence[Tensor],
        parameters: Sequence[Tensor],
        y: Tensor,
        states: Sequence[Tensor],
        saved: Sequence[Tensor],
        grad_y: Tensor | None,
        grad_roots: Sequence[Tensor | None],
        schedule: TreeSchedule,
        wanted: tuple[str, ...],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Gradients of the wanted inputs and of the parameters."""
        grad_y = torch.zeros_like(y) if grad_y is None else readable([grad_y])[0]
        carried = [torch.zeros_like(state) for state in states]
        for whole, grad in zip(carried, grad_roots, strict=True):
            if grad is not None:
                whole[schedule.roots] = grad
        found = [
            torch.zeros_like(t)
            for name, t in zip(self.inputs, inputs, strict=True)
            if name in wanted
        ]
        gradients = [torch.empty_like(p) for p in parameters]
        own = [grad_y, *carried, *found]
        self._run_tree(
            "backward", wanted, inputs, states, y, saved, own, parameters, gradients,
            schedule,
        )  # fmt: skip
        return found, gradients

    def _run_tree(
        self,
        kind: str,
        wanted: tuple[str, ...],
        inputs: Sequence[Tensor],
        states: Sequence[Tensor],
        y: Tensor,
        saved: Sequence[Tensor],
        own: Sequence[Tensor],
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        schedule: TreeSchedule,
    ) -> None:
        """Hand everything to the core, in the order of the program's arrays."""
        output = [] if self.output_is_state else [y]
        arrays = [*inputs, *states, *output, *saved, *own]
        from .. import _core

        try:
            _core.run(
                self.program(kind, wanted),
                schedule.core,
                y.element_size(),
                memory(arrays),
                memory(parameters),
                memory(gradients),
                torch.get_num_threads(),
                self.isa,
            )
        except ValueError:
            check_memory([*arrays, *parameters])
            raise


def walk(
    cell: NativeTreeCell,
    inputs: Mapping[str, Tensor],
    parameters: Sequence[Tensor],
    schedule: TreeSchedule,
) -> tuple[Tensor, list[Tensor]]:
    """Walk a tree cell over a forest.

    Args:
        cell: its programs.
        inputs: x and the named inputs, (M, size) each.
        parameters: as the cell's binding lists them.
        schedule: of the forest, for this cell's arity.

    Returns:
        The outputs (N, output_size) in the forest's order, and the states of the
        roots.
    """
    return _eagerly(cell, inputs, parameters, schedule)


def _walk(
    cell: NativeTreeCell,
    inputs: Mapping[str, Tensor],
    parameters: Sequence[Tensor],
    schedule: TreeSchedule,
) -> tuple[Tensor, list[Tensor]]:
    sources = [inputs[name] for name in cell.inputs]
    dtype = parameters[0].dtype if parameters else sources[0].dtype
    sources = [t if t.dtype == dtype else t.to(dtype) for t in sources]  # autocast
    tensors = [*sources, *parameters]
    if tracing.way(tensors) != "memory":  # a forest is nothing that an op takes
        return _reference(cell, sources, parameters, schedule)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        count = len(sources)
        y, *roots = _TreeWalk.apply(cell, schedule, count, *tensors)  # type: ignore[misc]
        return y, roots
    keep = readable(tensors)
    count = len(sources)
    y, states, _ = cell.run_forward(keep[:count], keep[count:], schedule, False)
    return y, [state[schedule.roots] for state in states]


# A forest is no tensor: torch.compile breaks its graph here.
_eagerly: Any = torch.compiler.disable(_walk)


def _reference(
    cell: NativeTreeCell,
    sources: Sequence[Tensor],
    parameters: Sequence[Tensor],
    schedule: TreeSchedule,
) -> tuple[Tensor, list[Tensor]]:
    W = BoundWeights(cell.graph, cell.binding, parameters)
    named = dict(zip(cell.inputs, sources, strict=True))
    return trees.reference(cell.graph, W, named, schedule, sources[0])


class _TreeWalk(torch.autograd.Function):
    """The walk with gradients; a second derivative steps through the reference."""

    @staticmethod
    def forward(
        ctx: Any,
        cell: NativeTreeCell,
        schedule: TreeSchedule,
        count: int,
        *tensors: Any,
    ) -> Any:
        keep = readable(tensors)
        y, states, saved = cell.run_forward(keep[:count], keep[count:], schedule, True)
        ctx.save_for_backward(*tensors, y, *states, *saved)
        ctx.walk = cell, schedule, count, len(tensors), len(states)
        ctx.set_materialize_grads(False)
        return (y, *(state[schedule.roots] for state in states))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        cell, schedule, count, given, states = ctx.walk
        tensors, y = ctx.saved_tensors[:given], ctx.saved_tensors[given]
        rest = ctx.saved_tensors[given + 1 :]
        needed = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled() or tracing.way(grads, closely=True) != "memory":

            def again(*tensors: Tensor) -> list[Tensor]:
                y, roots = _reference(cell, tensors[:count], tensors[count:], schedule)
                return [y, *roots]

            found = gradients_of(again, tensors, grads, needed)
            return (None, None, None, *found)
        keep = readable(tensors)
        wanted = tuple(n for n, need in zip(cell.inputs, needed, strict=False) if need)
        found, of_parameters = cell.run_backward(
            keep[:count], keep[count:], y, rest[:states], rest[states:], grads[0],
            grads[1:], schedule, wanted,
        )  # fmt: skip
        of_inputs = [found.pop(0) if n in wanted else None for n in cell.inputs]
        of_inputs, of_parameters = cell.arriving(of_inputs, of_parameters)
        return (None, None, None, *of_inputs, *of_parameters)
