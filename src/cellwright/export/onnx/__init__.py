"""ONNX: a layer, or a whole model that holds layers.

A cell that ONNX has becomes its operator, any other a Scan with the cell's own graph as
its body: whatever the language can say can be exported.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ...files import write_output
from ...language import ArgumentError
from ...nn.convert import from_torch
from ...nn.layer import SequenceLayer, plain_layer
from ...nn.made import computes_otherwise
from .layer import Wanted, layer_model
from .model import whole_model
from .run import trained
from .translation import onnx_translations
from .writer import OPSET, check_dtype, import_onnx

__all__ = ["export_onnx", "onnx_translations"]

MOST = 2**31 - 2**20  # bytes of weights: protobuf's bound, less what is around them


def export_onnx(
    model: Any,
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
    step: bool = False,
    input_names: Sequence[str] = (),
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

    **A run** of a language model needs no example: it is written with its states and
    its tokenizer. The inputs are `tokens`, (time, batch) of int64, and the states,
    `h_0`, `c_0`, …; the outputs are `logits`, (time, batch, tokens), and the states.

    Args:
        model: a `Recurrent` of any cell, a drop-in, or torch.nn's LSTM, GRU or RNN; or
            a module that holds layers of ours; or one that torch.compile has wrapped;
            or a `cellwright.text.run.Run`.
        path: where to write; without it, the model is only returned. A file that is
            there is replaced when all is written.
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
        step: time is 1, and stays so, for a stream; there is no Scan then. A layer
            takes its initial states, and the example of a model is of one step.
        input_names, output_names: of a model's inputs and outputs, the states among
            them, in order.

    Returns:
        The model, an `onnx.ModelProto`, checked. Metadata of a layer and of a run:
        `cellwright.cell`, the printed cell, and where there are states among the
        inputs, `cellwright.initial_states`, JSON: the values of each by its name, one
        number or (layers · directions, 1, size) of them, that the model starts from by
        itself. A run has `cellwright.tokenizer`, JSON of the library tokenizers.

    Raises:
        ArgumentError: a module without a layer, or without an example, which a layer
            with hooks or with a `forward` of your own needs too; a dtype other
            than float32 and float64; `static` names what is no named input; an
            argument that forward has not; a step of a bidirectional layer; weights of
            2 GB, which a file cannot hold.
        MissingExtraError: the extra `onnx` is not installed, or onnxscript for a model.
    """
    onnx = import_onnx()
    metadata: dict[str, str] = {}
    if hasattr(model, "trained_model"):
        if example is not None or input_names or output_names:
            raise ArgumentError(
                "[export_onnx] a run brings its own example and names; received "
                "example=, input_names= or output_names=, expected none. Its model by "
                "itself takes them: run.trained_model()"
            )
        model, call, metadata = trained(model)
        example, input_names, output_names = call
    model = plain_layer(model)
    _check_size(model)
    marks = {"lengths": lengths, "starts": starts, "resets": resets}
    if _is_layer(model) and (example is None or not computes_otherwise(model)):
        _check_known(model)
        wanted = Wanted(
            **marks, initial_states=initial_states or step, static=static, step=step
        )
        written = layer_model(_own_layer(model), wanted, operators, opset or OPSET)
    else:
        _check_example(model, example, initial_states, static)
        written = whole_model(
            model,
            example,
            [name for name, given in marks.items() if given],
            onnx_translations(operators=operators, step=step),
            step=step,
            opset_version=opset,
            input_names=input_names or None,
            output_names=output_names or None,
        )
    if metadata:
        onnx.helper.set_model_props(written, metadata)
    onnx.checker.check_model(written, full_check=True)
    if path is not None:
        write_output(Path(path), _serialized(written, Path(path).suffix))
    return written


def _serialized(model: Any, suffix: str) -> bytes:
    """A model in the format that a file's suffix says, as `onnx.save` has them."""
    from onnx.serialization import registry

    kind = registry.get_format_from_file_extension(suffix) or "protobuf"
    return registry.get(kind).serialize_proto(model)


def _check_size(model: Any) -> None:
    """Hold the weights to what a file can hold, before they are copied."""
    if not isinstance(model, nn.Module):
        return
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    if size >= MOST:
        raise ArgumentError(
            f"[export_onnx] a file of ONNX holds less than {MOST / 1e9:.1f} GB; "
            f"received weights of {size / 1e9:.1f} GB, expected fewer. "
            "torch.onnx.export(model.eval(), arguments, path, external_data="
            "True, custom_translation_table=cw.onnx_translations()) writes the weights "
            "to a file beside it"
        )


def _is_layer(model: Any) -> bool:
    return isinstance(model, SequenceLayer | nn.RNNBase)


def _check_known(layer: nn.Module) -> None:
    """Raise ArgumentError for a layer that may compute what its class does not say."""
    if computes_otherwise(layer):
        raise ArgumentError(
            "[export_onnx] a layer by itself is written from its equations, and calls "
            f"nothing of yours; received {type(layer).__name__} with hooks or with a "
            "forward of your own, expected neither. Remove the hooks; or give "
            "example=what its forward takes, and all is written that the call runs"
        )


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
