"""Operations of matrices in ONNX: a matrix is flat, its blocks one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...language import Node
from ...language.sizes import MatrixSize

if TYPE_CHECKING:
    from .step import Step


def _blocks(step: Step, number: int, *shape: int) -> str:
    """A value as (batch, *shape)."""
    integers = step.writer.integers(0, *shape)
    return step.writer.add("Reshape", step.rows(number), integers)


def _matrix(step: Step, number: int) -> str:
    """(batch, heads, rows, columns)."""
    size = step.graph.nodes[number].size
    assert isinstance(size, MatrixSize)
    return _blocks(step, number, *size.blocks)


def outer(step: Step, node: Node) -> str:
    v, k = node.args
    rows = _blocks(step, v, node["heads"], -1, 1)
    return step.join(
        step.writer.add("Mul", rows, _blocks(step, k, node["heads"], 1, -1))
    )


def matvec(step: Step, node: Node) -> str:
    matrix, vector = node.args
    column = _blocks(step, vector, node["heads"], -1, 1)
    return step.join(step.writer.add("MatMul", _matrix(step, matrix), column))


def scale_rows(step: Step, node: Node) -> str:
    matrix, vector = node.args
    column = _blocks(step, vector, node.size.heads, -1, 1)  # type: ignore[union-attr]
    return step.join(step.writer.add("Mul", _matrix(step, matrix), column))


def scale_columns(step: Step, node: Node) -> str:
    matrix, vector = node.args
    row = _blocks(step, vector, node["heads"], 1, -1)
    return step.join(step.writer.add("Mul", _matrix(step, matrix), row))


def spread(step: Step, node: Node) -> str:
    """A number for each head, or one, for every unit of its block."""
    heads = node["heads"] or 1
    shape = step.writer.integers(1, 1, int(node.size) // heads)
    numbers = _blocks(step, node.args[0], heads, 1)
    return step.join(step.writer.add("Expand", numbers, shape))


def sum_of_heads(step: Step, node: Node) -> str:
    axis = step.writer.integers(-1)
    blocks = _blocks(step, node.args[0], node["heads"], -1)
    return step.writer.add("ReduceSum", blocks, axis, keepdims=0)


MATRICES: dict[str, Callable[[Step, Node], str]] = {
    "outer": outer,
    "matvec": matvec,
    "scale_rows": scale_rows,
    "scale_columns": scale_columns,
    "spread": spread,
}
