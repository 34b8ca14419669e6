"""A layer in one direction: an operator of ONNX's, or the cell's step, in a Scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ...compiler.bindings import Binding
from ...compiler.once import Once, made_once
from ...language.expand import expanded
from ...language.graph import Graph
from .call import NamedCall
from .operators import find_operator, write_operator
from .step import KNOWN, Step, Values
from .weights import Weights
from .writer import Writer


class NamedCell(NamedTuple):
    """A layer·direction's cell, its parameters by their names in the graph.

    Attributes:
        graph: with concrete sizes.
        binding: of its weights.
        parameters: what the binding lists.
    """

    graph: Graph
    binding: Binding
    parameters: Sequence[str]


class Results(NamedTuple):
    """What a layer·direction gives, by name.

    Attributes:
        y: (time, batch, size).
        finals: the final states, (batch, size) each.
        attention: (time, batch, items), where the call wants it.
    """

    y: str
    finals: list[str]
    attention: str = ""


def write_direction(
    writer: Writer,
    label: str,
    cell: NamedCell,
    call: NamedCall,
    *,
    operators: bool,
) -> Results:
    """Write a layer·direction.

    Args:
        writer: of the graph that it becomes part of.
        label: tells its names from other layers'.
        cell: what it steps.
        call: names of what it computes with.
        operators: as `export_onnx` has it.
    """
    weights = Weights(writer, *cell)
    # All of ONNX's begin at step 0, and runtimes have them in float32 alone.
    if operators and writer.dtype == torch.float32 and not (call.starts or call.resets):
        operator = find_operator(cell.graph)
        if operator is not None:
            return Results(*write_operator(writer, operator, weights, call))
    return _write_scan(writer, label, weights, call)


def _write_scan(
    writer: Writer, label: str, weights: Weights, call: NamedCall
) -> Results:
    real = _real_steps(writer, call)
    resets = _resets(writer, call, real)
    once = made_once(expanded(weights.graph, KNOWN))
    body = Step(
        writer.body(label),
        once.step,
        weights,
        {**call.static, **_made_once(writer, once, weights, call)},
        members=call.members,
        reset_states=call.reset_states if resets else (),
        masked=bool(real),
        attention=call.attention,
    ).build()
    sequences = [call.x, *call.inputs.values(), *filter(None, [real, resets])]
    if call.step:
        values = _write_step(writer, body, call.states, sequences)
    else:
        count, backwards = len(body.output), int(call.reverse)
        values = writer.add_several(
            "Scan",
            *call.states,
            *sequences,
            count=count,
            body=body,
            num_scan_inputs=len(sequences),
            scan_input_directions=[backwards] * len(sequences),
            scan_output_directions=[backwards] * (count - len(call.states)),
        )
    finals, (y, *attention) = values[: len(call.states)], values[len(call.states) :]
    return Results(y, finals, *attention)


def _made_once(
    writer: Writer, once: Once, weights: Weights, call: NamedCall
) -> dict[str, str]:
    """The items of every step by name: the call's, and what is made of them."""
    if not once.made:
        return {}
    batch = writer.batch(call.x, axis=1)
    values = Values(writer, once.nodes, weights, call.items, call.members, batch)
    return {name: values.values[number] for name, number in once.made.items()}


def _write_step(
    writer: Writer, body: Any, states: Sequence[str], sequences: Sequence[str]
) -> list[str]:
    """The body of a Scan without the Scan, for runtimes that have none."""
    rows = [writer.squeeze(value, 0) for value in sequences]
    for own, value in zip(body.input, [*states, *rows], strict=True):
        writer.append("Identity", [value], [own.name])
    writer.nodes.extend(body.node)
    values = [value.name for value in body.output]
    finals, outputs = values[: len(states)], values[len(states) :]
    return [*finals, *(writer.unsqueeze(value, 0) for value in outputs)]


def _real_steps(writer: Writer, call: NamedCall) -> str:
    """Which steps of each row are its own, (time, batch, 1); "": all."""
    if not (call.lengths or call.starts):
        return ""
    add = writer.add
    count = writer.squeeze(add("Shape", call.x, start=0, end=1), 0)
    step = add("Range", writer.integer(0), count, writer.integer(1))
    step, begin, real = writer.unsqueeze(step, 1), writer.integer(0), ""
    if call.starts:
        begin = call.starts
        real = add("GreaterOrEqual", step, begin)
    if call.lengths:
        before_end = add("Less", step, add("Add", begin, call.lengths))
        real = add("And", real, before_end) if real else before_end
    return writer.unsqueeze(real, 2)


def _resets(writer: Writer, call: NamedCall, real: str) -> str:
    """Before which steps of the scan each row starts anew, (time, batch, 1).

    A reset cuts a sequence before its step: the reverse scan meets it one step earlier.
    One behind the row's end cuts nothing.
    """
    if not call.resets:
        return ""
    add = writer.add
    resets = add("Cast", call.resets, to=writer.onnx.TensorProto.BOOL)
    resets = writer.unsqueeze(resets, 2)
    if not call.reverse:
        return resets
    if real:
        resets = add("And", resets, real)
    later = writer.slice(resets, 1, 2**62, 0)
    return add("Pad", later, writer.integers(0, 0, 0, 1, 0, 0))
