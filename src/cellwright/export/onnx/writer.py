"""Nodes of an ONNX graph in the making."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...extras import require
from ...language import ArgumentError

OPSET = 18  # old enough for any runtime of the last years
_TYPES = {torch.float32: "FLOAT", torch.float64: "DOUBLE"}
# What gates are stacked with, and matrices turned.
_MADE = {"Slice", "Concat", "Neg", "Add", "Unsqueeze", "Transpose"}


def import_onnx() -> Any:
    """The package onnx.

    Raises:
        MissingExtraError: it is not installed.
    """
    require("export_onnx", "onnx", "onnx")
    import onnx
    import onnx.checker
    import onnx.helper
    import onnx.numpy_helper

    return onnx


def check_dtype(dtype: torch.dtype) -> None:
    """Raise ArgumentError for a type of weights that runtimes do not have."""
    if dtype not in _TYPES:
        raise ArgumentError(
            f"[export_onnx] received a layer in {dtype}, expected torch.float32 or "
            "torch.float64. Convert it with .float()"
        )


class Writer:
    """Nodes of one graph; each method gives its result's name.

    Args:
        dtype: of the model's numbers.
        prefix: of every name. It, or what follows it, has a dot, as no input has.
        tensors: the constants of the graph around it.

    Attributes:
        nodes: written so far.
        tensors: constants by name, the graph's and those of the bodies in it.
        type: ONNX's number of the dtype.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        prefix: str = "",
        tensors: dict[str, Any] | None = None,
    ) -> None:
        self.onnx, self.dtype, self.prefix = import_onnx(), dtype, prefix
        self.type = getattr(self.onnx.TensorProto, _TYPES[dtype])
        self.nodes: list[Any] = []
        self.tensors = {} if tensors is None else tensors
        self.constants_prefix = prefix

    def body(self, label: str) -> Writer:
        """A writer of a graph inside this one."""
        inner = Writer(self.dtype, f"{self.prefix}{label}.", self.tensors)
        inner.constants_prefix = self.constants_prefix
        return inner

    # -- nodes

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
        name = f"{self.prefix}{op.lower()}{len(self.nodes)}"
        make = self.onnx.helper.make_node
        self.nodes.append(make(op, inputs, outputs, name, **attributes))

    def concatenate(self, parts: Sequence[str], axis: int) -> str:
        return parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=axis)

    def slice(self, value: str, start: int, stop: int, axis: int) -> str:
        bounds = (self.integers(n) for n in (start, stop, axis))
        return self.add("Slice", value, *bounds)

    def squeeze(self, value: str, axis: int) -> str:
        return self.add("Squeeze", value, self.integers(axis))

    def unsqueeze(self, value: str, axis: int) -> str:
        return self.add("Unsqueeze", value, self.integers(axis))

    def transposed(self, value: str) -> str:
        """(a, b, size) -> (b, a, size)."""
        return self.add("Transpose", value, perm=[1, 0, 2])

    def before(self, items: str, counts: str) -> str:
        """Of (batch, items, size), which are before each row's count: (batch, items, 1)
        of booleans."""
        count = self.squeeze(self.batch(items, axis=1), 0)
        number = self.add("Range", self.integer(0), count, self.integer(1))
        return self.unsqueeze(self.add("Less", number, self.unsqueeze(counts, 1)), 2)

    def batch(self, x: str, axis: int) -> str:
        return self.add("Shape", x, start=axis, end=axis + 1)

    def rows(self, value: str, batch: str, size: int) -> str:
        """A value that no row has to itself, repeated for every row of the batch."""
        shape = self.add("Concat", batch, self.integers(size), axis=0)
        return self.add("Expand", value, shape)

    # -- constants

    def tensor(self, name: str, value: Tensor | np.ndarray) -> str:
        """A constant: a weight, a number."""
        name = f"{self.constants_prefix}{name}"
        if name in self.tensors:
            return name
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy()
        if value.dtype.kind == "f":
            single = self.dtype == torch.float32
            value = value.astype(np.float32 if single else np.float64)
        value = np.array(value, order="C")  # ascontiguousarray adds an axis to ()
        self.tensors[name] = self.onnx.numpy_helper.from_array(value, name)
        return name

    def number(self, value: float) -> str:
        """A number of the model's type, without dimensions."""
        return self.tensor(f"number.{value!r}", np.array(value))

    def zeros(self, size: int) -> str:
        return self.tensor(f"zeros.{size}", np.zeros(size))

    def integer(self, value: int) -> str:
        """An integer without dimensions."""
        return self.tensor(f"integer.{value}", np.array(value, np.int64))

    def integers(self, *values: int) -> str:
        label = "_".join(str(v) for v in values)
        return self.tensor(f"integers.{label}", np.array(values, np.int64))

    # -- types of inputs and outputs

    def declare(self, name: str, *shape: Any) -> Any:
        return self.onnx.helper.make_tensor_value_info(name, self.type, shape)

    def declare_as(self, kind: str, name: str, *shape: Any) -> Any:
        """The same of another type: "INT64", "BOOL"."""
        number = getattr(self.onnx.TensorProto, kind)
        return self.onnx.helper.make_tensor_value_info(name, number, shape)


def fold_weights(model: Any, prefix: str = "") -> None:
    """Replace what is made of weights alone by its value: gates that are stacked.

    Args:
        model: changed in place.
        prefix: of the names of the nodes that are looked at.
    """
    onnx = import_onnx()
    from onnx.reference import ReferenceEvaluator

    graph, kept = model.graph, []
    known = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        ours = node.op_type in _MADE and node.name.startswith(prefix)
        if not ours or not all(name in known for name in node.input):
            kept.append(node)
            continue
        arrays = {name: onnx.numpy_helper.to_array(known[name]) for name in node.input}
        (value,) = ReferenceEvaluator(node).run(None, arrays)
        name = node.output[0]
        known[name] = onnx.numpy_helper.from_array(np.asarray(value), name)
    read = {*_names_read(kept), *(output.name for output in graph.output)}
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(t for name, t in known.items() if name in read)


def _names_read(nodes: Iterable[Any]) -> Iterator[str]:
    """What nodes read, those of their bodies too."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            yield from _names_read(attribute.g.node)
