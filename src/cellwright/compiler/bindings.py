"""Where a cell's weights lie: in parameters of its own, or in torch.nn's packed ones."""

from __future__ import annotations

from ..language import Graph
from .program import Piece
from .stages import Binding


def own_parameters(graph: Graph) -> Binding:
    """One matrix an affine, columns in the order written: `CellWeights`."""
    names = [f"{w.name}" for w in graph.weights]
    assert len(set(names)) == len(names)
    parameters: list[tuple[str, int]] = []
    matrices: dict[tuple[str, int], Piece] = {}
    biases: dict[str, tuple[Piece, ...]] = {}
    vectors: dict[str, Piece] = {}
    for weight in graph.weights:
        size, number = int(weight.size), len(parameters)
        if weight.kind != "matrix":
            parameters.append((weight.name, size if weight.kind == "vector" else 1))
            stride = 1 if weight.kind == "vector" else 0
            vectors[weight.name] = Piece(number, 0, stride)
            continue
        widths = [int(o) // weight.heads for o in weight.operands]
        parameters.append((f"{weight.name}.weight", size * sum(widths)))
        for operand in range(len(widths)):
            piece = Piece(number, sum(widths[:operand]), sum(widths))
            matrices[weight.name, operand] = piece
        if weight.bias is not False:
            biases[weight.name] = (Piece(len(parameters), 0, 1),)
            parameters.append((f"{weight.name}.bias", size))
    heads = {w.name: w.heads for w in graph.weights}
    return Binding(tuple(parameters), matrices, biases, vectors, heads)
