"""A cell's values as nodes of ONNX, and its step as the body of a Scan."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...language import Graph, Node
from ...language.graph import AFFINE, ATTENTION, ITEM, TOTAL, sets
from .matrices import MATRICES, sum_of_heads
from .weights import Weights
from .writer import Writer


class Values:
    """Writes the values of nodes into a graph of ONNX, one after another.

    A value has (batch, size), one that varies over a set (batch, items, size). What no
    row has to itself, a weight or a number, has (size,) or no dimension.

    Args:
        writer: of the graph.
        nodes: of a cell, in operations that are in the tables below.
        weights: in this graph or the one around it.
        leaves: the values of inputs, states and items by name.
        members: by set, (batch, items, 1) of booleans: the row's own.
        batch: the number of rows, (1,).
    """

    def __init__(
        self,
        writer: Writer,
        nodes: Sequence[Node],
        weights: Weights,
        leaves: Mapping[str, str],
        members: Mapping[str, str],
        batch: str,
    ) -> None:
        self.writer, self.weights, self.batch = writer, weights, batch
        self.nodes, self.sets = nodes, sets(nodes, False)
        self.leaves, self.members = leaves, members
        self.values: list[str] = []
        self.has_rows: list[bool] = []  # or is it one value for the whole batch?
        for number, node in enumerate(nodes):
            self.values.append(self.value(number, node))
            own = node.op in ("input", "state", ITEM)
            self.has_rows.append(own or any(self.has_rows[a] for a in node.args))

    def value(self, number: int, node: Node) -> str:
        """Write one node; the name of its value."""
        if node.op in ("input", "state", ITEM):
            return self.leaves[node["name"]]
        if node.op == "constant":
            return self.writer.number(node["value"])
        if node.op == "weight":
            return self.weights.vector(node["weight"])
        if node.op == AFFINE:
            return self.affine(number, node)
        if node.op in SAME:
            args = (self.beside(a, number) for a in node.args)
            return self.writer.add(SAME[node.op], *args)
        return OTHER[node.op](self, node)

    def beside(self, number: int, other: int) -> str:
        """A value as it broadcasts with one that may vary over a set."""
        value = self.values[number]
        lifted = self.sets[other] is not None and self.sets[number] is None
        return (
            self.writer.unsqueeze(value, 1)
            if lifted and self.has_rows[number]
            else value
        )

    def affine(self, number: int, node: Node) -> str:
        """W·[operands] + b as one Gemm; over items a MatMul, and heads an Einsum."""
        add, name, over = self.writer.add, node["weight"], self.sets[number]
        weight, bias = self.weights.matrix(name), self.weights.bias(name)
        heads = self.weights.graph.weight(name).heads
        operands = [self.rows(a, over) for a in node.args]
        if heads > 1:
            operands = [
                self.split(value, int(self.nodes[a].size), heads, over)
                for value, a in zip(operands, node.args, strict=True)
            ]
        rows = self.writer.concatenate(operands, -1)
        if heads == 1 and over is None:
            return add("Gemm", rows, weight, *filter(None, [bias]), transB=1)
        if heads == 1:
            product = add("MatMul", rows, self.weights.transposed(name))
        else:
            equation = "bnk,nok->bno" if over is None else "bsnk,nok->bsno"
            product = add("Einsum", rows, weight, equation=equation)
            product = self.join(product, int(node.size), over)
        return add("Add", product, bias) if bias else product

    def split(self, value: str, size: int, heads: int, over: str | None) -> str:
        """(batch, size) -> (batch, heads, size / heads), likewise of each item."""
        lead = (0,) if over is None else (0, 0)
        shape = self.writer.integers(*lead, heads, size // heads)
        return self.writer.add("Reshape", value, shape)

    def join(self, value: str, size: int, over: str | None) -> str:
        lead = (0,) if over is None else (0, 0)
        return self.writer.add("Reshape", value, self.writer.integers(*lead, size))

    def rows(self, number: int, over: str | None = None) -> str:
        """A node's value as (batch, size), also where it depends on no row; over a set
        as (batch, items, size)."""
        value, own = self.values[number], self.sets[number]
        if not self.has_rows[number]:
            size = int(self.nodes[number].size)
            value = self.writer.rows(value, self.batch, size)
        if over is None or own is not None:
            return value
        shape = self.writer.add("Shape", self.members[over])
        return self.writer.add("Expand", self.writer.unsqueeze(value, 1), shape)

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
        (number,), size = node.args, int(node.size)
        over = self.sets[number]
        blocks = self.split(self.rows(number), size, heads, over)
        means = add("ReduceMean", blocks, axis)
        return self.join(add("Expand", means, add("Shape", blocks)), size, over)

    # -- over a set of items ---------------------------------------------------

    def own(self, node: Node, otherwise: float) -> str:
        """What a set's members have, and a number where there is none."""
        other = self.writer.number(otherwise)
        return self.writer.add("Where", self.mask(node), self.argument(node), other)

    def mask(self, node: Node) -> str:
        return self.members[str(self.sets[node.args[0]])]

    def total(self, node: Node) -> str:
        axis = self.writer.integers(1)
        return self.writer.add("ReduceSum", self.own(node, 0.0), axis, keepdims=0)

    def attention(self, node: Node) -> str:
        """The softmax over a row's items: of none no item has a weight."""
        add, axis = self.writer.add, self.writer.integers(1)
        mask, scores = self.mask(node), self.own(node, -math.inf)
        greatest = add("ReduceMax", scores, axis)
        powers = add("Exp", add("Sub", scores, greatest))
        weights = add("Div", powers, add("ReduceSum", powers, axis))
        return add("Where", mask, weights, self.writer.number(0.0))


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
OTHER: dict[str, Callable[[Values, Node], str]] = {
    "not_equal": Values.not_equal,
    "sum": Values.sum,
    "softmax": Values.softmax,
    "block_mean": Values.block_mean,
    TOTAL: Values.total,
    ATTENTION: Values.attention,
    **MATRICES,
}
KNOWN = {*SAME, *OTHER}


class Step:
    """A cell's step; its weights and constants are those of the graph around it.

    Args:
        writer: of the body.
        graph: the cell with concrete sizes, in operations that `Values` knows.
        weights: in the graph around it.
        around: the values there of what is the same at every step, by name: static
            inputs and items.
        members: as `Values` has it.
        reset_states: what a reset starts from, (size,) each; empty without resets.
        masked: some steps of some rows are none, and keep the states.
        attention: the weights of the items are a last result.
    """

    def __init__(
        self,
        writer: Writer,
        graph: Graph,
        weights: Weights,
        around: Mapping[str, str],
        *,
        members: Mapping[str, str],
        reset_states: Sequence[str] = (),
        masked: bool = False,
        attention: bool = False,
    ) -> None:
        self.writer, self.graph, self.weights = writer, graph, weights
        self.around, self.members = around, members
        self.reset_states, self.masked = reset_states, masked
        self.attention = attention

    def build(self) -> Any:
        """The body: states, x and the named inputs, then `real` and `resets`, (batch,
        1) each, to the new states and the output."""
        writer, graph = self.writer, self.graph
        batch = writer.batch(self.leaf("x"), axis=0)
        leaves = {v.name: self.leaf(v.name) for v in graph.inputs}
        leaves |= {s.name: self.state(s.name) for s in graph.states}
        own = writer, graph.nodes, self.weights, {**leaves, **self.around}
        self.values = Values(*own, self.members, batch)
        inputs = [
            writer.declare(self.leaf(v.name), None, int(v.size))
            for v in (*graph.states, *graph.inputs)
            if v.name not in self.around
        ]
        marks = [("real", self.masked), ("resets", self.reset_states)]
        inputs += [
            writer.declare_as("BOOL", self.mark(name), None, 1)
            for name, there in marks
            if there
        ]
        outputs = self.results()
        if self.attention:
            outputs.append(self.mean_attention())
        name = f"{writer.prefix}{graph.name}"
        return writer.onnx.helper.make_graph(writer.nodes, name, inputs, outputs)

    def results(self) -> list[Any]:
        """The new states and the output, each under a name of its own, though an
        output and a state be one value; a step that is none keeps the states."""
        writer, graph = self.writer, self.graph
        olds = [*(self.leaf(s.name) for s in graph.states), writer.number(0.0)]
        outputs = []
        for position, number in enumerate([*graph.updates, graph.output]):
            name, value = self.mark(f"result{position}"), self.values.rows(number)
            self.kept(name, value, olds[position])
            outputs.append(writer.declare(name, None, int(graph.nodes[number].size)))
        return outputs

    def mean_attention(self) -> Any:
        """The mean over the attends, and over units where each has weights of its own,
        (batch, items)."""
        add, writer, name = self.writer.add, self.writer, self.mark("attention")
        nodes = enumerate(self.graph.nodes)
        found = [self.values.values[n] for n, node in nodes if node.op == ATTENTION]
        means = [add("ReduceMean", v, writer.integers(2), keepdims=0) for v in found]
        mean = add("Mean", *means)
        self.kept(name, mean, writer.number(0.0))
        return writer.declare(name, None, None)

    def kept(self, name: str, value: str, old: str) -> None:
        """Call a value so; in a step that is none it is the old one."""
        if self.masked:
            self.writer.append("Where", [self.mark("real"), value, old], [name])
        else:
            self.writer.append("Identity", [value], [name])

    def leaf(self, name: str) -> str:
        """An input or state of the cell."""
        return f"{self.writer.prefix}{name}"

    def mark(self, name: str) -> str:
        """What is the body's own: the cell's names have no dot."""
        return f"{self.writer.prefix}own.{name}"

    def state(self, name: str) -> str:
        if not self.reset_states:
            return self.leaf(name)
        names = [s.name for s in self.graph.states]
        fresh = self.reset_states[names.index(name)]
        return self.writer.add("Where", self.mark("resets"), fresh, self.leaf(name))
