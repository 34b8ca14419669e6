"""The native engine's op as nodes of torch's ONNX exporter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, NamedTuple

import torch

from ...engine.native import op
from ...engine.programs import find_programs
from ...language import ArgumentError
from .call import NamedCall
from .direction import NamedCell, write_direction
from .items import Operation, write_layer
from .writer import OPSET, Writer

PREFIX = "cellwright."  # of the names of all that is written here


def onnx_translations(
    *, operators: bool = True, step: bool = False
) -> dict[Callable, Callable]:
    """How `torch.onnx.export` writes layers on the native engine.

    `torch.onnx.export(model, …, custom_translation_table=cw.onnx_translations())`

    Args:
        operators, step: as `export_onnx` has them.
    """
    numbers = count()

    def translate(*arguments: Any) -> list[Any]:
        prefix, call = f"{PREFIX}{next(numbers)}.", _Call(*arguments)
        return _translate(prefix, call, operators=operators, step=step)

    def translate_with_items(*arguments: Any) -> list[Any]:
        prefix = f"{PREFIX}{next(numbers)}."
        return _translate_with_items(prefix, arguments, step)

    assert op  # which defines the operation
    return {
        torch.ops.cellwright.walk.default: translate,
        torch.ops.cellwright.layer_with_items.default: translate_with_items,
    }


class _Call(NamedTuple):
    """The operation's arguments, tensors as the exporter's values."""

    inputs: Sequence[Any]
    states: Sequence[Any]
    reset_states: Sequence[Any]
    parameters: Sequence[Any]
    key: str
    batch_sizes: Sequence[int]
    lengths: Any
    resets: Any
    reverse: bool
    learned: bool
    training: bool
    starts: Any = None


def _translate_with_items(
    prefix: str, arguments: Sequence[Any], step: bool
) -> list[Any]:
    """The same of a layer with items."""
    writer = Writer(_dtype(arguments[0][0]), prefix)
    given: dict[str, Any] = {}

    def named(value: Any) -> Any:
        if value is None or isinstance(value, str):
            return value or ""
        if isinstance(value, list | tuple):
            return [named(v) for v in value]
        given[name := f"{prefix}given.{len(given)}"] = value
        return name

    operation = Operation(*map(named, arguments))
    return _record(writer, given, write_layer(writer, operation, step))


def _translate(prefix: str, call: _Call, *, operators: bool, step: bool) -> list[Any]:
    """Write one call of the operation, and give its results."""
    if call.batch_sizes:
        raise ArgumentError(
            "[torch.onnx.export] received a PackedSequence, whose sizes are numbers; "
            "expected a padded x, and its lengths as layer(x, lengths=lengths)"
        )
    programs = find_programs(call.key)
    writer = Writer(_dtype(call.inputs[0]), prefix)
    given: dict[str, Any] = {}

    def named(label: str, value: Any) -> str:
        if value is None:
            return ""
        name = f"{prefix}given.{label}"
        given[name] = value
        return name

    def listed(label: str, values: Sequence[Any]) -> list[str]:
        return [named(f"{label}{k}", value) for k, value in enumerate(values)]

    x, *others = listed("input", call.inputs)
    further = dict(zip(programs.inputs[1:], others, strict=True))
    once = {*programs.static, *programs.constant}
    y, finals, _ = write_direction(
        writer,
        "cell",
        NamedCell(programs.graph, programs.binding, listed("weight", call.parameters)),
        NamedCall(
            x,
            {n: v for n, v in further.items() if n not in once},
            {n: v for n, v in further.items() if n in once},
            [writer.squeeze(state, 0) for state in listed("state", call.states)],
            listed("reset", call.reset_states),
            *(named(n, getattr(call, n)) for n in ("lengths", "starts", "resets")),
            reverse=call.reverse,
            step=step,
        ),
        operators=operators,
    )
    results = [y, *(writer.unsqueeze(final, 0) for final in finals)]
    # What the operation saves for the backward pass is no result of a model.
    return _record(writer, given, [*results, writer.zeros(0)])


def _dtype(value: Any) -> torch.dtype:
    return {1: torch.float32, 11: torch.float64}[int(value.dtype)]


def _record(writer: Writer, given: dict[str, Any], results: list[str]) -> list[Any]:
    """Hand the nodes to the exporter.

    Args:
        given: the exporter's values by their names in the writer's graph.
        results: names of the results.
    """
    import onnx_ir as ir
    from onnxscript import evaluator, values

    make = writer.onnx.helper
    constants = [
        make.make_node("Constant", [], [name], name, value=tensor)
        for name, tensor in writer.tensors.items()
    ]
    declared = [make.make_empty_tensor_value_info(name) for name in given]
    ends = [make.make_empty_tensor_value_info(name) for name in results]
    graph = ir.from_proto(
        make.make_graph([*constants, *writer.nodes], writer.prefix, declared, ends)
    )
    for own, value in zip(list(graph.inputs), given.values(), strict=True):
        ir.convenience.replace_all_uses_with(own, value)
    outputs, nodes = list(graph.outputs), list(graph)
    graph.outputs.clear()
    graph.remove(nodes)
    recorder = evaluator.default()
    recorder.nodes.extend(nodes)  # type: ignore[attr-defined]
    opset = values.Opset("", OPSET)
    return [opset.Identity(value) for value in outputs]
