"""Our layers as ONNX models of ONNX's own recurrent operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from cases import Shape
from torch import Tensor

Weights = dict[str, Any]


def model(name: str, layer: Any, shape: Shape) -> Any:
    """x (T, B, I) to y (T, 1, B, H)."""
    from onnx import TensorProto, helper, numpy_helper

    operator, attributes, weights = BUILDERS[name](layer, shape.hidden)
    order = ["W", "R", "B", "", "", "", "P"] if "P" in weights else ["W", "R", "B"]
    size = [shape.steps, 1, shape.batch, shape.hidden]
    input_size = [shape.steps, shape.batch, shape.inputs]
    node = helper.make_node(
        operator, ["x", *order], ["y"], hidden_size=shape.hidden, **attributes
    )
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, input_size)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, size)
    initializers = [
        numpy_helper.from_array(w.detach().unsqueeze(0).contiguous().numpy(), n)
        for n, w in weights.items()
    ]
    graph = helper.make_graph([node], name, [x], [y], initializers)
    opsets = [helper.make_opsetid("", 14)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _gates(layer: Any, names: str, signs: dict[str, int] | None = None) -> Weights:
    """The stacked weights of gates; a gate 1 − σ(a) is one σ(−a)."""
    W, signs = layer.cells[0], signs or {}
    sign = [signs.get(n, 1) for n in names]
    gates = list(zip((getattr(W, n) for n in names), sign, strict=True))
    bias = torch.cat([s * g.bias for g, s in gates])
    return {
        "W": torch.cat([s * g.blocks(1)[0] for g, s in gates]),
        "R": torch.cat([s * g.blocks(0)[0] for g, s in gates]),
        "B": torch.cat([bias, torch.zeros_like(bias)]),
    }


def _lstm(layer: Any, hidden: int) -> tuple[str, dict[str, Any], Weights]:
    return "LSTM", {}, _gates(layer, "iofg")


def _diagonal(layer: Any, hidden: int) -> tuple[str, dict[str, Any], Weights]:
    W, weights = layer.cells[0], _gates(layer, "iofg")
    weights["P"] = torch.cat([W.p_i, W.p_o, W.p_f])
    return "LSTM", {}, weights


def _gru(layer: Any, hidden: int) -> tuple[str, dict[str, Any], Weights]:
    """torch's rows are r, z, n; ONNX's z, r, n."""

    def turned(t: Tensor) -> Tensor:
        r, z, n = t.split(hidden)
        return torch.cat([z, r, n])

    p = dict(layer.named_parameters())
    weights = {"W": turned(p["weight_ih_l0"]), "R": turned(p["weight_hh_l0"])}
    biases = [turned(p["bias_ih_l0"]), turned(p["bias_hh_l0"])]
    weights["B"] = torch.cat(biases)
    return "GRU", {"linear_before_reset": 1}, weights


def _reset_before(layer: Any, hidden: int) -> tuple[str, dict[str, Any], Weights]:
    """ONNX's z keeps the old state, ours lets the new one in."""
    return "GRU", {"linear_before_reset": 0}, _gates(layer, "zrn", {"z": -1})


def _rnn(layer: Any, hidden: int) -> tuple[str, dict[str, Any], Weights]:
    return "RNN", {}, _gates(layer, "h")


BUILDERS: dict[str, Callable[[Any, int], tuple[str, dict[str, Any], Weights]]] = {
    "lstm": _lstm,
    "gru": _gru,
    "rnn": _rnn,
    "peephole_diagonal": _diagonal,
    "gru_bias": _reset_before,
}
