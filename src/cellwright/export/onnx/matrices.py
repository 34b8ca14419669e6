"""Operations of matrices in ONNX: a matrix is flat, its blocks one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...language import ArgumentError, Node
from ...language.sizes import MatrixSize

if TYPE_CHECKING:
    from .step import Values


def _blocks(values: Values, number: int, *shape: int) -> str:
    """A value as (batch, *shape)."""
    if values.sets[number] is not None:
        raise ArgumentError(
            f"[export_onnx] {values.nodes[number].source}: blocks of a value that each "
            "item has are not written; expected matrices and heads of the step alone"
        )
    integers = values.writer.integers(0, *shape)
    return values.writer.add("Reshape", values.rows(number), integers)


def _matrix(values: Values, number: int) -> str:
    """(batch, heads, rows, columns)."""
    size = values.nodes[number].size
    assert isinstance(size, MatrixSize)
    return _blocks(values, number, *size.blocks)


def _flat(values: Values, value: str) -> str:
    return values.writer.add("Reshape", value, values.writer.integers(0, -1))


def outer(values: Values, node: Node) -> str:
    v, k = node.args
    rows = _blocks(values, v, node["heads"], -1, 1)
    return _flat(
        values, values.writer.add("Mul", rows, _blocks(values, k, node["heads"], 1, -1))
    )


def matvec(values: Values, node: Node) -> str:
    matrix, vector = node.args
    column = _blocks(values, vector, node["heads"], -1, 1)
    return _flat(values, values.writer.add("MatMul", _matrix(values, matrix), column))


def vecmat(values: Values, node: Node) -> str:
    vector, matrix = node.args
    row = _blocks(values, vector, node["heads"], 1, -1)
    return _flat(values, values.writer.add("MatMul", row, _matrix(values, matrix)))


def scale_rows(values: Values, node: Node) -> str:
    matrix, vector = node.args
    column = _blocks(values, vector, node.size.heads, -1, 1)  # type: ignore[union-attr]
    return _flat(values, values.writer.add("Mul", _matrix(values, matrix), column))


def scale_columns(values: Values, node: Node) -> str:
    matrix, vector = node.args
    row = _blocks(values, vector, node["heads"], 1, -1)
    return _flat(values, values.writer.add("Mul", _matrix(values, matrix), row))


def spread(values: Values, node: Node) -> str:
    """A number for each head, or one, for every unit of its block."""
    heads = node["heads"] or 1
    shape = values.writer.integers(1, 1, int(node.size) // heads)
    numbers = _blocks(values, node.args[0], heads, 1)
    return _flat(values, values.writer.add("Expand", numbers, shape))


def sum_of_heads(values: Values, node: Node) -> str:
    axis = values.writer.integers(-1)
    blocks = _blocks(values, node.args[0], node["heads"], -1)
    return values.writer.add("ReduceSum", blocks, axis, keepdims=0)


MATRICES: dict[str, Callable[[Values, Node], str]] = {
    "outer": outer,
    "matvec": matvec,
    "vecmat": vecmat,
    "scale_rows": scale_rows,
    "scale_columns": scale_columns,
    "spread": spread,
}
