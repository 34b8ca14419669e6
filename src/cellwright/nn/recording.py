"""Layers whose values can be recorded: what `cellwright.record` hooks into.

A layer that nobody watches pays one look at an attribute of its class.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import Lock, get_ident
from typing import Any, Protocol

import torch
from torch import Tensor

from ..engine.call import Call
from ..engine.engine import Engine
from ..engine.tracing import check_values_may_leave
from ..language.names import recordable
from .direction import Direction

WATCHING = Lock()  # held while a layer's watchers change
Padded = Callable[[Tensor], Tensor]  # an engine's values as the layer returns y


class Watcher(Protocol):
    """What looks at a layer's calls."""

    gradients: bool

    def wants(self, layer: Any, k: int, names: Mapping[str, int]) -> Mapping[str, int]:
        """Those of the names (and nodes) of layer·direction k that it looks at."""
        ...

    def take(self, layer: Any, k: int, values: Mapping[str, Tensor]) -> None:
        """The values of one call."""
        ...


class Watchers(tuple[tuple[int, Watcher], ...]):
    """A layer's watchers, each with its thread; a copy of the layer has none.

    A call is seen by those of its own thread alone: several threads may use one model,
    and look at what it does, at once.
    """

    __slots__ = ()

    def of_this_thread(self) -> list[Watcher]:
        own = get_ident()
        return [watcher for thread, watcher in self if thread == own]

    def and_one(self, watcher: Watcher) -> Watchers:
        return Watchers((*self, (get_ident(), watcher)))

    def without(self, watcher: Watcher) -> Watchers:
        return Watchers(pair for pair in self if pair[1] is not watcher)

    def __reduce__(self) -> Any:
        return Watchers, ()


def run_watched(layer: Any, k: int, *how: Any) -> tuple[Tensor, list[Tensor]]:
    """As `_watched`, and outside of whatever traces the layer.

    Raises:
        ArgumentError: inside torch.compile or torch.func, as they trace the layer.
    """
    check_values_may_leave()
    return _outside_graphs(layer, k, *how)


def _watched(
    layer: Any,
    k: int,
    engine: Engine,
    direction: Direction,
    call: Call,
    padded: Padded,
) -> tuple[Tensor, list[Tensor]]:
    """Run a call, and give its values to the layer's watchers.

    Args:
        layer, k: whose values they are.
        engine, direction, call: as `engine.run` takes them.
        padded: lays out the recorded values.

    Returns:
        The outputs and the final states.
    """
    names = recordable(direction.bound.programs.graph)
    watchers = [(w, w.wants(layer, k, names)) for w in layer.watchers]
    nodes = tuple(sorted({node for _, wanted in watchers for node in wanted.values()}))
    gradients = any(w.gradients for w, _ in watchers) and torch.is_grad_enabled()
    shapes = [_shape(direction, node, call) for node in nodes]
    taps = _taps(direction, shapes, call.x) if gradients else []
    direction = direction.recording(nodes, gradients)
    y, news = engine.run(direction, call._replace(taps=taps))
    finals, records = news[: len(call.states)], news[len(call.states) :]
    ways = [partial(_laid_out, padded, shape) for shape in shapes]
    values = {node: way(r) for node, way, r in zip(nodes, ways, records, strict=True)}
    for tap, way, value in zip(taps, ways, values.values(), strict=False):
        _give_gradient(tap, value, way)
    for watcher, wanted in watchers:
        shown = {n: values[node] for n, node in wanted.items()}
        if not watcher.gradients:
            shown = {n: v.detach() for n, v in shown.items()}
        watcher.take(layer, k, shown)
    return y, finals


# Once it has left a graph, no part of it is compiled alone.
_outside_graphs: Any = torch.compiler.disable(_watched)


def _shape(direction: Direction, node: int, call: Call) -> tuple[int, ...]:
    """The shape of a row of a value: (size,), or with one for each item (S, size)."""
    graph = direction.bound.programs.graph
    name, size = graph.sets[node], int(graph.nodes[node].size)
    return (size,) if name is None else (call.sets[name].longest, size)


def _laid_out(padded: Padded, shape: tuple[int, ...], values: Tensor) -> Tensor:
    """An engine's values as the layer returns y; numbers of items as (…, S)."""
    values = padded(values)
    if len(shape) == 1:
        return values
    return values.reshape(*values.shape[:-1], *(shape if shape[-1] > 1 else shape[:1]))


def _taps(
    direction: Direction, shapes: Sequence[tuple[int, ...]], x: Tensor
) -> list[Tensor]:
    """Zeros that could be added to the recorded values: leaves without memory."""
    zero = direction.weights.first_parameter().detach().new_zeros(())
    sizes = map(math.prod, shapes)
    return [zero.expand(*x.shape[:-1], size).requires_grad_() for size in sizes]


def _give_gradient(tap: Tensor, value: Tensor, padded: Padded) -> None:
    """After backward, `value.grad` is the tap's: through all that the value feeds."""
    known = weakref.ref(value)

    def give(tap: Tensor) -> None:
        value = known()
        if value is not None and tap.grad is not None:
            value.grad = padded(tap.grad)

    tap.register_post_accumulate_grad_hook(give)
