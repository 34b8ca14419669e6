"""Single steps on the core: weights packed once, states in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from torch import Tensor

from ..engine import Advance, Bound
from ..tracing import readable
from .core import _core, check_memory, memory


def make_stepper(
    stack: Sequence[Callable[[], Bound]], states: Sequence[Tensor]
) -> Advance:
    """As `Engine.stepper`; the same bits as the layers' scans."""
    layers = [give() for give in stack]
    programs = [layer.bound.programs for layer in layers]
    orders = [own.binding.parameters for own in programs]
    weights = [
        readable([p.detach() for p in layer.weights.in_order(order)])
        for layer, order in zip(layers, orders, strict=True)
    ]
    parts = [
        (
            own.for_rows(states[0].shape[1], 1).compiled("inference"),
            memory(weights[k]),
            [(s[k].data_ptr(), *s[k].shape, s[k].shape[1]) for s in states],
        )
        for k, own in enumerate(programs)
    ]
    size, batch = states[0].element_size(), states[0].shape[1]
    try:
        core: Any = _core.Stepper(parts, size, batch, programs[0].isa)
    except ValueError:
        check_memory([*chain.from_iterable(weights), *states])
        raise

    def advance(x: Tensor, named: Sequence[Tensor], y: Tensor) -> None:
        if named:
            addresses = [x.data_ptr(), *(v.data_ptr() for v in named)]
            core.step(addresses, y.data_ptr())
        else:
            core.step(x.data_ptr(), y.data_ptr())

    return advance
