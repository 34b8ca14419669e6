"""A cell's step as the body of a Scan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...language import Graph, Node
from ...language.expand import expanded
from ...language.graph import AFFINE
from .matrices import MATRICES, sum_of_heads
from .weights import Weights
from .writer import Writer


class Step:
    """A cell's step; its weights and constants are those of the graph around it.

    Args:
        writer: of the body.
        graph: the cell with concrete sizes.
        weights: in the graph around it.
        static: the named inputs that are the same at every step, and the names of
            their values.
        reset_states: what a reset starts from, (size,) each; empty without resets.
        masked: some steps of some rows are none, and keep the states.
    """

    def __init__(
        self,
        writer: Writer,
        graph: Graph,
        weights: Weights,
        static: Mapping[str, str],
        reset_states: Sequence[str] = (),
        masked: bool = False,
    ) -> None:
        self.writer, self.weights, self.static = writer, weights, static
        self.graph = expanded(graph, {*SAME, *OTHER})
        self.reset_states, self.masked = reset_states, masked
        self.values: list[str] = []
        self.has_rows: list[bool] = []  # or is it one value for the whole batch?

    def build(self) -> Any:
        """The body: states, x and the named inputs, then `real` and `resets`, (batch,
        1) each, to the new states and the output."""
        writer, graph = self.writer, self.graph
        self.batch = writer.batch(self.leaf("x"), axis=0)
        for node in graph.nodes:
            self.values.append(self.value(node))
            own = node.op in ("input", "state")
            self.has_rows.append(own or any(self.has_rows[a] for a in node.args))
        inputs = [
            writer.declare(self.leaf(v.name), None, int(v.size))
            for v in (*graph.states, *graph.inputs)
            if v.name not in self.static
        ]
        marks = [("real", self.masked), ("resets", self.reset_states)]
        inputs += [
            writer.declare_as("BOOL", self.mark(name), None, 1)
            for name, there in marks
            if there
        ]
        outputs = self.results()
        name = f"{writer.prefix}{graph.name}"
        return writer.onnx.helper.make_graph(writer.nodes, name, inputs, outputs)

    def results(self) -> list[Any]:
        """The new states and the output, each under a name of its own, though an
        output and a state be one value; a step that is none keeps the states."""
        writer, graph = self.writer, self.graph
        olds = [*(self.leaf(s.name) for s in graph.states), writer.number(0.0)]
        outputs = []
        for position, number in enumerate([*graph.updates, graph.output]):
            name, value = self.mark(f"result{position}"), self.rows(number)
            if self.masked:
                args = [self.mark("real"), value, olds[position]]
                writer.append("Where", args, [name])
            else:
                writer.append("Identity", [value], [name])
            size = int(graph.nodes[number].size)
            outputs.append(writer.declare(name, None, size))
        return outputs

    def leaf(self, name: str) -> str:
        """An input or state of the cell."""
        return f"{self.writer.prefix}{name}"

    def mark(self, name: str) -> str:
        """What is the body's own: the cell's names have no dot."""
        return f"{self.writer.prefix}own.{name}"

    def value(self, node: Node) -> str:
        """Write one node; the name of its value."""
        if node.op == "input":
            return self.static.get(node["name"], self.leaf(node["name"]))
        if node.op == "state":
            return self.state(node["name"])
        if node.op == "constant":
            return self.writer.number(node["value"])
        if node.op == "weight":
            return self.weights.vector(node["weight"])
        if node.op == AFFINE:
            return self.affine(node)
        if node.op in SAME:
            return self.writer.add(SAME[node.op], *(self.values[a] for a in node.args))
        return OTHER[node.op](self, node)

    def state(self, name: str) -> str:
        if not self.reset_states:
            return self.leaf(name)
        names = [s.name for s in self.graph.states]
        fresh = self.reset_states[names.index(name)]
        return self.writer.add("Where", self.mark("resets"), fresh, self.leaf(name))

    def affine(self, node: Node) -> str:
        """W·[operands] + b as one Gemm; heads as one Einsum over the blocks."""
        add, name = self.writer.add, node["weight"]
        weight, bias = self.weights.matrix(name), self.weights.bias(name)
        heads = self.graph.weight(name).heads
        operands = [self.rows(a) for a in node.args]
        if heads == 1:
            rows = self.writer.concatenate(operands, 1)
            return add("Gemm", rows, weight, *filter(None, [bias]), transB=1)
        rows = self.writer.concatenate([self.split(o, heads) for o in operands], 2)
        product = self.join(add("Einsum", rows, weight, equation="bnk,nok->bno"))
        return add("Add", product, bias) if bias else product

    def split(self, value: str, heads: int) -> str:
        """(batch, size) -> (batch, heads, size / heads)."""
        return self.writer.add("Reshape", value, self.writer.integers(0, heads, -1))

    def join(self, value: str) -> str:
        return self.writer.add("Reshape", value, self.writer.integers(0, -1))

    def rows(self, number: int) -> str:
        """A node's value as (batch, size), also where it depends on no row."""
        if self.has_rows[number]:
            return self.values[number]
        size = int(self.graph.nodes[number].size)
        return self.writer.rows(self.values[number], self.batch, size)

    # -- operations that ONNX has under other terms ----------------------------

    def argument(self, node: Node) -> str:
        return self.values[node.args[0]]

    def not_equal(self, node: Node) -> str:
        equal = self.writer.add("Equal", *(self.values[a] for a in node.args))
        return self.writer.add("Not", equal)

    def sum(self, node: Node) -> str:
        if node.options.get("heads", 1) != 1:
            return sum_of_heads(self, node)
        axis = self.writer.integers(-1)
        return self.writer.add("ReduceSum", self.argument(node), axis, keepdims=1)

    def softmax(self, node: Node) -> str:
        return self.writer.add("Softmax", self.argument(node), axis=-1)

    def block_mean(self, node: Node) -> str:
        add, heads, axis = self.writer.add, node["heads"], self.writer.integers(-1)
        if heads == 1:  # one number a row, which broadcasts
            return add("ReduceMean", self.argument(node), axis)
        blocks = self.split(self.rows(node.args[0]), heads)
        means = add("ReduceMean", blocks, axis)
        return self.join(add("Expand", means, add("Shape", blocks)))


SAME = {  # operations that ONNX has as they are
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "neg": "Neg",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "equal": "Equal",
    "where": "Where",
    "maximum": "Max",
    "minimum": "Min",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "exp": "Exp",
    "log": "Log",
    "abs": "Abs",
    "sqrt": "Sqrt",
    "sin": "Sin",
    "cos": "Cos",
    "identity": "Identity",
}
OTHER: dict[str, Callable[[Step, Node], str]] = {
    "not_equal": Step.not_equal,
    "sum": Step.sum,
    "softmax": Step.softmax,
    "block_mean": Step.block_mean,
    **MATRICES,
}
