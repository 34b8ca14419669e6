"""The Triton engine as torch sees it: one differentiable operation a call.

`run` takes an autograd function, or the custom op `cellwright::triton_scan` where
somebody looks at torch's operations (torch.compile, torch.export, make_fx).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import tracing
from ..call import Call
from ..derivatives import gradients_of
from ..programs import Programs, find_programs
from ..schedule import SequenceBatch
from ..segments import scan_segments
from .scan import PackedScan

_NARROW = (torch.float16, torch.bfloat16)


def run(
    programs: Programs, parameters: Sequence[Tensor], call: Call
) -> tuple[Tensor, list[Tensor]]:
    """As `Engine.run` over sequences.

    Args:
        parameters: as the programs' binding lists them.
    """
    batch = call.batch
    assert isinstance(batch, SequenceBatch)
    like = parameters[0] if parameters else call.x
    dtype = _product_dtype(like)
    inputs = [call.inputs[name] for name in programs.inputs[1:]]
    call = call._replace(
        x=call.x.float(),
        inputs=dict(zip(programs.inputs[1:], _wide(inputs), strict=True)),
        reset_state=_wide(call.reset_state),
    )
    wide = _wide(parameters)
    states = programs.filled(call.states, call.x, batch.batch)
    if programs.constant or programs.static:  # here every input has its rows
        programs = programs.variant(constant=(), static=())
    programs = programs.level_by_level

    def scan(
        sources: list[Tensor], batch_sizes: Tensor | None, states: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        sizes = () if batch_sizes is None else tuple(batch_sizes.tolist())
        tensors = [*sources, *(s[0] for s in states), *wide]
        y, *finals = _scan(PackedScan(programs, sizes, dtype), tensors)
        return y, [final[None] for final in finals]

    with torch.autocast(like.device.type, enabled=False):
        y, finals = scan_segments(call, _wide(states), scan)
    if like.dtype in _NARROW:
        return y.to(like.dtype), [f.to(like.dtype) for f in finals]
    return y, finals


def _product_dtype(like: Tensor) -> torch.dtype:
    """Of the factors of products: the parameters', or torch.autocast's."""
    device = like.device.type
    if like.dtype is torch.float32 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return like.dtype


def _wide(tensors: Sequence[Any]) -> list[Any]:
    return [t if t is None else t.float() for t in tensors]


def _scan(scan: PackedScan, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The outputs and the final states."""
    compiling = torch.compiler.is_compiling()
    way = "op" if compiling else tracing.way(tensors)
    if way == "reference":
        return scan.reference(tensors)
    wants = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    if way == "op":
        programs, sizes, dtype = scan
        key = programs.key_with(())
        results = _scan_op(list(tensors), key, list(sizes), str(dtype)[6:], wants)
        return results[: 1 + len(programs.sizes)]
    if wants:
        return list(_Scan.apply(scan, *tensors))  # type: ignore[misc]
    return scan.forward(tensors, False)[0]


class _Scan(torch.autograd.Function):
    """The eager way with gradients."""

    @staticmethod
    def forward(ctx: Any, scan: PackedScan, *tensors: Tensor) -> Any:
        results, saved = scan.forward(tensors, True)
        ctx.save_for_backward(*tensors, results[0], *saved)
        ctx.scan, ctx.count = scan, len(tensors)
        ctx.set_materialize_grads(False)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        tensors, (y, *saved) = _cut(ctx.saved_tensors, ctx.count)
        needed = ctx.needs_input_grad[1:]
        # By torch's operations where gradients are differentiable, or are no plain
        # tensors: a batch of cotangents, a tracer's.
        if torch.is_grad_enabled() or tracing.way(grads, closely=True) != "memory":
            found = gradients_of(ctx.scan.reference, tensors, grads, needed)
        else:
            found = ctx.scan.backward(tensors, y, saved, grads, needed)
        return (None, *found)


def _cut(tensors: Sequence[Tensor], count: int) -> tuple[list[Tensor], list[Tensor]]:
    return list(tensors[:count]), list(tensors[count:])


# -- the custom op


def _of_op(key: str, sizes: Sequence[int], dtype: str) -> PackedScan:
    return PackedScan(find_programs(key), tuple(sizes), getattr(torch, dtype))


@torch.library.custom_op("cellwright::triton_scan", mutates_args=())
def _scan_op(
    tensors: list[Tensor],
    key: str,
    sizes: list[int],
    dtype: str,
    training: bool,
) -> list[Tensor]:
    results, saved = _of_op(key, sizes, dtype).forward(tensors, training)
    return [*results, *saved]


@_scan_op.register_fake
def _(tensors, key, sizes, dtype, training):
    programs, x = find_programs(key), tensors[0]
    states = tensors[len(programs.inputs) :][: len(programs.sizes)]
    shape, rows = x.shape[:-1], x.shape[:-1].numel()
    y = x.new_empty(*shape, programs.output_size)
    saved = [x.new_empty(rows, n) for n in programs.saved_sizes] if training else []
    return [y, *(x.new_empty(s.shape) for s in states), *saved]


@torch.library.custom_op("cellwright::triton_scan_backward", mutates_args=())
def _scan_backward_op(
    tensors: list[Tensor],
    y: Tensor,
    saved: list[Tensor],
    grads: list[Tensor],
    key: str,
    sizes: list[int],
    dtype: str,
) -> list[Tensor]:
    scan = _of_op(key, sizes, dtype)
    found = scan.backward(tensors, y, saved, grads, [True] * len(tensors))
    return [
        torch.zeros_like(t) if g is None else g
        for g, t in zip(found, tensors, strict=True)
    ]


@_scan_backward_op.register_fake
def _(tensors, y, saved, grads, key, sizes, dtype):
    return [t.new_empty(t.shape) for t in tensors]


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    tensors, *ctx.call, _ = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.count = len(tensors)


def _op_backward(ctx: Any, grads: list[Tensor | None]) -> Any:
    key, sizes, dtype = ctx.call
    programs = find_programs(key)
    tensors, results = _cut(ctx.saved_tensors, ctx.count)
    results, saved = _cut(results, 1 + len(programs.sizes))
    pairs = zip(results, grads, strict=False)
    filled = [torch.zeros_like(r) if g is None else g for r, g in pairs]
    found = _scan_backward_op(tensors, results[0], saved, filled, key, sizes, dtype)
    first, last = len(programs.inputs), len(found) - len(programs.binding.parameters)
    of_inputs, of_parameters = programs.arriving(found[:first], found[last:])
    of_tensors = [*of_inputs, *found[first:last], *of_parameters]
    return of_tensors, None, None if sizes else [], None, None  # as torch wants it


_scan_op.register_autograd(_op_backward, setup_context=_setup_context)
