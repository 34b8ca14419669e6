"""One layer as an ONNX model."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...compiler.bindings import own_parameters
from ...language import ArgumentError
from ...nn.items import length_name
from ...nn.layer import SequenceLayer
from .call import NamedCall
from .direction import NamedCell, Results, write_direction
from .writer import Writer, fold_weights


@dataclass(frozen=True)
class Wanted:
    """What a layer's model takes beside its input, as `export_onnx` has it."""

    lengths: bool
    starts: bool
    resets: bool
    initial_states: bool
    static: Collection[str]
    step: bool


@torch.no_grad()
def layer_model(
    layer: SequenceLayer, wanted: Wanted, operators: bool, opset: int
) -> Any:
    """The model of one layer, an `onnx.ModelProto`."""
    if wanted.step:
        check_step(layer)
    return _Model(layer, wanted, operators).build(opset)


def check_step(layer: Any) -> None:
    """Raise ArgumentError for a layer that cannot go on from step to step."""
    if layer.bidirectional:
        raise ArgumentError(
            "[export_onnx] a bidirectional layer reads the end of the sequence first, "
            "so it has no step; received step=True, expected layers that scan forward "
            "only"
        )


def initial_values(layer: SequenceLayer, names: Sequence[str]) -> str:
    """The states that a layer starts from by itself, as JSON.

    Args:
        layer: whose.
        names: of its states.

    Returns:
        An object: of each state one number, or (layers·directions, 1, size) of them.
    """
    found = {}
    for name, value in zip(names, layer.own_states(), strict=True):
        first = value.flatten()[0]
        same = bool((value == first).all())
        found[name] = first.item() if same else value[:, None].tolist()
    return json.dumps(found)


def _check_static(static: Collection[str], known: Sequence[str]) -> Collection[str]:
    for name in [static] if isinstance(static, str) else static:
        if name not in known:
            raise ArgumentError(
                f"[export_onnx] the layer has no named input {name!r}; received "
                f"static={static!r}, expected some of [{', '.join(known)}]"
            )
    return (static,) if isinstance(static, str) else static


class _Model:
    """One layer's model: through its layers and directions."""

    def __init__(self, layer: Any, wanted: Wanted, operators: bool) -> None:
        self.layer, self.wanted, self.operators = layer, wanted, operators
        self.main = Writer(layer.placement()[1])
        count = layer.num_layers * layer.directions
        self.directions = [layer.direction(k) for k in range(count)]
        self.graph = self.directions[0].bound.graph
        self.inputs = {i.name: i.size for i in self.graph.inputs}
        self.items = {i.name: i.size for i in self.graph.items}
        self.static = _check_static(wanted.static, list(self.inputs)[1:])
        self.own_states = layer.own_states()

    def build(self, opset: int) -> Any:
        main, helper, name = self.main, self.main.onnx.helper, self.layer.cell.name
        inputs = self.declared_inputs()
        y, finals = self.scan()
        outputs = self.outputs(y, finals)
        tensors = list(main.tensors.values())
        graph = helper.make_graph(main.nodes, name, inputs, outputs, tensors)
        opsets = [helper.make_opsetid("", opset)]
        model = helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=helper.find_min_ir_version_for(opsets),
            producer_name="cellwright",
        )
        helper.set_model_props(model, self.metadata())
        fold_weights(model)
        return model

    def metadata(self) -> dict[str, str]:
        found = {"cellwright.cell": self.layer.cell.to_text()}
        if self.wanted.initial_states:
            names = [self.free(f"{s.name}_0") for s in self.graph.states]
            found["cellwright.initial_states"] = initial_values(self.layer, names)
        return found

    # -- inputs and outputs

    @property
    def lead(self) -> tuple[str | int, str | int]:
        return self.in_order("batch", 1 if self.wanted.step else "time")

    def in_order(self, batch: str, other: str | int) -> tuple[str | int, str | int]:
        """Sizes as the layer has batch and time, or batch and items."""
        return (batch, other) if self.layer.batch_first else (other, batch)

    def free(self, name: str) -> str:
        """A name of the model's own: the user's inputs keep theirs.

        What is written inside of it has a dot in its name, as no input has.
        """
        while name in self.inputs or name in self.items:
            name += "_"
        return name

    def declared_inputs(self) -> list[Any]:
        main, lead, wanted = self.main, self.lead, self.wanted
        inputs = [
            main.declare(name, *(("batch",) if name in self.static else lead), size)
            for name, size in self.inputs.items()
        ]
        if wanted.initial_states:
            inputs += [
                main.declare(
                    self.free(f"{s.name}_0"), len(self.directions), "batch", int(s.size)
                )
                for s in self.graph.states
            ]
        for name, size in self.items.items():
            lead_of_items = self.in_order("batch", f"{name}_count")
            inputs.append(main.declare(name, *lead_of_items, size))
            inputs.append(main.declare_as("INT64", length_name(name), "batch"))
        for name in ("lengths", "starts"):
            if getattr(wanted, name):
                inputs.append(main.declare_as("INT64", name, "batch"))
        if wanted.resets:
            inputs.append(main.declare_as("BOOL", "resets", *lead))
        return inputs

    def outputs(self, y: str, finals: Sequence[Sequence[str]]) -> list[Any]:
        main, count, name = self.main, len(finals), self.free("y")
        main.append("Identity", [self.time_first(y, 3)], [name])
        outputs = [main.declare(name, *self.lead, self.layer.output_size)]
        states = zip(self.graph.states, zip(*finals, strict=True), strict=True)
        for state, parts in states:
            name = self.free(f"{state.name}_n")
            stacked = [main.unsqueeze(part, 0) for part in parts]
            main.append("Concat", stacked, [name], axis=0)
            outputs.append(main.declare(name, count, "batch", int(state.size)))
        return outputs

    def time_first(self, sequence: str, dimensions: int) -> str:
        """Between the layer's order of time and batch and ours, either way."""
        if not self.layer.batch_first:
            return sequence
        order = [1, 0, 2][:dimensions]
        return self.main.add("Transpose", sequence, perm=order)

    # -- layers and directions

    def scan(self) -> tuple[str, list[list[str]]]:
        """The output, and the final states of each layer·direction."""
        main, wanted, finals = self.main, self.wanted, []
        sequences = {
            name: self.time_first(name, 3)
            for name in self.inputs
            if name not in self.static
        }
        x = sequences.pop("x")
        resets = self.time_first("resets", 2) if wanted.resets else ""
        batch = main.batch(x, axis=1)
        items, members = self.entered_items()
        for first in range(0, len(self.directions), self.layer.directions):
            outputs = []
            for k in range(first, first + self.layer.directions):
                own = self.own(k)
                call = NamedCall(
                    x,
                    sequences,
                    {name: name for name in self.static},
                    self.initial(k, own, batch),
                    own if resets else (),
                    "lengths" if wanted.lengths else "",
                    "starts" if wanted.starts else "",
                    resets,
                    bool(k % self.layer.directions),
                    wanted.step,
                    items,
                    members,
                )
                y, news, _ = self.direction(k, call)
                outputs.append(y)
                finals.append(news)
            x = main.concatenate(outputs, axis=2)
        return x, finals

    def entered_items(self) -> tuple[dict[str, str], dict[str, str]]:
        """The sets, (batch, items, size), and which of the items are a row's own."""
        items, members = {}, {}
        for name in self.items:
            first = self.layer.batch_first
            items[name] = name if first else self.main.transposed(name)
            members[name] = self.main.before(items[name], length_name(name))
        return items, members

    def direction(self, k: int, call: NamedCall) -> Results:
        bound, weights = self.directions[k]
        binding = bound.programs.binding
        if bound.once is not None:
            binding = own_parameters(bound.graph)
        tensors = weights.in_order(binding.parameters)
        parameters = [
            self.main.tensor(f"cells.{k}.{label}", tensor)
            for (label, _), tensor in zip(binding.parameters, tensors, strict=True)
        ]
        cell = NamedCell(bound.graph, binding, parameters)
        return write_direction(
            self.main, f"cell{k}", cell, call, operators=self.operators
        )

    def own(self, k: int) -> list[str]:
        """The states that layer·direction k starts from by itself, (size,) each."""
        return [
            self.main.tensor(f"initial.{k}.{s.name}", value[k])
            for s, value in zip(self.graph.states, self.own_states, strict=True)
        ]

    def initial(self, k: int, own: Sequence[str], batch: str) -> list[str]:
        """The initial states of layer·direction k, (batch, size) each."""
        main, states = self.main, self.graph.states
        if self.wanted.initial_states:
            names = [self.free(f"{s.name}_0") for s in states]
            return [main.add("Gather", n, main.integer(k), axis=0) for n in names]
        return [
            main.rows(value, batch, int(s.size))
            for s, value in zip(states, own, strict=True)
        ]
