"""What torch's quantization finds at a layer."""

from __future__ import annotations

import warnings
from typing import Any


class Qconfig:
    """`layer.qconfig`: torch.ao.quantization writes it on every module of a model.

    It then replaces torch.nn's own classes, and passes all others over without a word.
    """

    def __set__(self, layer: Any, value: Any) -> None:
        warnings.warn(
            f"[quantization] torch.ao.quantization replaces torch.nn's own modules "
            f"alone: received a cellwright.{type(layer).__name__}, which stays as it "
            f"is. What it replaces is {_counterpart(layer)}; cellwright.export_onnx "
            "writes the model for a runtime that quantizes by itself",
            stacklevel=2,
        )
        vars(layer)["qconfig"] = value

    def __get__(self, layer: Any, owner: type | None = None) -> Any:
        if layer is None or "qconfig" not in vars(layer):
            raise AttributeError("qconfig")
        return vars(layer)["qconfig"]

    def __delete__(self, layer: Any) -> None:
        vars(layer).pop("qconfig", None)


def _counterpart(layer: Any) -> str:
    """The same layer as a module of torch.nn's."""
    of_torch = getattr(layer, "_of_torch", None)
    if of_torch is None:
        return "cellwright.to_torch(layer), where torch has the cell"
    name = of_torch.__name__
    return f"torch.nn.{name}(…) after its load_state_dict(layer.state_dict())"
