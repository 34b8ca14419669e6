"""Gates stacked into one matrix: how torch, Keras and ONNX keep a cell's weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..engine.torch_layout import column_slice, columns
from ..language import Cell, Graph
from ..language.equations import complements, same_equations, same_structure


class Packed(NamedTuple):
    """The weights of one cell, gates stacked along the rows.

    Attributes:
        x: (gates · hidden_size, input_size).
        h: (gates · hidden_size, hidden_size).
        x_bias, h_bias: (gates · hidden_size,). A gate on both has its bias in the
            first.
    """

    x: Tensor
    h: Tensor
    x_bias: Tensor
    h_bias: Tensor


@dataclass(frozen=True)
class Packing:
    """The order in which a library stacks the gates of a cell.

    A gate written "-z" is stacked negated: σ(−a) = 1 − σ(a), so that the library's gate
    is one minus the cell's.

    Attributes:
        cell: the cell that the library computes.
        input_gates: the affines whose x-columns are stacked.
        hidden_gates: those whose h-columns are.
        vectors: weight vectors, stacked too.
    """

    cell: Cell
    input_gates: tuple[str, ...]
    hidden_gates: tuple[str, ...]
    vectors: tuple[str, ...] = ()

    def fitted(self, graph: Graph) -> Packing | None:
        """The same packing in the weight names of `graph`, if it has the equations.

        Its sizes may be concrete.
        """
        template = self.cell.graph
        if graph.has_matrices:
            return None
        if not graph.size_names:
            sizes = graph.inputs[0].size, graph.states[0].size
            template = template.bind(input_size=sizes[0], hidden_size=sizes[1])
        names = same_equations(template, graph)
        return None if names is None else self._renamed(names)

    def fitted_to_any_activation(self, graph: Graph) -> Packing | None:
        """The same where the activations may be others.

        Raises:
            ArgumentError: the activations leave open which weight is which.
        """
        match = same_structure(self.cell.graph, graph)
        if match is None or not all(
            complements(match.activations[self._activation(gate)])
            for gate in self.input_gates
            if gate.startswith("-")
        ):
            return None
        return self._renamed(match.names)

    def _activation(self, gate: str) -> int:
        """The node that applies a gate's activation to its affine."""
        nodes = self.cell.graph.nodes
        affine = next(
            n for n, node in enumerate(nodes) if node.options.get("weight") == gate[1:]
        )
        return next(n for n, node in enumerate(nodes) if node.args == (affine,))

    def _renamed(self, names: Mapping[str, str]) -> Packing:
        def renamed(gates: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(g[: g.startswith("-")] + names[_plain(g)] for g in gates)

        return replace(
            self,
            input_gates=renamed(self.input_gates),
            hidden_gates=renamed(self.hidden_gates),
            vectors=renamed(self.vectors),
        )

    def pack(self, graph: Graph, W: Any) -> Packed:
        """The weights of one cell, stacked."""
        x = [_signed(g, columns(graph, W, _plain(g), True)) for g in self.input_gates]
        h = [_signed(g, columns(graph, W, _plain(g), False)) for g in self.hidden_gates]
        none = x[0].new_zeros(len(x[0]))
        x_bias = [_signed(g, _bias(W, g, none)) for g in self.input_gates]
        h_bias = [
            none if g in self.input_gates else _signed(g, _bias(W, g, none))
            for g in self.hidden_gates
        ]
        return Packed(*(torch.cat(part) for part in (x, h, x_bias, h_bias)))

    def pack_vectors(self, W: Any) -> Tensor | None:
        """The weight vectors, stacked; `None` where there are none."""
        parts = [_signed(v, getattr(W, _plain(v))) for v in self.vectors]
        return torch.cat(parts) if parts else None

    @torch.no_grad()
    def unpack(self, graph: Graph, W: Any, packed: Packed) -> None:
        """Write stacked weights into a cell's own; both biases of a gate are summed.

        Raises:
            ValueError: a bias that is not zero, for a gate that has none.
            ArgumentError: a weight that is made of others and cannot be written.
        """
        biases: dict[str, Tensor] = {}
        parts: dict[str, list[tuple[slice, Tensor]]] = {}
        for gates, matrix, bias, of_x in (
            (self.input_gates, packed.x, packed.x_bias, True),
            (self.hidden_gates, packed.h, packed.h_bias, False),
        ):
            blocks = matrix.chunk(len(gates)), bias.chunk(len(gates))
            for gate, rows, part in zip(gates, *blocks, strict=True):
                where = column_slice(graph, _plain(gate), of_x)
                parts.setdefault(_plain(gate), []).append((where, _signed(gate, rows)))
                biases[gate] = biases.get(gate, 0) + part
        for name, pairs in parts.items():
            with getattr(W, name).changing_weight(exactly=True) as weight:
                for where, value in pairs:
                    weight[:, where] = value
        for gate, bias in biases.items():
            affine = getattr(W, _plain(gate))
            if affine.bias is None and bias.any():
                raise ValueError(f"gate {_plain(gate)!r} has no bias")
            affine.fill_bias_(_signed(gate, bias), exactly=True)


def same_gates(cell: Cell, *gates: str, vectors: tuple[str, ...] = ()) -> Packing:
    """The usual packing: x and h have the same gates, in the same order."""
    return Packing(cell, gates, gates, vectors)


def _plain(gate: str) -> str:
    return gate.removeprefix("-")


def _signed(gate: str, value: Tensor) -> Tensor:
    return -value if gate.startswith("-") else value


def _bias(W: Any, gate: str, none: Tensor) -> Tensor:
    bias = getattr(W, _plain(gate)).bias
    return none if bias is None else bias
