"""Layers whose values can be recorded: what `cellwright.record` hooks into.

A layer that nobody watches pays one look at an attribute of its class.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..engine import native_op, reference
from ..engine.native import NativeCell
from ..engine.schedule import Order, dense
from ..language.names import recordable

Layout = Callable[[Tensor], Tensor]  # of a walk's rows, as the layer returns y


class Watcher(Protocol):
    """What looks at a layer's calls."""

    gradients: bool

    def wants(self, layer: Any, k: int, names: Mapping[str, int]) -> Mapping[str, int]:
        """Those of the names (and nodes) of layer·direction k that it looks at."""
        ...

    def take(self, layer: Any, k: int, values: Mapping[str, Tensor]) -> None:
        """The values of one call."""
        ...


class Watchers(tuple[Watcher, ...]):
    """A layer's watchers; a copy of the layer has none."""

    __slots__ = ()

    def __reduce__(self) -> Any:
        return Watchers, ()


def run_watched(*call: Any, **how: Any) -> tuple[Tensor, list[Tensor]]:
    """As `_watched`, and outside of whatever traces the layer.

    Raises:
        ArgumentError: inside torch.compile or torch.func, as they trace the layer.
    """
    native_op.check_values_may_leave()
    return _outside_graphs(*call, **how)


def _watched(
    layer: Any,
    k: int,
    cell: NativeCell,
    W: Any,
    parameters: Sequence[Tensor],
    x: Tensor,
    states: Sequence[Tensor],
    inputs: Mapping[str, Tensor],
    layout: Layout,
    *,
    reverse: bool = False,
    order: Order | None = None,
    fresh: Sequence[Tensor] = (),
    static: Collection[str] = (),
) -> tuple[Tensor, list[Tensor]]:
    """Layer·direction k, and its values to the layer's watchers.

    Args:
        cell, parameters: what the native engine runs.
        W: the weights by name, for the reference.
        layout: of the recorded values.
        The others are as `native_op.walk` takes them.

    Returns:
        The outputs and the final states.
    """
    names = recordable(cell.graph)
    watchers = [(w, w.wants(layer, k, names)) for w in layer._watchers]
    nodes = tuple(sorted({node for _, wanted in watchers for node in wanted.values()}))
    gradients = any(w.gradients for w, _ in watchers) and torch.is_grad_enabled()
    probes = _probes(cell, nodes, x, parameters) if gradients else []
    if layer.watched_engine == "native":
        y, news = native_op.walk(
            cell.recording(nodes, gradients),
            x,
            states,
            inputs,
            parameters,
            reverse=reverse,
            order=order,
            fresh=fresh,
            probes=probes,
            static=static,
        )
        finals, records = news[: len(states)], news[len(states) :]
    else:
        walk = (
            order.schedule(reverse) if order else dense(x.shape[0], x.shape[1], reverse)
        )
        sources = [x, *(inputs[name] for name in cell.inputs[1:])]
        y, finals, records = reference.run_graph(
            cell.graph, W, sources, states, fresh, walk, nodes, probes,
            static={*static, *cell.constant},
        )  # fmt: skip
    values = dict(zip(nodes, map(layout, records), strict=True))
    for probe, value in zip(probes, values.values(), strict=False):
        _give_gradient(probe, value, layout)
    for watcher, wanted in watchers:
        shown = {n: values[node] for n, node in wanted.items()}
        if not watcher.gradients:
            shown = {n: v.detach() for n, v in shown.items()}
        watcher.take(layer, k, shown)
    return y, finals


# Once it has left a graph, no part of it is compiled alone.
_outside_graphs: Any = torch.compiler.disable(_watched)


def _probes(
    cell: NativeCell, nodes: Sequence[int], x: Tensor, parameters: Sequence[Tensor]
) -> list[Tensor]:
    """Zeros that could be added to the recorded values: leaves without memory."""
    like = parameters[0] if parameters else x
    zero = like.detach().new_zeros(())
    sizes = [int(cell.graph.nodes[n].size) for n in nodes]
    return [zero.expand(*x.shape[:-1], size).requires_grad_() for size in sizes]


def _give_gradient(probe: Tensor, value: Tensor, layout: Layout) -> None:
    """After backward, `value.grad` is the probe's: through all that the value feeds."""
    known = weakref.ref(value)

    def give(probe: Tensor) -> None:
        value = known()
        if value is not None and probe.grad is not None:
            value.grad = layout(probe.grad)

    probe.register_post_accumulate_grad_hook(give)
