"""Layers as ONNX models: standard cells as ONNX's operators, every other as a Scan.

A Scan has the cell's own graph as its body, so whatever the language
can say can be exported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import cells as zoo
from ..extras import require
from ..language import ArgumentError, Graph, Node
from ..language.expand import expanded
from ..language.graph import AFFINE
from ..nn.convert import from_torch
from ..nn.layer import plain_layer
from ..nn.packing import Packing, same_gates
from ..nn.recurrent import Recurrent
from ..nn.weights import made

OPSET, IR_VERSION = 17, 8  # old enough for any runtime of the last years

# The operators' cells, the order of their gates (input, output, forget, candidate), and
# their attributes. In a cell with coupled gates one gate is the other negated, and
# `input_forget` says so once more. ONNX's GRU keeps the old state by its z, the papers'
# lets in the new.
_OPERATORS: tuple[tuple[str, Packing, dict[str, Any]], ...] = (
    ("RNN", same_gates(zoo.rnn, "h"), {"activations": ["Tanh"]}),
    ("RNN", same_gates(zoo.rnn_relu, "h"), {"activations": ["Relu"]}),
    ("LSTM", same_gates(zoo.lstm, "i", "o", "f", "g"), {}),
    (
        "LSTM",
        same_gates(
            zoo.peephole_diagonal, "i", "o", "f", "g", vectors=("p_i", "p_o", "p_f")
        ),
        {},
    ),
    ("LSTM", same_gates(zoo.coupled, "-f", "o", "f", "g"), {"input_forget": 1}),
    (
        "LSTM",
        same_gates(zoo.cifg, "i", "o", "-i", "z", vectors=("p_i", "p_o", "-p_i")),
        {"input_forget": 1},
    ),
    (
        "GRU",
        Packing(zoo.gru_reset_after, ("z", "r", "n"), ("z", "r", "m")),
        {"linear_before_reset": 1},
    ),
    ("GRU", same_gates(zoo.gru_bias, "-z", "r", "n"), {}),
)

_TYPES = {torch.float32: "FLOAT", torch.float64: "DOUBLE"}


def export_onnx(
    layer: nn.Module,
    path: str | os.PathLike[str] | None = None,
    *,
    initial_states: bool = False,
    lengths: bool = False,
    starts: bool = False,
    operators: bool = True,
    static: Collection[str] = (),
) -> Any:
    """Write a layer as an ONNX model, for inference: no dropout, no gradients.

    The model's input is `x`, shaped as the layer takes it, and the named inputs; its
    outputs are `y` and the final states, `h_n`, `c_n`, … Sequence length and batch are
    free (`time`, `batch`). A name that a named input has taken gets an underscore: with
    an input `y`, the output is `y_`.

    Args:
        layer: a `Recurrent` of any cell, a drop-in, or torch.nn's LSTM, GRU or RNN;
            or one that torch.compile has wrapped.
        path: where to write; without it, the model is only returned.
        initial_states: the model takes initial states too, `h_0`, `c_0`, …, shaped as
            the layer's; without them it starts from the cell's own.
        static: named inputs that the model takes once for all steps, (batch, size).
        operators: write cells that ONNX has as its LSTM, GRU and RNN (in float32, the
            one type that runtimes have them for); otherwise every cell is a Scan.
        lengths, starts: the model takes the steps of each row, inputs of these names,
            (batch,) of int64, as the layer does. It does not check them.

    Returns:
        The model, an `onnx.ModelProto`, checked. Its metadata `cellwright.cell` is the
        printed cell.

    Raises:
        ArgumentError: no layer, or a dtype other than float32 and float64; `static`
            names what is no named input.
        MissingExtraError: the extra `onnx` is not installed.
    """
    onnx = _import_onnx()
    layer = plain_layer(layer)
    if isinstance(layer, nn.RNNBase):
        layer = from_torch(layer, engine="reference")
    if not isinstance(layer, Recurrent):
        raise ArgumentError(
            f"[export_onnx] received {type(layer).__name__}, expected a Recurrent, or "
            "torch.nn.LSTM, GRU or RNN. Export the layer of a larger model by itself"
        )
    dtype = next((p.dtype for p in layer.parameters()), torch.float32)
    if dtype not in _TYPES:
        raise ArgumentError(
            f"[export_onnx] received a layer in {dtype}, expected torch.float32 or "
            "torch.float64. Convert it with .float()"
        )
    with torch.no_grad():
        rows = [n for n, taken in (("lengths", lengths), ("starts", starts)) if taken]
        model = _Model(onnx, layer, dtype, operators, rows, static)
        model = model.build(initial_states)
    onnx.checker.check_model(model, full_check=True)
    if path is not None:
        onnx.save(model, os.fspath(path))
    return model


def _import_onnx() -> Any:
    require("export_onnx", "onnx")
    import onnx
    import onnx.checker
    import onnx.helper
    import onnx.numpy_helper

    return onnx


def _check_static(static: Collection[str], known: Sequence[str]) -> Collection[str]:
    for name in [static] if isinstance(static, str) else static:
        if name not in known:
            raise ArgumentError(
                f"[export_onnx] the layer has no named input {name!r}; received "
                f"static={static!r}, expected some of [{', '.join(known)}]"
            )
    return (static,) if isinstance(static, str) else static


class _Writer:
    """Nodes of one ONNX graph in the making; each method gives its result's name."""

    def __init__(self, model: _Model, prefix: str) -> None:
        self.model, self.prefix = model, prefix
        self.nodes: list[Any] = []

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        return self.add_several(op, *inputs, count=1, **attributes)[0]

    def add_several(
        self, op: str, *inputs: str, count: int, **attributes: Any
    ) -> list[str]:
        number = len(self.nodes)
        outputs = [f"{self.prefix}{op.lower()}{number}.{k}" for k in range(count)]
        self.append(op, inputs, outputs, **attributes)
        return outputs

    def append(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> None:
        make = self.model.onnx.helper.make_node
        name = f"{self.prefix}{op.lower()}{len(self.nodes)}"
        self.nodes.append(make(op, inputs, outputs, name, **attributes))

    def number(self, value: float) -> str:
        """A number of the model's type, without dimensions."""
        return self.model.tensor(f"number.{value!r}", np.array(value))

    def integers(self, *values: int) -> str:
        label = "_".join(str(v) for v in values)
        return self.model.tensor(f"integers.{label}", np.array(values, np.int64))

    def batch(self, x: str, axis: int) -> str:
        return self.add("Shape", x, start=axis, end=axis + 1)

    def rows(self, value: str, batch: str, size: int) -> str:
        """A value that no row has to itself, repeated for every row of the batch."""
        shape = self.add("Concat", batch, self.integers(size), axis=0)
        return self.add("Expand", value, shape)


class _Model:
    """One layer's model: through its layers and directions."""

    def __init__(
        self,
        onnx: Any,
        layer: Recurrent,
        dtype: torch.dtype,
        operators: bool,
        rows: Sequence[str],
        static: Collection[str],
    ) -> None:
        self.onnx, self.layer, self.dtype = onnx, layer, dtype
        self.type = getattr(onnx.TensorProto, _TYPES[dtype])
        self.tensors: dict[str, Any] = {}
        self.main = _Writer(self, "")
        operators = operators and "starts" not in rows  # all of ONNX's begin at 0
        self.operator = self.find_operator() if operators else None
        self.steps_of_rows = rows
        self.real = ""  # which steps of a Scan are real, (time, batch, 1)
        self.inputs = [i.name for i in layer.graphs[0].inputs]
        self.static = _check_static(static, self.inputs[1:])

    def find_operator(self) -> tuple[str, Packing, dict[str, Any]] | None:
        if self.dtype != torch.float32:
            return None
        for name, packing, attributes in _OPERATORS:
            fitted = packing.fitted(self.layer.cell.graph)
            if fitted is not None:
                return name, fitted, attributes
        return None

    # -- what a model consists of ----------------------------------------------

    def tensor(self, name: str, value: Tensor | np.ndarray) -> str:
        """A constant of the model: a weight, a number."""
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy()
        if value.dtype.kind == "f":
            value = value.astype(
                np.float32 if self.dtype == torch.float32 else np.float64
            )
        if name not in self.tensors:
            value = np.array(value, order="C")  # ascontiguousarray adds an axis to ()
            self.tensors[name] = self.onnx.numpy_helper.from_array(value, name)
        return name

    def free(self, name: str) -> str:
        """A name of the model's own: the user's inputs keep theirs.

        What is written inside of it has a dot in its name, as no input has.
        """
        while name in self.inputs:
            name += "_"
        return name

    def declare(self, name: str, *shape: Any) -> Any:
        """The type of an input or output."""
        return self.onnx.helper.make_tensor_value_info(name, self.type, shape)

    def build(self, initial_states: bool) -> Any:
        layer, main, helper = self.layer, self.main, self.onnx.helper
        lead = ("batch", "time") if layer.batch_first else ("time", "batch")
        inputs = [
            self.declare(
                i.name, *(("batch",) if i.name in self.static else lead), i.size
            )
            for i in layer.graphs[0].inputs
        ]
        sequences = {
            name: self.time_first(name)
            for name in self.inputs
            if name not in self.static
        }
        count, states = len(layer.cells), layer.graphs[0].states
        if initial_states:
            inputs += [
                self.declare(self.free(f"{s.name}_0"), count, "batch", s.size)
                for s in states
            ]
        inputs += [self.declare_integers(name) for name in self.steps_of_rows]
        if self.steps_of_rows and self.operator is None:
            self.real = self.real_steps(sequences["x"])
        y, finals = self.scan(sequences, initial_states)
        name = self.free("y")
        main.append("Identity", [self.time_first(y)], [name])
        outputs = [self.declare(name, *lead, layer.output_size)]
        for state, parts in zip(states, zip(*finals, strict=True), strict=True):
            name = self.free(f"{state.name}_n")
            stacked = [main.add("Unsqueeze", p, main.integers(0)) for p in parts]
            main.append("Concat", stacked, [name], axis=0)
            outputs.append(self.declare(name, count, "batch", state.size))
        graph = helper.make_graph(
            main.nodes, layer.cell.name, inputs, outputs, list(self.tensors.values())
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="cellwright",
        )
        helper.set_model_props(model, {"cellwright.cell": layer.cell.to_text()})
        return model

    def declare_integers(self, name: str) -> Any:
        kind = self.onnx.TensorProto.INT64
        return self.onnx.helper.make_tensor_value_info(name, kind, ("batch",))

    def real_steps(self, x: str) -> str:
        """Which steps of each row are its own."""
        add, integers = self.main.add, self.main.integers
        zero, one = (self.tensor(f"integer.{n}", np.array(n, np.int64)) for n in (0, 1))
        count = add("Squeeze", add("Shape", x, start=0, end=1), integers(0))
        step = add("Unsqueeze", add("Range", zero, count, one), integers(1))
        begin, real = zero, ""
        if "starts" in self.steps_of_rows:
            begin = "starts"
            real = add("GreaterOrEqual", step, begin)
        if "lengths" in self.steps_of_rows:
            before_end = add("Less", step, add("Add", begin, "lengths"))
            real = add("And", real, before_end) if real else before_end
        return add("Unsqueeze", real, integers(2))

    def time_first(self, sequence: str) -> str:
        """Between the layer's order of time and batch and ours, either way."""
        if not self.layer.batch_first:
            return sequence
        return self.main.add("Transpose", sequence, perm=[1, 0, 2])

    def scan(
        self, sequences: Mapping[str, str], initial_states: bool
    ) -> tuple[str, list[list[str]]]:
        """Layers and directions: the output, and the final states of each."""
        layer, main = self.layer, self.main
        named = {n: v for n, v in sequences.items() if n != "x"}
        x, finals = sequences["x"], []
        run = self.run_scan if self.operator is None else self.run_operator
        batch = main.batch(x, axis=1)
        for first in range(0, len(layer.cells), layer.directions):
            outputs = []
            for k in range(first, first + layer.directions):
                olds = self.initial(k, batch, initial_states)
                y, news = run(k, x, named, olds)
                outputs.append(y)
                finals.append(news)
            x = main.add("Concat", *outputs, axis=2) if len(outputs) > 1 else outputs[0]
        return x, finals

    def initial(self, k: int, batch: str, given: bool) -> list[str]:
        """The initial states of layer·direction k, (batch, size) each."""
        main = self.main
        if given:
            index = self.tensor(f"index.{k}", np.array(k, np.int64))
            names = [self.free(f"{s.name}_0") for s in self.layer.graphs[k].states]
            return [main.add("Gather", name, index, axis=0) for name in names]
        states, layer = self.layer.graphs[k].states, self.layer
        values = [main.number(s.init) for s in states]
        if layer.learn_initial_state:
            values = [
                self.tensor(f"initial.{k}.{s.name}", own[k].detach().cpu().numpy())
                for s, own in zip(states, layer.own_states(), strict=True)
            ]
        return [
            main.rows(value, batch, int(s.size))
            for value, s in zip(values, states, strict=True)
        ]

    # -- one layer in one direction --------------------------------------------

    def run_operator(
        self, k: int, x: str, named: Mapping[str, str], olds: Sequence[str]
    ) -> tuple[str, list[str]]:
        """As ONNX's own operator."""
        assert self.operator is not None
        main, graph = self.main, self.layer.graphs[k]
        W = made(self.layer.cells[k])  # type: ignore[arg-type]
        op, packing, attributes = self.operator
        packed = packing.pack(graph, W)
        bias = torch.cat([packed.x_bias, packed.h_bias])
        parts = {"W": packed.x, "R": packed.h, "B": bias}
        weights = [self.tensor(f"cells.{k}.{n}", v[None]) for n, v in parts.items()]
        starts = [main.add("Unsqueeze", old, main.integers(0)) for old in olds]
        lengths = ""
        if self.steps_of_rows:
            lengths = main.add("Cast", "lengths", to=self.onnx.TensorProto.INT32)
        inputs = [x, *weights, lengths, *starts]
        vectors = packing.pack_vectors(W)
        if vectors is not None:
            inputs.append(self.tensor(f"cells.{k}.P", vectors[None]))
        y, *news = main.add_several(
            op,
            *inputs,
            count=1 + len(olds),
            hidden_size=self.layer.hidden_size,
            direction="reverse" if self.reverse(k) else "forward",
            **attributes,
        )
        y = main.add("Squeeze", y, main.integers(1))  # the operator's directions
        news = [main.add("Squeeze", new, main.integers(0)) for new in news]
        if not lengths:
            return y, news
        # A row without a step keeps its state, which runtimes do not agree on.
        zero = self.tensor("integer.0", np.array(0, np.int64))
        empty = main.add("Equal", "lengths", zero)
        empty = main.add("Unsqueeze", empty, main.integers(1))
        pairs = zip(olds, news, strict=True)
        return y, [main.add("Where", empty, old, new) for old, new in pairs]

    def run_scan(
        self, k: int, x: str, named: Mapping[str, str], olds: Sequence[str]
    ) -> tuple[str, list[str]]:
        """As a Scan, the cell's graph its body."""
        backwards = int(self.reverse(k))
        sequences = [x, *named.values(), *filter(None, [self.real])]
        *finals, y = self.main.add_several(
            "Scan",
            *olds,
            *sequences,
            count=len(olds) + 1,
            body=_Body(self, k).build(),
            num_scan_inputs=len(sequences),
            scan_input_directions=[backwards] * len(sequences),
            scan_output_directions=[backwards],
        )
        return y, finals

    def reverse(self, k: int) -> bool:
        return bool(k % self.layer.directions)


class _Body:
    """A cell's step as the body of a Scan; weights are the model's."""

    def __init__(self, model: _Model, k: int) -> None:
        self.model, self.k = model, k
        self.graph: Graph = expanded(model.layer.graphs[k], {*_SAME, *_OTHER})
        self.W: Any = made(model.layer.cells[k])  # type: ignore[arg-type]
        self.writer = _Writer(model, f"cell{k}.")
        self.batch = self.writer.batch(self.leaf("x"), axis=0)
        self.values: list[str] = []
        self.has_rows: list[bool] = []  # or is it one value for the whole batch?

    def leaf(self, name: str) -> str:
        return f"{self.writer.prefix}{name}"

    def build(self) -> Any:
        model, graph = self.model, self.graph
        for node in graph.nodes:
            self.values.append(self.value(node))
            own = node.op in ("input", "state")
            self.has_rows.append(own or any(self.has_rows[a] for a in node.args))
        inputs = [
            model.declare(self.leaf(v.name), "batch", v.size)
            for v in (*graph.states, *graph.inputs)
            if v.name not in model.static
        ]
        outputs = []
        olds = [*(self.leaf(s.name) for s in graph.states), self.writer.number(0.0)]
        for position, number in enumerate([*graph.updates, graph.output]):
            # under a name of its own, though an output and a state be one value
            name = self.leaf(f"result.{position}")
            if model.real:  # a step that is none keeps the states
                args = [self.leaf("real.step"), self.rows(number), olds[position]]
                self.writer.append("Where", args, [name])
            else:
                self.writer.append("Identity", [self.rows(number)], [name])
            outputs.append(model.declare(name, "batch", graph.nodes[number].size))
        if model.real:
            kind, name = model.onnx.TensorProto.BOOL, self.leaf("real.step")
            inputs.append(
                model.onnx.helper.make_tensor_value_info(name, kind, ("batch", 1))
            )
        name = f"{graph.name}.{self.k}"
        return model.onnx.helper.make_graph(self.writer.nodes, name, inputs, outputs)

    def value(self, node: Node) -> str:
        """Write one node; the name of its value."""
        if node.op == "input" and node["name"] in self.model.static:
            return node["name"]  # the model's own, which the body sees
        if node.op in ("input", "state"):
            return self.leaf(node["name"])
        if node.op == "constant":
            return self.writer.number(node["value"])
        if node.op == "weight":
            name = node["weight"]
            return self.model.tensor(f"cells.{self.k}.{name}", getattr(self.W, name))
        if node.op == AFFINE:
            return self.affine(node)
        if node.op in _SAME:
            return self.writer.add(_SAME[node.op], *(self.values[a] for a in node.args))
        return _OTHER[node.op](self, node)

    def affine(self, node: Node) -> str:
        """W·[operands] + b as one Gemm; heads as one Einsum over the blocks."""
        add, affine = self.writer.add, getattr(self.W, node["weight"])
        label = f"cells.{self.k}.{node['weight']}"
        weight = self.model.tensor(f"{label}.weight", affine.matrix)
        bias = []
        if affine.bias is not None:
            bias = [self.model.tensor(f"{label}.bias", affine.bias)]
        operands = [self.rows(a) for a in node.args]
        if affine.heads == 1:
            return add("Gemm", self.concatenate(operands, 1), weight, *bias, transB=1)
        blocks = [self.split(o, affine.heads) for o in operands]
        rows = self.concatenate(blocks, 2)
        product = self.join(add("Einsum", rows, weight, equation="bnk,nok->bno"))
        return add("Add", product, *bias) if bias else product

    def concatenate(self, parts: Sequence[str], axis: int) -> str:
        if len(parts) == 1:
            return parts[0]
        return self.writer.add("Concat", *parts, axis=axis)

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
        axis = self.writer.integers(-1)
        return self.writer.add("ReduceSum", self.argument(node), axis, keepdims=1)

    def softmax(self, node: Node) -> str:
        return self.writer.add("Softmax", self.argument(node), axis=-1)

    def block_mean(self, node: Node) -> str:
        add, heads = self.writer.add, node["heads"]
        if heads == 1:  # one number a row, which broadcasts
            return add("ReduceMean", self.argument(node), axes=[-1])
        blocks = self.split(self.rows(node.args[0]), heads)
        means = add("ReduceMean", blocks, axes=[-1])
        return self.join(add("Expand", means, add("Shape", blocks)))


_SAME = {  # operations that ONNX has as they are
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
_OTHER: dict[str, Callable[[_Body, Node], str]] = {
    "not_equal": _Body.not_equal,
    "sum": _Body.sum,
    "softmax": _Body.softmax,
    "block_mean": _Body.block_mean,
}
