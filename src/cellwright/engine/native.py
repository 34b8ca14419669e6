"""The native engine: a cell's programs on the compiled core, as one torch op.

`NativeCell` holds the programs of one layer in one direction. `walk` runs it: straight
on the core without gradients, as an autograd function with them, and as the custom op
`cellwright::walk` where torch traces (torch.compile, torch.export).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..compiler.plan import Plan, unsupported
from ..compiler.stages import Binding
from ..language import Graph
from ..language.evaluate import evaluate
from . import schedule

try:
    from .. import _core
except ImportError as error:  # a pure Python build, or a broken one
    _core = None
    _MISSING = str(error)

DTYPES = (torch.float32, torch.float64)
Buffer = tuple[int, int, int, int]  # address, rows, columns, stride


def unavailable(graph: Graph, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the native engine cannot run a cell here, or `None` if it can."""
    if _core is None:
        return (
            "this installation has no compiled core (built with CELLWRIGHT_NO_NATIVE, "
            f"or for another Python): {_MISSING}"
        )
    if device.type != "cpu":
        return f"it runs on the CPU, the parameters are on {device.type!r}"
    if dtype not in DTYPES:
        return f"it computes in float32 and float64, the parameters are {dtype}"
    return unsupported(graph)


def info() -> dict[str, Any]:
    """What runs here: instruction sets, the one chosen, threads."""
    if _core is None:
        return {"native": False, "reason": _MISSING}
    return {
        "native": True,
        "isas": _core.isas(),
        "isa": _core.isa(),
        "threads": _core.threads(torch.get_num_threads()),
    }


class NativeCell:
    """The programs of a bound cell, compiled when they are first run.

    Args:
        graph: the cell with concrete sizes.
        binding: where its weights lie in the parameters that calls pass.
        isa: an instruction set by name; "" is the best of this machine.
    """

    def __init__(self, graph: Graph, binding: Binding, isa: str = "") -> None:
        self.graph, self.binding, self.isa = graph, binding, isa
        self.inputs = tuple(i.name for i in graph.inputs)
        self.sizes = tuple(int(s.size) for s in graph.states)
        self.output_size = int(graph.output_size)
        self.output_is_state = graph.output_is_state
        self._compiled: dict[Any, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return NativeCell, (self.graph, self.binding, self.isa)

    def __deepcopy__(self, memo: Any) -> NativeCell:
        return self

    @cached_property
    def plan(self) -> Plan:
        return Plan(self.graph, self.binding)

    @cached_property
    def planes(self) -> tuple[int, ...]:
        """Columns of what training keeps beside the output: states, saved values."""
        others = self.sizes[1:] if self.output_is_state else self.sizes
        return (*others, *self.plan.saved_sizes())

    @cached_property
    def key(self) -> str:
        """Names the cell where torch traces: ops take text, no objects."""
        text = f"{self.graph}\n{self.graph.nodes}\n{self.binding}\n{self.isa}"
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        _CELLS[key] = self
        return key

    def program(self, kind: str, wanted: tuple[str, ...] = ()) -> Any:
        """The core's program: "inference", "training" or "backward"."""
        try:
            return self._compiled[kind, wanted]
        except KeyError:
            plan = self.plan
            source = plan.backward(wanted) if kind == "backward" else getattr(plan, kind)
            compiled = self._compiled[kind, wanted] = source.compile()
            return compiled

    # -- one walk

    def forward(
        self,
        inputs: Sequence[Tensor],
        states: Sequence[Tensor],
        parameters: Sequence[Tensor],
        reverse: bool,
        training: bool,
    ) -> list[Tensor]:
        """The outputs, the final states, and what the backward walk will read.

        Args:
            inputs: x (T, B, size), then the named inputs alike.
            states: the initial states, (B, size) each.
            parameters: as the binding lists them.
            reverse: walk from the last step to the first.
            training: keep what the backward walk reads; the last tensor, else empty.
        """
        x = inputs[0]
        steps, batch = x.shape[0], x.shape[1]
        rows = steps * batch
        keep = [t.contiguous() for t in (*inputs, *states, *parameters)]
        element = x.element_size()
        y = x.new_empty(steps, batch, self.output_size)
        saved = x.new_empty(rows * sum(self.planes) if training else 0)
        arrays = [_matrix(t, rows) for t in keep[: len(inputs)]]
        planes = self._planes(saved, rows)
        kept: list[Tensor] = [y] if self.output_is_state else []
        for state, size in enumerate(self.sizes):
            if state == 0 and self.output_is_state:
                arrays.append((y.data_ptr(), rows, size, size))
            elif training:
                arrays.append(planes.pop(0))
            else:
                rolling = x.new_empty(2 * batch, size)
                kept.append(rolling)
                arrays.append((rolling.data_ptr(), 2 * batch, size, size))
            arrays.append(_matrix(keep[len(inputs) + state], batch))
        if not self.output_is_state:
            arrays.append((y.data_ptr(), rows, self.output_size, self.output_size))
        arrays += planes
        _core.run(
            self.program("training" if training else "inference"),
            schedule.dense(steps, batch, reverse),
            element,
            arrays,
            [_vector(p) for p in keep[len(inputs) + len(states) :]],
            (),
            torch.get_num_threads(),
            self.isa,
        )
        return [y, *self._finals(y, saved, kept, steps, batch, reverse, training), saved]

    def _planes(self, saved: Tensor, rows: int) -> list[Buffer]:
        """The parts of `saved`: a matrix of `rows` rows for each of `planes`."""
        if not saved.numel():
            return [] if rows else [(0, 0, size, size) for size in self.planes]
        at, planes = saved.data_ptr(), []
        for size in self.planes:
            planes.append((at, rows, size, size))
            at += rows * size * saved.element_size()
        return planes

    def _finals(
        self,
        y: Tensor,
        saved: Tensor,
        kept: list[Tensor],
        steps: int,
        batch: int,
        reverse: bool,
        training: bool,
    ) -> list[Tensor]:
        """Copies of each state's last rows."""
        last = 0 if reverse else steps - 1
        finals, rolling, start = [], list(kept), 0
        for state, size in enumerate(self.sizes):
            if state == 0 and self.output_is_state:
                finals.append(y[last].clone())
                rolling.pop(0)
            elif training:
                plane = saved.narrow(0, start, steps * batch * size)
                finals.append(plane.view(steps, batch, size)[last].clone())
                start += steps * batch * size
            else:
                block = (steps - 1) % 2
                finals.append(rolling.pop(0)[block * batch : (block + 1) * batch].clone())
        return finals

    def backward(
        self,
        inputs: Sequence[Tensor],
        states: Sequence[Tensor],
        parameters: Sequence[Tensor],
        y: Tensor,
        saved: Tensor,
        grad_y: Tensor | None,
        grad_finals: Sequence[Tensor | None],
        reverse: bool,
        wanted: tuple[str, ...],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Gradients of the wanted inputs, of the initial states, of the parameters."""
        x = inputs[0]
        steps, batch = x.shape[0], x.shape[1]
        rows = steps * batch
        keep = [t.contiguous() for t in (*inputs, *states, *parameters)]
        grad_y = torch.zeros_like(y) if grad_y is None else grad_y.contiguous()
        arrays = [_matrix(t, rows) for t in keep[: len(inputs)]]
        planes = self._planes(saved, rows)
        for state, size in enumerate(self.sizes):
            own = state == 0 and self.output_is_state
            arrays.append((y.data_ptr(), rows, size, size) if own else planes.pop(0))
            arrays.append(_matrix(keep[len(inputs) + state], batch))
        if not self.output_is_state:
            arrays.append((y.data_ptr(), rows, self.output_size, self.output_size))
        arrays += planes
        arrays.append(_matrix(grad_y, rows))
        grad_states = [
            x.new_zeros(batch, size) if grad is None else grad.clone().contiguous()
            for grad, size in zip(grad_finals, self.sizes, strict=True)
        ]
        arrays += [_matrix(g, batch) for g in grad_states]
        grad_inputs = [
            torch.empty(t.shape, dtype=t.dtype)
            for name, t in zip(self.inputs, inputs, strict=True)
            if name in wanted
        ]
        arrays += [_matrix(g, rows) for g in grad_inputs]
        shapes = [p.shape for p in parameters]
        gradients = [torch.zeros(shape, dtype=x.dtype) for shape in shapes]
        _core.run(
            self.program("backward", wanted),
            schedule.dense(steps, batch, reverse),
            x.element_size(),
            arrays,
            [_vector(p) for p in keep[len(inputs) + len(states) :]],
            [_vector(g) for g in gradients],
            torch.get_num_threads(),
            self.isa,
        )
        return grad_inputs, grad_states, gradients

    def reference(
        self,
        inputs: Sequence[Tensor],
        states: Sequence[Tensor],
        parameters: Sequence[Tensor],
        reverse: bool,
    ) -> list[Tensor]:
        """The same walk stepped in torch: the outputs and the final states."""
        W = BoundWeights(self.graph, self.binding, parameters)
        current, outputs = list(states), []
        steps = range(len(inputs[0]))
        for t in reversed(steps) if reverse else steps:
            now = {name: v[t] for name, v in zip(self.inputs, inputs, strict=True)}
            olds = {s.name: v for s, v in zip(self.graph.states, current, strict=True)}
            values = evaluate(self.graph, W, now, olds)
            current = [
                values[u].expand_as(old)
                for u, old in zip(self.graph.updates, current, strict=True)
            ]
            output = values[self.graph.output]
            outputs.append(output.expand(*current[0].shape[:-1], self.output_size))
        return [torch.stack(outputs[::-1] if reverse else outputs), *current]


def _matrix(t: Tensor, rows: int) -> Buffer:
    columns = t.shape[-1]
    return t.data_ptr(), rows, columns, columns


def _vector(t: Tensor) -> Buffer:
    count = t.numel()
    return t.data_ptr(), 1, count, count


class BoundWeights:
    """A `W` whose weights are parts of parameters, as a binding says."""

    def __init__(
        self, graph: Graph, binding: Binding, parameters: Sequence[Tensor]
    ) -> None:
        self._graph, self._binding, self._parameters = graph, binding, parameters

    def __getattr__(self, name: str) -> Any:
        weight = self._graph.weight(name)
        if weight.kind != "matrix":
            return self._vector(self._binding.vectors[name], int(weight.size))

        def affine(*operands: Tensor) -> Tensor:
            total = sum(
                self._product(weight, operand, value)
                for operand, value in enumerate(operands)
            )
            for piece in self._binding.biases.get(name, ()):
                total = total + self._vector(piece, int(weight.size))
            return total  # type: ignore[return-value]

        return affine

    def _product(self, weight: Any, operand: int, value: Tensor) -> Tensor:
        piece, heads = self._binding.matrices[weight.name, operand], weight.heads
        rows, columns = int(weight.size) // heads, value.shape[-1] // heads
        flat = self._parameters[piece.parameter].reshape(-1)
        strides = (rows * piece.stride, piece.stride, 1)
        matrix = flat.as_strided((heads, rows, columns), strides, piece.offset)
        blocks = value.unflatten(-1, (heads, -1))
        return torch.einsum("...nk,nok->...no", blocks, matrix).flatten(-2)

    def _vector(self, piece: Any, size: int) -> Tensor:
        flat = self._parameters[piece.parameter].reshape(-1)
        if piece.stride == 0:
            return flat[piece.offset]
        return flat[piece.offset : piece.offset + size]


# -- the op --------------------------------------------------------------------------

_CELLS: dict[str, NativeCell] = {}  # by key


def walk(
    cell: NativeCell,
    x: Tensor,
    states: Sequence[Tensor],
    inputs: Mapping[str, Tensor],
    parameters: Sequence[Tensor],
    *,
    reverse: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """Walk a cell over a sequence.

    Args:
        cell: its programs.
        x: (T, B, input_size), T ≥ 1.
        states: the initial states, (B, size) each.
        inputs: the named inputs, (T, B, size) each.
        parameters: as the cell's binding lists them.
        reverse: walk from the last step to the first.

    Returns:
        The outputs (T, B, output_size), in the order of x, and the final states.
    """
    sources = [x, *(inputs[name] for name in cell.inputs[1:])]
    dtype = parameters[0].dtype if parameters else x.dtype
    sources = [t if t.dtype == dtype else t.to(dtype) for t in sources]  # autocast
    states = [t if t.dtype == dtype else t.to(dtype) for t in states]
    if torch.compiler.is_compiling():
        training = torch.is_grad_enabled()
        y, *rest = _walk_op(sources, states, list(parameters), cell.key, reverse, training)
        return y, rest[:-1]
    if _transformed():
        y, *finals = cell.reference(sources, states, parameters, reverse)
        return y, finals
    tensors = (*sources, *states, *parameters)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        y, *finals = _Walk.apply(cell, reverse, len(sources), *tensors)  # type: ignore[misc]
        return y, finals
    y, *rest = cell.forward(sources, states, parameters, reverse, training=False)
    return y, rest[:-1]


def _transformed() -> bool:
    """Inside torch.func or forward-mode differentiation, which see through no op."""
    return (
        torch._C._functorch.peek_interpreter_stack() is not None  # type: ignore[attr-defined]
        or torch.autograd.forward_ad._current_level >= 0
    )


def _gradients(
    cell: NativeCell,
    reverse: bool,
    count: int,
    tensors: Sequence[Tensor],
    y: Tensor,
    saved: Tensor,
    grads: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """The gradient of every tensor; differentiable ones come from the reference."""
    inputs, states = tensors[:count], tensors[count : count + len(cell.sizes)]
    parameters = tensors[count + len(cell.sizes) :]
    if torch.is_grad_enabled():
        return _double(cell, reverse, inputs, states, parameters, grads, needed)
    wanted = tuple(n for n, need in zip(cell.inputs, needed, strict=False) if need)
    if torch.compiler.is_compiling():
        raise AssertionError("the compiler sees cellwright::walk_backward")
    found, of_states, of_parameters = cell.backward(
        inputs, states, parameters, y, saved, grads[0], grads[1:], reverse, wanted
    )
    of_inputs = [found.pop(0) if n in wanted else None for n in cell.inputs]
    return [*of_inputs, *of_states, *of_parameters]


def _double(
    cell: NativeCell,
    reverse: bool,
    inputs: Sequence[Tensor],
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    results = cell.reference(inputs, states, parameters, reverse)
    pairs = [(r, g) for r, g in zip(results, grads, strict=True) if g is not None]
    pairs = [(r, g) for r, g in pairs if r.requires_grad]
    tensors = (*inputs, *states, *parameters)
    sought = [t for t, need in zip(tensors, needed, strict=True) if need]
    found = list(
        torch.autograd.grad(
            [r for r, _ in pairs], sought, [g for _, g in pairs],
            create_graph=True, allow_unused=True,
        )  # fmt: skip
    )
    return [found.pop(0) if need else None for need in needed]


class _Walk(torch.autograd.Function):
    """The eager way with gradients: lighter than the op, the same kernel."""

    @staticmethod
    def forward(ctx: Any, cell: NativeCell, reverse: bool, count: int, *tensors: Tensor):
        states = count + len(cell.sizes)
        *results, saved = cell.forward(
            tensors[:count], tensors[count:states], tensors[states:], reverse, True
        )
        ctx.save_for_backward(*tensors, results[0], saved)
        ctx.cell, ctx.reverse, ctx.count = cell, reverse, count
        ctx.set_materialize_grads(False)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None):
        *tensors, y, saved = ctx.saved_tensors
        needed = ctx.needs_input_grad[3:]
        found = _gradients(
            ctx.cell, ctx.reverse, ctx.count, tensors, y, saved, grads, needed
        )
        return (None, None, None, *found)


@torch.library.custom_op("cellwright::walk", mutates_args=())
def _walk_op(
    inputs: list[Tensor],
    states: list[Tensor],
    parameters: list[Tensor],
    key: str,
    reverse: bool,
    training: bool,
) -> list[Tensor]:
    return _CELLS[key].forward(inputs, states, parameters, reverse, training)


@_walk_op.register_fake
def _(inputs, states, parameters, key, reverse, training):
    cell, x = _CELLS[key], inputs[0]
    steps, batch = x.shape[0], x.shape[1]
    y = x.new_empty(steps, batch, cell.output_size)
    finals = [x.new_empty(batch, size) for size in cell.sizes]
    saved = x.new_empty(steps * batch * sum(cell.planes) if training else 0)
    return [y, *finals, saved]


@torch.library.custom_op("cellwright::walk_backward", mutates_args=())
def _walk_backward_op(
    inputs: list[Tensor],
    states: list[Tensor],
    parameters: list[Tensor],
    y: Tensor,
    saved: Tensor,
    grads: list[Tensor],
    key: str,
    reverse: bool,
) -> list[Tensor]:
    cell = _CELLS[key]
    return [
        gradient
        for part in cell.backward(
            inputs, states, parameters, y, saved, grads[0], grads[1:], reverse,
            cell.inputs,
        )
        for gradient in part
    ]  # fmt: skip


@_walk_backward_op.register_fake
def _(inputs, states, parameters, y, saved, grads, key, reverse):
    return [
        t.new_empty(t.shape) for part in (inputs, states, parameters) for t in part
    ]


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    sources, states, parameters, key, reverse, _ = inputs
    ctx.save_for_backward(*sources, *states, *parameters, output[0], output[-1])
    ctx.counts, ctx.key, ctx.reverse = (len(sources), len(states)), key, reverse


def _op_backward(ctx: Any, grads: list[Tensor | None]):
    *tensors, y, saved = ctx.saved_tensors
    first, second = ctx.counts[0], sum(ctx.counts)
    parts = tensors[:first], tensors[first:second], tensors[second:]
    shapes = [y, *parts[1]]
    filled = [
        torch.zeros_like(like) if g is None else g
        for g, like in zip(grads[:-1], shapes, strict=True)
    ]
    found = _walk_backward_op(*parts, y, saved, filled, ctx.key, ctx.reverse)
    of_inputs, of_states = found[:first], found[first:second]
    return of_inputs, of_states, found[second:], None, None, None


_walk_op.register_autograd(_op_backward, setup_context=_setup_context)
