"""The native engine as torch sees it: one walk, differentiable, one node of a graph.

`walk` runs a `NativeCell`: straight on the core without gradients, as an autograd
function with them, and as the custom op `cellwright::walk` where somebody looks at
torch's operations (torch.compile, torch.export, torch.jit.trace, make_fx): see
`tracing`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ..language import ArgumentError
from . import tracing
from .native import NativeCell, States, find_cell
from .schedule import Order, Schedule, dense

Parts = tuple[list[Any], list[Any], list[Any], list[Any]]


def walk(
    cell: NativeCell,
    x: Tensor,
    states: States,
    inputs: Mapping[str, Tensor],
    parameters: Sequence[Tensor],
    *,
    reverse: bool = False,
    order: Order | None = None,
    fresh: Sequence[Tensor] = (),
    probes: Sequence[Tensor] = (),
    static: Collection[str] = (),
) -> tuple[Tensor, list[Tensor]]:
    """Walk a cell over a sequence.

    Args:
        cell: its programs.
        x: (T, B, input_size), T ≥ 1; (Σ batch_sizes, input_size) if it is packed.
        states: the initial states, (B, size) or (1, B, size) each; the final ones have
            the same shape. `None` is zeros (1, B, size).
        inputs: the named inputs, shaped like x; a constant or static one (B, size).
        parameters: as the cell's binding lists them.
        reverse: walk from the last step to the first.
        order: lengths, resets or batch sizes; without it every row at every step.
        fresh: what a reset starts from, (size,) each.
        probes: for a probed cell, a tensor shaped like each recorded value, to have its
            gradient: through all that the value feeds.
        static: the named inputs that are given once for all steps.

    Returns:
        The outputs (T, B, output_size), in the order of x, and the final states,
        followed by the recorded values, shaped like the outputs.
    """
    if cell.recorded:
        check_values_may_leave()
    sources = [x, *(inputs[name] for name in cell.inputs[1:])]
    dtype = parameters[0].dtype if parameters else x.dtype
    sources = [t if t.dtype == dtype else t.to(dtype) for t in sources]  # autocast
    states = [t if t is None or t.dtype == dtype else t.to(dtype) for t in states]
    fresh = [t if t.dtype == dtype else t.to(dtype) for t in fresh]
    learned = any(t.requires_grad for t in fresh)
    way = "op"
    if not torch.compiler.is_compiling():
        way = tracing.way((*sources, *states, *fresh, *parameters, *probes))
    if way == "op":
        order = order or Order(x.shape[0], x.shape[1])
        states = cell.filled(states, sources[0], order.batch)
        lists = sources, states, fresh, list(parameters)
        return _as_op(cell, lists, order, reverse, learned, static)
    cell = cell.given_once(tuple(static))
    if order is None:
        schedule = dense(x.shape[0], x.shape[1], reverse)
    else:
        schedule = order.schedule(reverse, learned)
    if schedule.starts is None:
        fresh = []
    if not schedule.whole:
        states = cell.filled(states, sources[0], schedule.batch)
    if way == "reference":
        parts = sources, states, fresh, parameters
        y, *finals = cell.reference(*parts, schedule, probes)
        return y, finals
    tensors = (*sources, *states, *fresh, *parameters, *probes)
    if torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in tensors
    ):
        counts = [len(part) for part in (sources, states, fresh, parameters)]
        y, *finals = _Walk.apply(cell, schedule, counts, *tensors)  # type: ignore[misc]
        return y, finals
    (y, *rest), _ = cell.forward(sources, states, fresh, parameters, schedule, False)
    return y, rest


def _as_op(
    cell: NativeCell,
    lists: Parts,
    order: Order,
    reverse: bool,
    learned: bool,
    static: Iterable[str],
) -> tuple[Tensor, list[Tensor]]:
    """The walk as `cellwright::walk`, the node that tracers see."""
    sequences = list(order.batch_sizes or ()), order.lengths, order.resets
    training = torch.is_grad_enabled()
    if not torch.compiler.is_compiling() and tracing.jit():
        if torch.onnx.is_in_onnx_export():
            tracing.refuse_jit("a layer on the native engine")
        training = learned = False  # a trace runs with and without gradients
    how = reverse, learned, training, order.starts
    y, *rest = _walk_op(*lists, _key(cell, static), *sequences, *how)
    return y, rest[:-1]


def check_values_may_leave() -> None:
    """Recorded values cannot leave what traces the call.

    Raises:
        ArgumentError: inside torch.compile, torch.func, torch.jit.trace, make_fx.
    """
    if torch.compiler.is_compiling():  # without fullgraph, torch runs this part itself
        where, remedy = "torch.compile", "one outside of it, or without fullgraph=True"
    elif tracing.transformed():
        where, remedy = "torch.func and forward-mode differentiation", "one outside"
    elif tracing.observed():
        where, remedy = "torch.jit.trace, make_fx and dispatch modes", "one outside"
    else:
        return
    raise ArgumentError(
        f"[record] values cannot leave {where}; received a call inside, expected "
        f"{remedy}"
    )


def _parts(counts: Sequence[int], tensors: Iterable[Any]) -> Parts:
    """One list of tensors as inputs, states, fresh states, parameters."""
    rest = iter(tensors)
    inputs, states, fresh, parameters = (list(islice(rest, n)) for n in counts)
    return inputs, states, fresh, parameters


def _gradients(
    cell: NativeCell,
    walk: Schedule,
    counts: Sequence[int],
    tensors: Sequence[Tensor],
    y: Tensor,
    saved: Tensor,
    grads: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """The gradient of every tensor; from the reference where they are differentiable,
    or where the core cannot read the cotangents (a batch of them, a tracer's)."""
    parts = _parts(counts, tensors)
    if torch.is_grad_enabled() or tracing.way(grads, closely=True) != "memory":

        def again(*tensors: Tensor) -> list[Tensor]:
            probes = tensors[sum(counts) :]
            return cell.reference(*_parts(counts, tensors), walk, probes)

        return gradients_of(again, tensors, grads, needed)
    wanted = tuple(n for n, need in zip(cell.inputs, needed, strict=False) if need)
    at = len(parts[0])
    states_wanted = any(needed[at : at + len(parts[1])])
    found, of_states, of_fresh, of_parameters, probes = cell.backward(
        *parts, y, saved, grads, walk, wanted, states_wanted
    )
    of_inputs = [found.pop(0) if n in wanted else None for n in cell.inputs]
    of_inputs, of_parameters = cell.arriving(of_inputs, of_parameters)
    return [*of_inputs, *of_states, *of_fresh, *of_parameters, *probes]


def gradients_of(
    again: Callable[..., Sequence[Tensor]],
    tensors: Sequence[Any],
    grads: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients by torch's own operations; differentiable ones in a double backward.

    Args:
        again: the reference: tensors to results.
        grads: the cotangent of each result; None for zero.
        needed: for each tensor, whether its gradient is wanted.
    """
    twice = torch.is_grad_enabled()
    if not twice:  # leaves: nothing behind them is walked
        tensors = [
            t if t is None else t.detach().requires_grad_(need)
            for t, need in zip(tensors, needed, strict=True)
        ]
    else:  # one may be made of another: an alias has its own share alone
        tensors = [
            t.view_as(t) if need else t for t, need in zip(tensors, needed, strict=True)
        ]
    with torch.enable_grad():
        results = again(*tensors)
    pairs = [(r, g) for r, g in zip(results, grads, strict=True) if g is not None]
    pairs = [(r, g) for r, g in pairs if r.requires_grad]
    if not pairs:  # such as behind `step`
        return [None for _ in needed]
    sought = [t for t, need in zip(tensors, needed, strict=True) if need]
    found = list(
        torch.autograd.grad(
            [r for r, _ in pairs],
            sought,
            [g for _, g in pairs],
            create_graph=twice,
            allow_unused=True,
        )
    )
    return [found.pop(0) if need else None for need in needed]


class _Walk(torch.autograd.Function):
    """The eager way with gradients: lighter than the op, the same kernel."""

    @staticmethod
    def forward(
        ctx: Any,
        cell: NativeCell,
        walk: Schedule,
        counts: Sequence[int],
        *tensors: Tensor,
    ) -> Any:
        results, saved = cell.forward(*_parts(counts, tensors), walk, True)
        ctx.save_for_backward(*tensors, results[0], saved)
        ctx.walk = cell, walk, counts
        ctx.set_materialize_grads(False)
        if cell.recorded and not cell.probed:
            ctx.mark_non_differentiable(*results[1 + len(cell.sizes) :])
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        *tensors, y, saved = ctx.saved_tensors
        needed = ctx.needs_input_grad[3:]
        cell, walk, counts = ctx.walk
        found = _gradients(cell, walk, counts, tensors, y, saved, grads, needed)
        return (None, None, None, *found)


def _order(
    x: Tensor,
    sizes: Sequence[int],
    lengths: Tensor | None,
    resets: Tensor | None,
    starts: Tensor | None,
) -> Order:
    if sizes:
        return Order(len(sizes), sizes[0], batch_sizes=sizes)
    steps, batch, _ = x.shape
    return Order(steps, batch, lengths=lengths, resets=resets, starts=starts)


def _key(cell: NativeCell, static: Iterable[str]) -> str:
    """The text that stands for a cell, and for what it is given once."""
    return "/".join([cell.key, *static])


@torch.library.custom_op("cellwright::walk", mutates_args=())
def _walk_op(
    inputs: list[Tensor],
    states: list[Tensor],
    fresh: list[Tensor],
    parameters: list[Tensor],
    key: str,
    batch_sizes: list[int],
    lengths: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
    learned: bool,
    training: bool,
    starts: Tensor | None = None,  # the last, and optional: programs of before
) -> list[Tensor]:
    order = _order(inputs[0], batch_sizes, lengths, resets, starts)
    walk = order.schedule(reverse, learned)
    arguments = inputs, states, fresh, parameters, walk, training
    results, saved = find_cell(key).forward(*arguments)
    if not training:  # the op has one number of results
        saved = results[0].new_empty(0)
    assert saved is not None
    return [*results, saved]


@_walk_op.register_fake
def _(
    inputs, states, fresh, parameters, key, sizes, lengths, resets, reverse, learned,
    training, starts=None,
):  # fmt: skip
    cell, x = find_cell(key), inputs[0]
    y = x.new_empty(*x.shape[:-1], cell.output_size)
    finals = [x.new_empty(s.shape) for s in states]
    rows = x.shape[0] if sizes else x.shape[0] * x.shape[1]
    saved = x.new_empty(rows * sum(cell.planes) if training else 0)
    return [y, *finals, saved]


@torch.library.custom_op("cellwright::walk_backward", mutates_args=())
def _walk_backward_op(
    inputs: list[Tensor],
    states: list[Tensor],
    fresh: list[Tensor],
    parameters: list[Tensor],
    y: Tensor,
    saved: Tensor,
    grads: list[Tensor],
    key: str,
    batch_sizes: list[int],
    lengths: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
    learned: bool,
    starts: Tensor | None = None,
) -> list[Tensor]:
    cell, order = find_cell(key), _order(y, batch_sizes, lengths, resets, starts)
    walk = order.schedule(reverse, learned)
    wanted = tuple(name for name in cell.inputs if name not in cell.constant)
    found, *rest = cell.backward(
        inputs, states, fresh, parameters, y, saved, grads, walk, wanted
    )
    of_inputs = [
        torch.zeros_like(t) if name in cell.constant else found.pop(0)
        for name, t in zip(cell.inputs, inputs, strict=True)
    ]
    return [gradient.clone() for part in (of_inputs, *rest) for gradient in part]


@_walk_backward_op.register_fake
def _(
    inputs, states, fresh, parameters, y, saved, grads, key, sizes, lengths, resets,
    reverse, learned, starts=None,
):  # fmt: skip
    parts = inputs, states, fresh, parameters
    return [t.new_empty(t.shape) for part in parts for t in part]


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    *lists, key, sizes, lengths, resets, reverse, _, training, starts = inputs
    tensors = [t for part in lists for t in part]
    ctx.save_for_backward(*tensors, output[0], output[-1], lengths, resets, starts)
    ctx.counts = [len(part) for part in lists]
    ctx.walk = key, sizes, reverse, training


def _op_backward(ctx: Any, grads: list[Tensor | None]):
    *tensors, y, saved, lengths, resets, starts = ctx.saved_tensors
    parts = _parts(ctx.counts, tensors)
    filled = [
        torch.zeros_like(like) if g is None else g
        for g, like in zip(grads[:-1], [y, *parts[1]], strict=True)
    ]
    key, sizes, reverse, training = ctx.walk
    order = sizes, lengths, resets, reverse, bool(parts[2])
    if not training:  # traced where nobody wanted gradients: nothing was saved
        saved = _walk_op(*parts, key, *order, True, starts)[-1]
    found = _walk_backward_op(*parts, y, saved, filled, key, *order, starts)
    inputs, states, fresh, parameters = _parts(ctx.counts, found)
    inputs, parameters = find_cell(key).arriving(inputs, parameters)
    none = None if sizes else []  # of batch_sizes, as torch wants it
    more = 5 + (starts is not None)  # torch leaves out a last argument at its default
    return (inputs, states, fresh, parameters, None, none, *(None,) * more)


_walk_op.register_autograd(_op_backward, setup_context=_setup_context)
