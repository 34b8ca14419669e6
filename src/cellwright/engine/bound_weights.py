"""`BoundWeights`: a `W` over the parameters that a binding describes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..compiler.bindings import Binding
from ..language import Graph


class BoundWeights:
    """A `W` whose weights are parts of parameters, as a binding says."""

    def __init__(
        self, graph: Graph, binding: Binding, parameters: Sequence[Tensor]
    ) -> None:
        self._graph, self._binding, self._parameters = graph, binding, parameters

    def __getattr__(self, name: str) -> Any:
        weight = self._graph.weight(name)
        if weight.kind != "matrix":
            return self._vector(self._binding.vectors[name], int(weight.size))

        def affine(*operands: Tensor) -> Tensor:
            total = sum(
                self._product(weight, operand, value)
                for operand, value in enumerate(operands)
            )
            for piece in self._binding.biases.get(name, ()):
                total = total + self._vector(piece, int(weight.size))
            return total  # type: ignore[return-value]

        return affine

    def _product(self, weight: Any, operand: int, value: Tensor) -> Tensor:
        piece, heads = self._binding.matrices[weight.name, operand], weight.heads
        rows, columns = int(weight.size) // heads, value.shape[-1] // heads
        flat = self._parameters[piece.parameter].reshape(-1)
        strides = (rows * piece.stride, piece.stride, 1)
        matrix = flat.as_strided((heads, rows, columns), strides, piece.offset)
        blocks = value.unflatten(-1, (heads, -1))
        return torch.einsum("...nk,nok->...no", blocks, matrix).flatten(-2)

    def _vector(self, piece: Any, size: int) -> Tensor:
        flat = self._parameters[piece.parameter].reshape(-1)
        if piece.stride == 0:
            return flat[piece.offset : piece.offset + 1]
        return flat[piece.offset : piece.offset + size]
