"""A layer in one direction: an operator of ONNX's, or the cell's step, in a Scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...engine.programs import Programs
from .call import NamedCall
from .operators import find_operator, write_operator
from .step import Step
from .weights import Weights
from .writer import Writer


def write_direction(
    writer: Writer,
    label: str,
    programs: Programs,
    parameters: Sequence[str],
    call: NamedCall,
    *,
    operators: bool,
) -> tuple[str, list[str]]:
    """Write a layer·direction.

    Args:
        writer: of the graph that it becomes part of.
        label: tells its names from other layers'.
        programs: the cell.
        parameters: names of what the programs' binding lists.
        call: names of what it computes with.
        operators: as `export_onnx` has it.

    Returns:
        The output, (time, batch, size), and the final states, (batch, size) each.
    """
    weights = Weights(writer, programs, parameters)
    # All of ONNX's begin at step 0, and runtimes have them in float32 alone.
    if operators and writer.dtype == torch.float32 and not (call.starts or call.resets):
        operator = find_operator(programs.graph)
        if operator is not None:
            return write_operator(writer, operator, weights, call)
    return _write_scan(writer, label, weights, call)


def _write_scan(
    writer: Writer, label: str, weights: Weights, call: NamedCall
) -> tuple[str, list[str]]:
    real = _real_steps(writer, call)
    resets = _resets(writer, call, real)
    fresh = call.reset_states if resets else ()
    body, graph = writer.body(label), weights.graph
    step = Step(body, graph, weights, call.static, fresh, bool(real)).build()
    sequences = [call.x, *call.inputs.values(), *filter(None, [real, resets])]
    if call.step:
        return _write_step(writer, step, call.states, sequences)
    backwards = int(call.reverse)
    *finals, y = writer.add_several(
        "Scan",
        *call.states,
        *sequences,
        count=len(call.states) + 1,
        body=step,
        num_scan_inputs=len(sequences),
        scan_input_directions=[backwards] * len(sequences),
        scan_output_directions=[backwards],
    )
    return y, finals


def _write_step(
    writer: Writer, body: Any, states: Sequence[str], sequences: Sequence[str]
) -> tuple[str, list[str]]:
    """The body of a Scan without the Scan, for runtimes that have none."""
    rows = [writer.squeeze(value, 0) for value in sequences]
    for own, value in zip(body.input, [*states, *rows], strict=True):
        writer.append("Identity", [value], [own.name])
    writer.nodes.extend(body.node)
    *finals, y = (value.name for value in body.output)
    return writer.unsqueeze(y, 0), finals


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
