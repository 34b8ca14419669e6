"""The native engine as torch sees it: one differentiable operation a call.

`run` goes straight to the core without gradients, through an autograd function with
them, and through the custom op `cellwright::walk` where somebody looks at torch's
operations (torch.compile, torch.export, torch.jit.trace, make_fx): see `tracing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ...language import ArgumentError
from .. import tracing
from ..call import Call
from ..derivatives import gradients_of
from ..programs import Programs, find_programs
from ..schedule import SequenceBatch
from .items import made_ahead
from .segments import SegmentedScan, saved_numbers, scan_of
from .sequences import SequenceScan
from .trees import TreeScan


def run(
    programs: Programs, parameters: Sequence[Tensor], call: Call
) -> tuple[Tensor, list[Tensor]]:
    """As `Engine.run` over sequences.

    Args:
        parameters: as the programs' binding lists them.
    """
    dtype, bf16 = _types(parameters, call.x)
    found = _run(programs, parameters, call, dtype, bf16)
    return _narrowed(found) if bf16 else found


def _run(
    programs: Programs,
    parameters: Sequence[Tensor],
    call: Call,
    dtype: torch.dtype,
    bf16: bool,
) -> tuple[Tensor, list[Tensor]]:
    batch, states, resets = call.batch, call.states, call.reset_state
    assert isinstance(batch, SequenceBatch)
    if programs.recorded:
        tracing.check_values_may_leave()
    sources: list[Tensor] = [call.x]
    static: tuple[str, ...] = ()
    if call.inputs or call.items:
        programs, sources, static = _sources(programs, parameters, call, dtype)
    halves = _may_be_halves(programs, static) if bf16 else ()
    given = *sources, *states, *resets, *parameters, *call.taps
    tensors = _cast(given, dtype, halves)
    first, last = len(sources), len(sources) + len(states)
    # The gradient of the reset state is wanted.
    learned = bool(resets) and any(t.requires_grad for t in resets)
    way = "op" if torch.compiler.is_compiling() else tracing.way(tensors)
    if call.items and way == "op":  # the op takes none
        tracing.refuse_jit("the steps of a cell with items")
        way = "reference"
    schedule = None if way == "op" else batch.schedule(call.reverse, learned)
    if schedule is None or not schedule.whole:
        filled = programs.filled(tensors[first:last], tensors[0], batch.batch, dtype)
        tensors[first:last] = filled
    if schedule is None:
        counts = first, len(states), len(resets), len(parameters)
        key = programs.key_with(static, bf16)
        return _as_op(key, _lists(counts, tensors), batch, call.reverse, learned)
    if resets and schedule.resets is None:
        del tensors[last : last + len(resets)]
    programs = programs.given_once(static)
    if bf16:
        programs = programs.variant(precision="bf16")
    if any(programs.matrices) and not call.items:
        element = tensors[0].element_size()
        scan = scan_of(programs, batch, call.reverse, learned, element)
        return _scan(scan, way, tensors)
    return _scan(SequenceScan(programs, schedule, call.sets), way, tensors)


def _sources(
    programs: Programs, parameters: Sequence[Tensor], call: Call, dtype: torch.dtype
) -> tuple[Programs, list[Tensor], tuple[str, ...]]:
    """The programs that run a call; its inputs, then its items, in their order; which
    of the inputs are the same at every step, where the programs do not say so."""
    x, inputs, items = call.x, call.inputs, call.items
    sources = [x, *(inputs[n] for n in programs.inputs[1:])]
    static: tuple[str, ...] = ()
    if items:
        items = dict(zip(items, _cast([*items.values()], dtype), strict=True))
        learnt = _cast(parameters, dtype)
        programs, own = made_ahead(programs, learnt, (items, call.sets))
        sources += own
    if inputs:
        static = tuple(n for n in call.static if n not in programs.constant)
    return programs, sources, static


def run_trees(
    programs: Programs, parameters: Sequence[Tensor], call: Call
) -> tuple[Tensor, list[Tensor]]:
    """As `Engine.run` over a forest."""
    sources = [call.x, *(call.inputs[name] for name in programs.inputs[1:])]
    dtype, bf16 = _types(parameters, call.x)
    tensors = _cast([*sources, *parameters], dtype)
    if bf16:
        programs = programs.variant(precision="bf16")
    found = _run_forest(TreeScan(programs, call.batch), tensors)  # type: ignore[arg-type]
    return _narrowed(found) if bf16 else found


# A forest is no tensor: torch.compile breaks its graph here.
@torch.compiler.disable
def _run_forest(scan: TreeScan, tensors: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    way = tracing.way(tensors)
    # Nor is it anything that an op takes.
    return _scan(scan, "reference" if way == "op" else way, tensors)


def _types(parameters: Sequence[Tensor], x: Tensor) -> tuple[torch.dtype, bool]:
    """The type that the core computes in, and whether its products are bf16's: of
    parameters in bf16, and of float32 ones under torch.autocast."""
    dtype = parameters[0].dtype if parameters else x.dtype
    if dtype is torch.bfloat16:
        return torch.float32, True
    return dtype, dtype is torch.float32 and autocast_bf16()


def autocast_bf16() -> bool:
    """Under torch.autocast("cpu", torch.bfloat16)."""
    return (
        torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") is torch.bfloat16
    )


def _narrowed(found: tuple[Tensor, list[Tensor]]) -> tuple[Tensor, list[Tensor]]:
    """Results in bf16, as torch's own layers give them there."""
    y, rest = found
    return y.to(torch.bfloat16), [t.to(torch.bfloat16) for t in rest]


def _cast(
    tensors: Sequence[Any], dtype: torch.dtype, halves: Sequence[bool] = ()
) -> list[Any]:
    """All of one type: the core knows no other, and under autocast some differ.

    Args:
        halves: of each of the first, whether it stays in bf16 if it is.
    """
    rest = tensors[len(halves) :] if halves else tensors
    cast = [t if t is None or t.dtype is dtype else t.to(dtype) for t in rest]
    if not halves:
        return cast
    first = (
        t if may and t.dtype is torch.bfloat16 else t.to(dtype)
        for t, may in zip(tensors, halves, strict=False)
    )
    return [*first, *cast]


def _may_be_halves(programs: Programs, static: Sequence[str]) -> list[bool]:
    """Of each source, whether the core reads it in bf16; not what comes once."""
    once = {*programs.constant, *static, *programs.items}
    return [not programs.has_matrices and n not in once for n in programs.sources]


def _scan(
    scan: SequenceScan | SegmentedScan | TreeScan,
    way: str,
    tensors: Sequence[Any],
) -> tuple[Tensor, list[Tensor]]:
    """Outside of what traces the call: on the core, or by torch's operations."""
    if way == "reference":
        results = scan.reference(tensors)
    elif torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in tensors
    ):
        results = _Scan.apply(scan, *tensors)  # type: ignore[misc]
    else:
        results, _ = scan.forward(tensors, False)
    return results[0], list(results[1:])


class _Scan(torch.autograd.Function):
    """The eager way with gradients: lighter than the op, on the same core."""

    @staticmethod
    def forward(
        ctx: Any, scan: SequenceScan | SegmentedScan | TreeScan, *tensors: Tensor
    ) -> Any:
        results, saved = scan.forward(tensors, True)
        kept = *tensors, *saved
        ctx.save_for_backward(*kept)
        ctx.scan, ctx.count, ctx.kinds = scan, len(tensors), _kinds(kept)
        ctx.set_materialize_grads(False)
        programs = scan.programs
        if programs.recorded and not programs.tapped:
            ctx.mark_non_differentiable(*results[1 + len(programs.sizes) :])
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        scan, count = ctx.scan, ctx.count
        kept = ctx.saved_tensors  # once: checkpointing unpacks no tensor twice
        _check_unpacked(kept, ctx.kinds)
        tensors, saved = kept[:count], kept[count:]
        needed = ctx.needs_input_grad[1:]
        # From torch's operations where gradients are differentiable, or where the core
        # cannot read the cotangents (a batch of them, a tracer's).
        if torch.is_grad_enabled() or tracing.way(grads, closely=True) != "memory":
            found = gradients_of(scan.reference, tensors, grads, needed)
        else:
            found = scan.backward(tensors, tracing.readable(saved), grads, needed)
        return (None, *found)


def _kinds(tensors: Sequence[Tensor | None]) -> list[Any]:
    return [t if t is None else (t.dtype, t.shape) for t in tensors]


def _check_unpacked(tensors: Sequence[Tensor | None], kinds: Sequence[Any]) -> None:
    """Saved tensors as they come back: a user's hooks may have packed and unpacked
    them, and torch leaves it to who reads them to see what they are now.

    Raises:
        ArgumentError: of another type or shape than were saved.
    """
    found = _kinds(tensors)
    if found == kinds:
        return
    pairs = zip(found, kinds, strict=True)
    (dtype, shape), (own, size) = next((f, k) for f, k in pairs if f != k)
    raise ArgumentError(
        "[saved_tensors_hooks] a saved tensor comes back as another one; received "
        f"{tuple(shape)} of {dtype}, expected {tuple(size)} of {own}. Give it its type "
        "and shape again in the hook that unpacks it"
    )


# -- the custom op: its names are in exported programs, which load for ever


Lists = tuple[list[Any], list[Any], list[Any], list[Any]]


def _as_op(
    key: str, lists: Lists, batch: SequenceBatch, reverse: bool, learned: bool
) -> tuple[Tensor, list[Tensor]]:
    """The scan as `cellwright::walk`, the node that tracers see.

    Args:
        key: of the programs.
        lists: inputs, initial states, reset states, parameters.
    """
    training = torch.is_grad_enabled()
    if not torch.compiler.is_compiling() and tracing.jit():
        if torch.onnx.is_in_onnx_export():
            tracing.refuse_jit("a layer on the native engine")
        training = learned = False  # a trace runs with and without gradients
    sequences = list(batch.batch_sizes or ()), batch.lengths, batch.resets
    y, *rest = _walk_op(
        *lists, key, *sequences, reverse, learned, training, batch.starts
    )
    return y, rest[:-1]


def _lists(counts: Sequence[int], tensors: Iterable[Any]) -> Lists:
    """One list of tensors as inputs, states, reset states, parameters."""
    rest = iter(tensors)
    inputs, states, resets, parameters = (list(islice(rest, n)) for n in counts)
    return inputs, states, resets, parameters


def _batch(
    x: Tensor,
    sizes: Sequence[int],
    lengths: Tensor | None,
    resets: Tensor | None,
    starts: Tensor | None,
) -> SequenceBatch:
    if sizes:
        return SequenceBatch(len(sizes), sizes[0], batch_sizes=sizes)
    steps, batch, _ = x.shape
    return SequenceBatch(steps, batch, lengths=lengths, resets=resets, starts=starts)


@torch.library.custom_op("cellwright::walk", mutates_args=())
def _walk_op(
    inputs: list[Tensor],
    states: list[Tensor],
    fresh: list[Tensor],  # the reset states
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
    batch = _batch(inputs[0], batch_sizes, lengths, resets, starts)
    element = inputs[0].element_size()
    scan = scan_of(find_programs(key), batch, reverse, learned, element)
    fresh = [] if batch.schedule(reverse, learned).resets is None else fresh
    results, saved = scan.forward([*inputs, *states, *fresh, *parameters], training)
    # The op has one number of results.
    return [*results, saved[1] if training else results[0].new_empty(0)]


@_walk_op.register_fake
def _(
    inputs,
    states,
    fresh,
    parameters,
    key,
    sizes,
    lengths,
    resets,
    reverse,
    learned,
    training,
    starts=None,
):
    programs, x = find_programs(key), inputs[0]
    kept = programs.kept_as
    y = x.new_empty(*x.shape[:-1], programs.output_size, dtype=kept)
    finals = [x.new_empty(s.shape, dtype=programs.number) for s in states]
    steps, batch = (len(sizes), sizes[0]) if sizes else x.shape[:2]
    rows = x.shape[0] if sizes else x.shape[0] * x.shape[1]
    shape = steps, batch, rows, x.element_size()
    count = saved_numbers(programs, *shape) if training else 0
    return [y, *finals, x.new_empty(count, dtype=kept)]


@torch.library.custom_op("cellwright::walk_backward", mutates_args=())
def _walk_backward_op(
    inputs: list[Tensor],
    states: list[Tensor],
    fresh: list[Tensor],  # the reset states
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
    batch = _batch(y, batch_sizes, lengths, resets, starts)
    element = inputs[0].element_size()
    scan = scan_of(find_programs(key), batch, reverse, learned, element)
    unused = [] if batch.schedule(reverse, learned).resets is not None else fresh
    tensors = [*inputs, *states, *([] if unused else fresh), *parameters]
    constant = scan.programs.constant
    needed = [name not in constant for name in scan.programs.inputs]
    needed += [True] * (len(tensors) - len(needed))
    found = scan.backward(tensors, tracing.readable([y, saved]), grads, needed)
    at = len(inputs) + len(states)
    found[at:at] = [None] * len(unused)
    tensors[at:at] = unused
    return [
        torch.zeros_like(like) if gradient is None else gradient.clone()
        for gradient, like in zip(found, tensors, strict=True)
    ]


@_walk_backward_op.register_fake
def _(inputs, states, fresh, parameters, *_, **__):
    parts = inputs, states, fresh, parameters
    return [t.new_empty(t.shape) for part in parts for t in part]


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    *lists, key, sizes, lengths, resets, reverse, _, training, starts = inputs
    tensors = [t for part in lists for t in part]
    kept = *tensors, output[0], output[-1], lengths, resets, starts
    ctx.save_for_backward(*kept)
    ctx.kinds = _kinds(kept)
    ctx.counts = [len(part) for part in lists]
    ctx.call = key, sizes, reverse, training


def _op_backward(ctx: Any, grads: list[Tensor | None]):
    kept = ctx.saved_tensors
    _check_unpacked(kept, ctx.kinds)
    *tensors, y, saved, lengths, cuts, starts = kept
    lists = _lists(ctx.counts, tensors)
    filled = [
        torch.zeros_like(like) if g is None else g
        for g, like in zip(grads[:-1], [y, *lists[1]], strict=True)
    ]
    key, sizes, reverse, training = ctx.call
    batch = sizes, lengths, cuts, reverse, bool(lists[2])
    if not training:  # traced where nobody wanted gradients: nothing was saved
        saved = _walk_op(*lists, key, *batch, True, starts)[-1]
    found = _walk_backward_op(*lists, y, saved, filled, key, *batch, starts)
    inputs, states, resets, parameters = _lists(ctx.counts, found)
    inputs, parameters = find_programs(key).arriving(inputs, parameters)
    none = None if sizes else []  # of batch_sizes, as torch wants it
    more = 5 + (starts is not None)  # torch leaves out a last argument at its default
    return (inputs, states, resets, parameters, None, none, *(None,) * more)


_walk_op.register_autograd(_op_backward, setup_context=_setup_context)
