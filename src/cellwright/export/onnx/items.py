"""Layers with items in a whole model: one operation a layer, for torch's exporter.

The native engine's own operation takes no items, and how many there are in a row is no
size that torch could leave free. So while a model is exported such a layer is one
operation of its own, which is never run: it has the layer's results' shapes, and is
written as `direction.py` writes every layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ...compiler.bindings import own_parameters
from ...language import ArgumentError
from ...nn.items import length_name, take_items
from ...nn.sequences import Layout
from .call import NamedCall
from .direction import NamedCell, write_direction
from .writer import Writer

_layers: dict[str, Any] = {}  # that are exported now, by key


@torch.library.custom_op("cellwright::layer_with_items", mutates_args=())
def _op(
    inputs: list[Tensor],  # x, the named inputs: (T, B, size)
    items: list[Tensor],  # (B, S, size) each
    counts: list[Tensor],  # (B,) each
    states: list[Tensor],  # (layers, B, size) each
    resets: list[Tensor],  # what a reset starts from, (layers, size) each
    parameters: list[Tensor],
    key: str,
    lengths: Tensor | None,
    starts: Tensor | None,
    cuts: Tensor | None,
) -> list[Tensor]:
    raise AssertionError("it is written, and never run")


@_op.register_fake
def _(inputs, items, counts, states, resets, parameters, key, lengths, starts, cuts):
    x, layer = inputs[0], _layers[key]
    y = x.new_empty(*x.shape[:2], layer.output_size)
    attention = x.new_empty(*x.shape[:2], items[0].shape[1])
    return [y, *(torch.empty_like(state) for state in states), attention]


@contextmanager
def as_one_operation(layer: Any) -> Iterator[None]:
    """While a model is exported, its layer is the operation."""
    key = str(id(layer))
    _layers[key], layer.forward = layer, _Forward(layer, key)
    try:
        yield
    finally:
        del _layers[key], layer.forward


class _Forward:
    """`Recurrent.forward` as the operation.

    Attributes:
        attention: of the last call, (T, B, S): the mean over a last layer's attends.
    """

    def __init__(self, layer: Any, key: str) -> None:
        self.layer, self.key = layer, key
        self.attention: Tensor | None = None

    def __call__(
        self,
        x: Tensor,
        state: Any = None,
        *,
        lengths: Any = None,
        resets: Any = None,
        starts: Any = None,
        **inputs: Any,
    ) -> Any:
        layer = self.layer
        _refuse_packed(x=x, **inputs)
        sets = take_items("export_onnx", layer.item_sizes, inputs)
        named, static = layer._check_inputs(x, inputs)
        layout = Layout(x, layer.batch_first, lengths, resets, starts)
        states = layer._initial_states(x, state, layout)
        items = [layout.enter_items(given.items) for given in sets]
        _check_shapes(layer, [layout.enter(x), *items], layout.batch.batch)
        counts = [
            values.new_full((values.shape[0],), values.shape[1], dtype=torch.int64)
            if given.lengths is None
            else _of_batch(given.lengths, values)
            for given, values in zip(sets, items, strict=True)
        ]
        batch, steps = layout.batch, layout.enter(x)
        others = [  # in the cell's order, whatever order the call names them in
            layout.enter_static(named[i.name]).expand(steps.shape[0], -1, -1)
            if i.name in static
            else layout.enter(named[i.name])
            for i in layer.graphs[0].inputs[1:]
        ]
        y, *finals, self.attention = _op(
            [steps, *others],
            items,
            counts,
            list(states),
            [] if resets is None else layer.own_states(),
            [t for k in range(len(layer.cells)) for t in parameters_of(layer, k)],
            self.key,
            batch.lengths,
            batch.starts,
            batch.resets,
        )
        finals = layout.leave_states(finals)
        return layout.leave(y), finals[0] if len(finals) == 1 else tuple(finals)


def _refuse_packed(**given: Any) -> None:
    for name, value in given.items():
        if isinstance(value, PackedSequence):
            raise ArgumentError(
                f"[export_onnx] sizes of a PackedSequence are numbers; received "
                f"{name}=PackedSequence, expected a padded tensor, and "
                f"{'lengths' if name == 'x' else length_name(name)}= of its rows"
            )


def _of_batch(counts: Tensor, items: Tensor) -> Tensor:
    """Counts of items, (B,), which has the batch of these."""
    if counts.shape != items.shape[:1]:
        raise ArgumentError(
            f"[export_onnx] counts of items have the shape {tuple(counts.shape)}; "
            f"expected ({items.shape[0]},)"
        )
    return counts.to(torch.int64)


def _check_shapes(layer: Any, values: Sequence[Tensor], batch: int) -> None:
    """Hold x and the items to one batch and to their sizes, which are then not free."""
    names = ["x", *layer.item_sizes]
    sizes = [layer.input_size, *layer.item_sizes.values()]
    for name, value, size in zip(names, values, sizes, strict=True):
        rows = value.shape[1 if name == "x" else 0]
        if value.dim() != 3 or value.shape[2] != size or rows != batch:
            raise ArgumentError(
                f"[export_onnx] {name} has the wrong shape; received "
                f"{tuple(value.shape)}, expected a batch of {batch} and {size} units"
            )


def parameters_of(layer: Any, k: int) -> list[Tensor]:
    """Those of layer·direction k, in its binding's order."""
    bound, weights = layer.direction(k)
    return weights.in_order(own_parameters(bound.graph).parameters)


class Operation(NamedTuple):
    """The operation's arguments, tensors by their names in the graph."""

    inputs: Sequence[str]
    items: Sequence[str]
    counts: Sequence[str]
    states: Sequence[str]
    resets: Sequence[str]
    parameters: Sequence[str]
    key: str
    lengths: str
    starts: str
    cuts: str


def write_layer(writer: Writer, given: Operation, step: bool) -> list[str]:
    """Write one call of the operation; the names of its results."""
    layer: Any = _layers[given.key]
    sets = dict(zip(layer.item_sizes, given.items, strict=True))
    counts = dict(zip(layer.item_sizes, given.counts, strict=True))
    members = {name: writer.before(sets[name], counts[name]) for name in sets}
    names = [i.name for i in layer.graphs[0].inputs[1:]]
    x, *others = given.inputs
    finals, rest, attention, count = [], list(given.parameters), "", layer.directions
    for first in range(0, len(layer.cells), count):
        outputs = []
        for k in range(first, first + count):
            bound = layer.direction(k).bound
            binding = own_parameters(bound.graph)
            own, rest = _split(rest, len(binding.parameters))
            call = NamedCall(
                x,
                dict(zip(names, others, strict=True)),
                {},
                [
                    writer.add("Gather", s, writer.integer(k), axis=0)
                    for s in given.states
                ],
                [
                    writer.add("Gather", s, writer.integer(k), axis=0)
                    for s in given.resets
                ],
                given.lengths,
                given.starts,
                given.cuts,
                bool(k % count),
                step,
                sets,
                members,
                k == len(layer.cells) - 1 and len(sets) == 1,
            )
            cell = NamedCell(bound.graph, binding, own)
            y, news, attention = write_direction(
                writer, f"cell{k}", cell, call, operators=False
            )
            outputs.append(y)
            finals.append([writer.unsqueeze(new, 0) for new in news])
        x = writer.concatenate(outputs, 2)
    stacked = [writer.concatenate(parts, 0) for parts in zip(*finals, strict=True)]
    return [x, *stacked, attention or writer.zeros(0)]


def _split(values: list[str], count: int) -> tuple[list[str], list[str]]:
    return values[:count], values[count:]
