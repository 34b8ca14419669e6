"""A tree cell's programs over the nodes of one forest, on the core.

The core scans the levels as it does those of sequences; the schedule says where
children are. All arrays have one row a node, in the forest's order: nothing is gathered
beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..bound_weights import BoundWeights
from ..programs import Programs
from ..reference_trees import scan_trees
from ..tracing import readable
from ..tree_schedule import TreeSchedule
from .core import memory, run_core


class TreeScan(NamedTuple):
    """One scan: programs over a forest.

    Its tensors are, in order: x and the named inputs, (M, size) each; the parameters,
    as the binding lists them.
    """

    programs: Programs
    schedule: TreeSchedule

    def _read(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        found, first = readable(tensors), len(self.programs.inputs)
        return found[:first], found[first:]

    def forward(
        self, tensors: Sequence[Tensor], training: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The outputs and the roots' states; and what `backward` reads, if
        `training`."""
        programs, schedule = self
        inputs, parameters = self._read(tensors)
        like, count = inputs[0], len(schedule.nodes)
        states = [like.new_empty(count, size) for size in programs.sizes]
        values = states
        if not programs.output_is_state:
            values = [*states, like.new_empty(count, programs.output_size)]
        y = states[0] if programs.output_is_state else values[-1]
        if training:
            values = [*values, *self._saved(like)]
        kind = "training" if training else "inference"
        self._run(kind, [*inputs, *values], parameters)
        roots = [state[schedule.roots] for state in states]
        kept = programs.kept_as or y.dtype
        y = y.to(kept)
        # A parent reads its children's states: those are rounded now.
        return [y, *roots], [v.to(kept) for v in values] if training else []

    def _saved(self, like: Tensor) -> list[Tensor]:
        """New arrays for the values that training saves: of nodes, or of edges."""
        nodes, edges = len(self.schedule.nodes), len(self.schedule.edges)
        values = zip(self.programs.saved_values, self.programs.saved_types, strict=True)
        return [
            like.new_empty(nodes if over is None else edges, size, dtype=dtype)
            for (size, over), dtype in values
        ]

    def backward(
        self,
        tensors: Sequence[Tensor],
        saved: Sequence[Tensor],
        grads: Sequence[Tensor | None],
        needed: Sequence[bool],
    ) -> list[Any]:
        """The gradient of every tensor; `None` where it is not needed, or none arrives.

        Args:
            tensors: as `forward` took them.
            saved: what it gave in training.
            grads: of the outputs and the roots' states; they may be `None`.
            needed: for each tensor, whether its gradient is wanted.
        """
        programs = self.programs
        inputs, parameters = self._read(tensors)
        states = saved[: len(programs.sizes)]
        y = saved[0] if programs.output_is_state else saved[len(states)]
        grad_y = torch.zeros_like(y) if grads[0] is None else readable(grads[:1])[0]
        carried = [torch.zeros_like(s, dtype=programs.number) for s in states]
        for whole, grad in zip(carried, grads[1:], strict=True):
            if grad is not None:
                whole[self.schedule.roots] = grad
        of_inputs = {
            name: torch.zeros_like(source)
            for name, source, need in zip(programs.inputs, inputs, needed, strict=False)
            if need
        }
        gradients = [torch.empty_like(p) for p in parameters]
        arrays = [*inputs, *saved, grad_y, *carried, *of_inputs.values()]
        self._run("backward", arrays, parameters, gradients, tuple(of_inputs))
        found = [of_inputs.get(name) for name in programs.inputs]
        arrived, gradients = programs.arriving(found, gradients)
        return [*arrived, *gradients]

    def _run(
        self,
        kind: str,
        arrays: Sequence[Tensor],
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor] = (),
        wanted: tuple[str, ...] = (),
    ) -> None:
        programs = self.programs
        run_core(
            programs.compiled(kind, wanted),
            self.schedule.core,
            arrays[0].element_size(),  # x is of the core's own numbers
            memory(arrays),
            (memory(parameters), memory(gradients)),
            (),
            programs.isa,
            [*arrays, *parameters],
        )

    def reference(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """What `forward` gives, level by level in torch."""
        graph, first = self.programs.graph, len(self.programs.inputs)
        W = BoundWeights(graph, self.programs.binding, tensors[first:])
        y, roots = scan_trees(graph, W, tensors[:first], self.schedule)
        return [y.to(self.programs.kept_as or y.dtype), *roots]
