"""Single steps on the core: weights packed once, states in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..engine import Advance, Bound, Items
from ..programs import Programs
from ..tracing import readable
from .core import _core, check_memory, memory
from .items import made_ahead


def make_stepper(
    stack: Sequence[Callable[[], Bound]],
    states: Sequence[Tensor],
    items: Sequence[Items] = (),
    precision: str = "full",
) -> Advance:
    """As `Engine.stepper`; in full precision the same bits as the layers' scans, but
    for cells in the chunkwise form over 64 steps or more (see docs/streaming.md)."""
    layers = [give() for give in stack]
    programs = [layer.bound.programs for layer in layers]
    dtype = states[0].dtype
    bf16 = layers[0].weights.first_parameter().dtype is torch.bfloat16
    if bf16:
        precision = "bf16"
    if precision != "full":
        programs = [own.variant(precision=precision) for own in programs]
    orders = [own.binding.parameters for own in programs]
    weights = [
        readable([p.detach().to(dtype) for p in layer.weights.in_order(order)])
        for layer, order in zip(layers, orders, strict=True)
    ]
    programs, seen, first = _with_items(programs, weights, items, dtype)
    parts = [
        (
            own.for_rows(states[0].shape[1], 1).compiled("inference"),
            memory(weights[k]),
            [_rows(s[k]) for s in states],
            [_rows(values) for values in seen[k]],
            first[k],
        )
        for k, own in enumerate(programs)
    ]
    size, batch = states[0].element_size(), states[0].shape[1]
    try:
        core: Any = _core.Stepper(parts, size, batch, programs[0].isa)
    except ValueError:
        check_memory([*chain.from_iterable(weights), *states])
        raise

    def advance(
        x: Tensor, named: Sequence[Tensor], y: Tensor, _kept: Any = seen
    ) -> None:
        if named:
            addresses = [x.data_ptr(), *(v.data_ptr() for v in named)]
            core.step(addresses, y.data_ptr())
        else:
            core.step(x.data_ptr(), y.data_ptr())

    return _converted(advance, dtype) if bf16 else advance


def _with_items(
    programs: Sequence[Programs],
    weights: Sequence[list[Tensor]],
    items: Sequence[Items],
    dtype: torch.dtype,
) -> tuple[list[Programs], list[list[Tensor]], list[list[int]]]:
    """What each layer runs when the same items are there at every step.

    Returns:
        Of every layer: the program without what is made of the items alone; the
        values of the items; where each row's items begin, set by set.
    """
    programs = list(programs)
    seen: list[list[Tensor]] = [[] for _ in programs]
    first: list[list[int]] = [[] for _ in programs]
    for k, (values, sets) in enumerate(items):
        values = {name: value.detach().to(dtype) for name, value in values.items()}
        programs[k], own = made_ahead(programs[k], weights[k], (values, sets))
        seen[k] = readable(own)
        for name in programs[k].graph.item_sets:
            first[k] += sets[name].offsets.tolist()
    return programs, seen, first


def _converted(advance: Advance, dtype: torch.dtype) -> Advance:
    """The same on inputs and outputs of another type than the states'."""

    def converted(x: Tensor, named: Sequence[Tensor], y: Tensor) -> None:
        wide = torch.empty_like(y, dtype=dtype)
        advance(x.to(dtype), [v.to(dtype) for v in named], wide)
        y.copy_(wide)

    return converted


def _rows(matrix: Tensor) -> tuple[int, int, int, int]:
    """A contiguous matrix as the core takes it."""
    rows, size = matrix.shape
    return matrix.data_ptr(), rows, size, size
