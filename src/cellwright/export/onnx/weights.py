"""A cell's weights as values of an ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence

from ...engine.programs import Programs
from ...language.graph import AFFINE
from ...language.sizes import MatrixSize
from .writer import Writer


class Weights:
    """A cell's weights, made of the parameters that its binding lists.

    Each method gives the name of a value; what is a whole parameter is that itself.

    Args:
        writer: of the graph around the cell's step.
        programs: the cell with its sizes and its binding.
        parameters: their names.
    """

    def __init__(
        self, writer: Writer, programs: Programs, parameters: Sequence[str]
    ) -> None:
        self.writer, self.parameters = writer, parameters
        self.graph, self.binding = programs.graph, programs.binding

    def matrix(self, name: str) -> str:
        """(size, Σ operands), or (heads, size / heads, Σ operands / heads)."""
        weight, binding = self.graph.weight(name), self.binding
        count = len(weight.operands)
        homes = {binding.matrices[name, k].parameter for k in range(count)}
        size = int(weight.size) * sum(map(int, weight.operands)) // weight.heads
        if len(homes) == 1 and binding.parameters[min(homes)][1] == size:
            return self.parameters[homes.pop()]
        blocks = [self._block(name, k) for k in range(count)]
        return self.writer.concatenate(blocks, axis=1)

    def columns(self, name: str, of_x: bool) -> str:
        """The columns of a matrix that meet x, or those that meet a state."""
        nodes = self.graph.nodes
        node = next(n for n in nodes if n.op == AFFINE and n["weight"] == name)
        inputs = [nodes[a].op == "input" for a in node.args]
        return self._block(name, inputs.index(of_x))

    def _block(self, name: str, operand: int) -> str:
        """What one operand meets, (size, its size): rows and columns of a parameter."""
        weight, piece = self.graph.weight(name), self.binding.matrices[name, operand]
        count, stride = self.binding.parameters[piece.parameter][1], piece.stride
        row, column = divmod(piece.offset, stride)
        wanted = (row, int(weight.size)), (column, int(weight.operands[operand]))
        value = self.parameters[piece.parameter]
        whole = (count // stride, stride)
        for axis, ((start, size), all_) in enumerate(zip(wanted, whole, strict=True)):
            if size != all_:
                value = self.writer.slice(value, start, start + size, axis)
        return value

    def bias(self, name: str) -> str:
        """(size,), or "" where there is none."""
        size, total = int(self.graph.weight(name).size), ""
        for piece in self.binding.biases.get(name, ()):
            value = self.parameters[piece.parameter]
            if size != self.binding.parameters[piece.parameter][1]:
                stop = piece.offset + size
                value = self.writer.slice(value, piece.offset, stop, 0)
            total = self.writer.add("Add", total, value) if total else value
        return total

    def vector(self, name: str) -> str:
        value = self.parameters[self.binding.vectors[name].parameter]
        if isinstance(
            self.graph.weight(name).size, MatrixSize
        ):  # flat, as all matrices
            return self.writer.add("Reshape", value, self.writer.integers(-1))
        return value
