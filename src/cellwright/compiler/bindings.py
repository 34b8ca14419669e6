"""Where a cell's weights lie: in its own parameters, or in torch.nn's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..language import Graph
from .program import Piece


@dataclass(frozen=True)
class Binding:
    """Where a cell's weights lie in the parameters that a call passes.

    Attributes:
        parameters: name and number of elements of each, contiguous.
        matrices: (weight, operand) → the columns that meet this operand.
        biases: weight → vectors whose sum is the bias.
        vectors: weight → the vector, or the number (stride 0).
        heads: weight → its diagonal blocks.
    """

    parameters: tuple[tuple[str, int], ...]
    matrices: Mapping[tuple[str, int], Piece]
    biases: Mapping[str, tuple[Piece, ...]]
    vectors: Mapping[str, Piece]
    heads: Mapping[str, int]


def own_parameters(graph: Graph) -> Binding:
    """One matrix an affine, columns in the order written: `CellWeights`."""
    parameters: list[tuple[str, int]] = []
    matrices: dict[tuple[str, int], Piece] = {}
    biases: dict[str, tuple[Piece, ...]] = {}
    vectors: dict[str, Piece] = {}
    for weight in graph.weights:
        size, number = int(weight.size), len(parameters)
        if weight.kind != "matrix":
            # One number, a vector of one unit too, is the same for every unit it meets.
            count = size if weight.kind == "vector" else 1
            parameters.append((weight.name, count))
            vectors[weight.name] = Piece(number, 0, 1 if count > 1 else 0)
            continue
        widths = [int(o) // weight.heads for o in weight.operands]
        parameters.append((f"{weight.name}.weight", size * sum(widths)))
        for operand in range(len(widths)):
            piece = Piece(number, sum(widths[:operand]), sum(widths))
            matrices[weight.name, operand] = piece
        if weight.bias:
            biases[weight.name] = (Piece(len(parameters), 0, 1),)
            parameters.append((f"{weight.name}.bias", size))
    heads = {w.name: w.heads for w in graph.weights}
    return Binding(tuple(parameters), matrices, biases, vectors, heads)


def packed_parameters(
    graph: Graph,
    input_gates: tuple[str, ...],
    hidden_gates: tuple[str, ...],
    projection: str | None,
    bias: bool,
) -> Binding:
    """Several gates in one matrix, as torch.nn packs them.

    Args:
        graph: the cell, with concrete sizes; its affines read h before x.
        input_gates: the affines whose x-columns are the rows of `weight_ih`, in order.
        hidden_gates: the affines whose h-columns are the rows of `weight_hh`.
        projection: the affine that is `weight_hr`, if any.
        bias: there are `bias_ih` and `bias_hh`, which add up.
    """
    hidden = int(graph.weight(input_gates[0]).size)
    width = {"ih": int(graph.inputs[0].size), "hh": int(graph.states[0].size)}
    gates = {"ih": input_gates, "hh": hidden_gates}
    parameters: list[tuple[str, int]] = []
    matrices: dict[tuple[str, int], Piece] = {}
    biases: dict[str, tuple[Piece, ...]] = {}
    for number, (part, names) in enumerate(gates.items()):
        stride = width[part]
        parameters.append((f"weight_{part}", len(names) * hidden * stride))
        for row, name in enumerate(names):
            operand = 1 if part == "ih" and name in hidden_gates else 0
            matrices[name, operand] = Piece(number, row * hidden * stride, stride)
            if bias:
                vector = Piece(2 + number, row * hidden, 1)
                biases[name] = (*biases.get(name, ()), vector)
    if bias:
        parameters += [(f"bias_{p}", len(n) * hidden) for p, n in gates.items()]
    if projection:
        matrices[projection, 0] = Piece(len(parameters), 0, hidden)
        parameters.append(("weight_hr", width["hh"] * hidden))
    heads = {w.name: 1 for w in graph.weights}
    return Binding(tuple(parameters), matrices, biases, {}, heads)
