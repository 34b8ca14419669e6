"""ONNX: a layer, or a whole model that holds layers.

A cell that ONNX has becomes its operator, any other a Scan with the cell's own graph as
its body: whatever the language can say can be exported.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

from torch import nn

from ...language import ArgumentError
from ...nn.convert import from_torch
from ...nn.layer import SequenceLayer, plain_layer
from .layer import Wanted, layer_model
from .writer import check_dtype, require_onnx

__all__ = ["export_onnx"]


def export_onnx(
    layer: nn.Module,
    path: str | os.PathLike[str] | None = None,
    *,
    initial_states: bool = False,
    lengths: bool = False,
    starts: bool = False,
    resets: bool = False,
    operators: bool = True,
    static: Collection[str] = (),
) -> Any:
    onnx = require_onnx()
    layer = plain_layer(layer)
    if isinstance(layer, nn.RNNBase) and not isinstance(layer, SequenceLayer):
        layer = from_torch(layer, engine="reference")
    if not isinstance(layer, SequenceLayer):
        raise ArgumentError(
            f"[export_onnx] received {type(layer).__name__}, expected a Recurrent, or "
            "torch.nn.LSTM, GRU or RNN. Export the layer of a larger model by itself"
        )
    check_dtype(layer.placement()[1])
    wanted = Wanted(lengths, starts, resets, initial_states, static, operators)
    model = layer_model(layer, wanted)
    onnx.checker.check_model(model, full_check=True)
    if path is not None:
        onnx.save(model, os.fspath(path))
    return model
