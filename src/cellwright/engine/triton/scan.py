"""A cell's programs over one packed batch, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..bound_weights import BoundWeights
from ..programs import Programs
from ..reference import scan_graph
from ..schedule import dense, packed
from ..tracing import readable
from .graphs import Function, Graphs, key_of, may_capture
from .parts import Parts, cut
from .rows import Rows
from .target import Target, target_of
from .walk import Walk


class PackedScan(NamedTuple):
    """One scan of sequences whose rows are padded to one length, or packed.

    Its tensors are, in order: x and the named inputs, (T, B, size) each, or (N, size)
    if they are packed; the initial states, (B, size) each; the parameters, as the
    binding lists them. All are float32.

    Attributes:
        programs: without inputs that are the same at every step.
        sizes: the rows of each level, where they are packed; else empty.
        dtype: of the factors of products.
    """

    programs: Programs
    sizes: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32

    def parts(self, tensors: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """Sources, initial states, parameters."""
        rest = iter(tensors)
        counts = len(self.programs.inputs), len(self.programs.sizes)
        sources, states = (list(islice(rest, n)) for n in counts)
        return sources, states, list(rest)

    def rows(self, x: Tensor) -> Rows:
        sizes = self.sizes or (x.shape[1],) * x.shape[0]
        return Rows(sizes, x.device)

    def _cut(
        self, device: torch.device, kind: str, wanted: tuple[str, ...] = ()
    ) -> tuple[Parts, Target]:
        """A program's parts on a device, and what they are for."""
        programs, target = self.programs, target_of(device, self.dtype)
        parts = programs.made(
            ("triton", kind, wanted, target),
            lambda: cut(programs.program(kind, wanted), target),
        )
        return parts, target

    def forward(
        self, tensors: Sequence[Tensor], training: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The outputs and the final states; and what `backward` reads beside the
        outputs, if `training`."""
        kind = "training" if training else "inference"
        run = partial(self._forward, kind)
        found = self._captured((kind, ()), run, readable(tensors))
        count = 1 + len(self.programs.sizes)
        return found[:count], found[count:]

    def _captured(
        self,
        program: tuple[str, tuple[str, ...]],
        run: Function,
        tensors: Sequence[Any],
    ) -> list[Any]:
        """`run(tensors)`, on their device; as a CUDA graph where that saves launches:
        of a program that goes step by step, over sequences of one length."""
        like = next(t for t in tensors if t is not None)
        with torch.cuda.device_of(like):
            parts, _ = self._cut(like.device, *program)
            by_steps = any(p.form == "level" for p in parts.parts)
            if self.sizes or not by_steps or not may_capture(tensors):
                return run(tensors)
            graphs = self.programs.made("triton graphs", Graphs)
            return graphs.run(key_of(tensors, program, self.dtype), run, tensors)

    def _forward(self, kind: str, tensors: Sequence[Any]) -> list[Any]:
        """As `forward`: the results, then what is saved."""
        sources, states, parameters = self.parts(tensors)
        rows, programs = self.rows(sources[0]), self.programs
        given: list[Any] = [_flat(source) for source in sources]
        for state in states:
            given += (None, state)
        (parts, target), training = self._cut(rows.device, kind), kind == "training"
        walk = Walk(parts, rows, given, parameters, target)
        walk.run()
        own, arrays = len(sources), parts.program.arrays
        sequences = [own + 2 * k for k in range(len(states))]
        finals = [rows.last(arrays[n], walk.arrays[n]) for n in sequences]
        end = own + 2 * len(states)
        output = sequences[0] if programs.output_is_state else end
        kept = [walk.arrays[n] for n in sequences if n != output]
        if training:
            first = end + (not programs.output_is_state)
            kept += walk.arrays[first : first + len(programs.plan.saved)]
        y = walk.arrays[output].view(*sources[0].shape[:-1], programs.output_size)
        return [y, *finals, *(kept if training else ())]

    def backward(
        self,
        tensors: Sequence[Tensor],
        y: Tensor,
        saved: Sequence[Tensor],
        grads: Sequence[Tensor | None],
        needed: Sequence[bool],
    ) -> list[Tensor | None]:
        """The gradient of every tensor; `None` where it is not needed, or none arrives.

        Args:
            tensors: as `forward` took them.
            y, saved: what it gave in training.
            grads: of the outputs and the final states; `None` is zero.
            needed: of which tensors the gradient is wanted.
        """
        names = zip(self.programs.inputs, needed, strict=False)
        wanted = tuple(name for name, need in names if need)
        given = readable([*tensors, y, *saved, *grads])
        run = partial(self._backward, wanted, len(tensors), len(grads))
        return self._captured(("backward", wanted), run, given)

    def _backward(
        self, wanted: tuple[str, ...], count: int, results: int, tensors: Sequence[Any]
    ) -> list[Any]:
        """As `backward`: of `count` tensors, then y and what was saved, then the
        cotangents of the results."""
        sources, states, parameters = self.parts(tensors[:count])
        y, *saved = tensors[count:-results]
        grad_y, *of_finals = tensors[-results:]
        rows, programs = self.rows(sources[0]), self.programs
        given: list[Any] = [_flat(source) for source in sources]
        kept = iter(saved)
        for k, state in enumerate(states):
            is_output = k == 0 and programs.output_is_state
            given += (_flat(y) if is_output else next(kept), state)
        given += [] if programs.output_is_state else [_flat(y)]
        given += kept
        given.append(_flat(torch.zeros_like(y) if grad_y is None else grad_y))
        carried = [
            torch.zeros_like(s) if g is None else g.clone()
            for g, s in zip(of_finals, states, strict=True)
        ]
        for own in carried:  # changed in place, from the final states' to the initial
            given += (own, own)
        first = len(given)  # of the gradients that are made here
        given += [None] * len(wanted)
        sums = {
            k: y.new_zeros(rows.batch, parameters[k].numel())
            for k in programs.matrix_weights.values()
        }
        given += sums.values()
        parts, target = self._cut(rows.device, "backward", wanted)
        walk = Walk(parts, rows, given, parameters, target)
        walk.run()
        of_inputs = iter(walk.arrays[first : first + len(wanted)])
        shaped = zip(programs.inputs, sources, strict=True)
        of_sources = [
            next(of_inputs).view_as(s) if name in wanted else None for name, s in shaped
        ]
        gradients = walk.gradients()
        for k, of_rows in sums.items():  # of weights that are matrices by element
            gradients[k] += of_rows.sum(0).view_as(gradients[k])
        arrived, of_parameters = programs.arriving(of_sources, gradients)
        return [*arrived, *carried, *of_parameters]

    def reference(self, tensors: Sequence[Any]) -> list[Tensor]:
        """What `forward` gives, stepped in torch."""
        sources, states, parameters = self.parts(tensors)
        steps, batch = sources[0].shape[0], states[0].shape[0]
        schedule = packed(self.sizes) if self.sizes else dense(steps, batch)
        W = BoundWeights(self.programs.graph, self.programs.binding, parameters)
        parts = sources, states, (), ()
        y, finals, _ = scan_graph(self.programs, W, parts, schedule, ())
        return [y, *finals]


def _flat(source: Tensor) -> Tensor:
    """Its rows, one after the other."""
    return source.reshape(-1, source.shape[-1])
