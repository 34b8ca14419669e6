"""ONNX: a layer, or a whole model that holds layers.

A cell that ONNX has becomes its operator, any other a Scan with the cell's own graph as
its body: whatever the language can say can be exported.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import Any

from torch import nn

from ...language import ArgumentError
from ...nn.convert import from_torch
from ...nn.layer import SequenceLayer, plain_layer
from .layer import Wanted, layer_model
from .model import whole_model
from .translation import onnx_translations
from .writer import OPSET, check_dtype, import_onnx

__all__ = ["export_onnx", "onnx_translations"]


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str] | None = None,
    *,
    example: Any = None,
    lengths: bool = False,
    starts: bool = False,
    resets: bool = False,
    initial_states: bool = False,
    static: Collection[str] = (),
    operators: bool = True,
    opset: int | None = None,
    output_names: Sequence[str] = (),
) -> Any:
    """Write a layer, or a model that holds layers, as an ONNX model, for inference: no
    dropout, no gradients.

    **A layer** needs no example. The model's input is `x`, shaped as the layer takes
    it, and the named inputs; its outputs are `y` and the final states, `h_n`, `c_n`, …
    Sequence length and batch are free (`time`, `batch`). A name that a named input has
    taken gets an underscore: with an input `y`, the output is `y_`.

    **Any other model** goes through torch's exporter (the package onnxscript): its
    inputs are named as the arguments of `forward`, and every size of them is free that
    the model itself does not fix.

    Args:
        model: a `Recurrent` of any cell, a drop-in, or torch.nn's LSTM, GRU or RNN; or
            a module that holds layers of ours; or one that torch.compile has wrapped.
        path: where to write; without it, the model is only returned.
        example: what a model's forward takes: a tensor, a tuple, or a dict by name.
            Sizes of 1 are as good as any.
        lengths, starts, resets: the model takes inputs of these names, as a layer's
            forward does: (batch,) of int64, and booleans shaped as x without its units.
            It does not check them. A model's own forward must have such an argument.
        initial_states: a layer's model takes initial states too, `h_0`, `c_0`, …,
            shaped as the layer's; without them it starts from the cell's own. (Those of
            another model are in its example.)
        static: a layer's named inputs that are given once for all steps, (batch, size).
        operators: write cells that ONNX has as its LSTM, GRU and RNN, where they can
            say it (in float32, the one type that runtimes have them for, without starts
            and resets); otherwise every cell is a Scan.
        opset: the version of ONNX's operators: 18 for a layer, torch's for a model.
        output_names: of a model's outputs, the states among them.

    Returns:
        The model, an `onnx.ModelProto`, checked. Its metadata `cellwright.cell` is a
        layer's printed cell.

    Raises:
        ArgumentError: a module without a layer, or without an example; a dtype other
            than float32 and float64; `static` names what is no named input; an
            argument that forward has not.
        MissingExtraError: the extra `onnx` is not installed, or onnxscript for a model.
    """
    onnx = import_onnx()
    model = plain_layer(model)
    marks = {"lengths": lengths, "starts": starts, "resets": resets}
    if isinstance(model, SequenceLayer | nn.RNNBase):
        wanted = Wanted(**marks, initial_states=initial_states, static=static)
        written = layer_model(_own_layer(model), wanted, operators, opset or OPSET)
    else:
        _check_example(model, example, initial_states, static)
        taken = [name for name, given in marks.items() if given]
        options = {"opset_version": opset, "output_names": output_names or None}
        written = whole_model(model, example, taken, operators, **options)
    onnx.checker.check_model(written, full_check=True)
    if path is not None:
        onnx.save(written, os.fspath(path))
    return written


def _own_layer(layer: Any) -> Any:
    if not isinstance(layer, SequenceLayer):
        layer = from_torch(layer, engine="reference")
    check_dtype(layer.placement()[1])
    return layer


def _check_example(
    model: Any, example: Any, initial_states: bool, static: Collection[str]
) -> None:
    if not isinstance(model, nn.Module) or example is None:
        raise ArgumentError(
            f"[export_onnx] received {type(model).__name__}"
            f"{'' if example is None else ' and an example'}, expected a Recurrent, or "
            "torch.nn.LSTM, GRU or RNN; or a module that holds layers, and "
            "example=what its forward takes"
        )
    if initial_states or static:
        raise ArgumentError(
            "[export_onnx] initial_states and static are for a layer by itself; "
            f"received a {type(model).__name__}, expected neither. What its forward "
            "takes belongs in the example: example=(x, state)"
        )
