"""Write the step of a recurrent cell as its equations; get the layer::

    import cellwright as cw
    from cellwright import cell, sigmoid, tanh

    @cell
    def lstm(W, x, h, c):
        f = sigmoid(W.f(h, x)); i = sigmoid(W.i(h, x)); g = tanh(W.g(h, x))
        c = f * c + i * g
        return sigmoid(W.o(h, x)) * tanh(c), c

    layer = cw.Recurrent(lstm, input_size=64, hidden_size=128)
    y, (h, c) = layer(x)  # x (T, B, 64) -> y (T, B, 128)

The guide begins with docs/learn/tutorial.md, from an idea to a trained cell.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from . import cells
from .export import export_c, export_onnx, onnx_translations
from .language import (
    ArgumentError,
    Cell,
    CellError,
    CellwrightError,
    Graph,
    Items,
    SizeError,
    TraceError,
    TreeCell,
    attend,
    cell,
    load_cell,
    name,
    total,
    tree_cell,
)
from .language import ops as _ops
from .language.ops import *  # noqa: F403
from .language.ops import abs_ as abs
from .language.ops import sum_ as sum
from .language.suggest import no_attribute as _no_attribute
from .look.check import check_cell as check
from .look.record import Record, UnknownValueError, record
from .nn import (
    GRU,
    LSTM,
    RNN,
    EncoderDecoder,
    Forest,
    Recurrent,
    TreeRecurrent,
    activation_regularisation,
    detach,
    from_keras_weights,
    from_torch,
    reset_rows,
    temporal_activation_regularisation,
    to_keras_weights,
    to_torch,
)
from .nn import initialise as init
from .runs import from_pretrained, load_run
from .version import __version__ as __version__

if not _TYPE_CHECKING:  # a checker knows what is not there

    def __getattr__(name: str) -> None:
        raise _no_attribute(name)


__all__ = [
    "GRU", "LSTM", "RNN", "ArgumentError", "Cell", "CellError", "CellwrightError",
    "EncoderDecoder", "Forest", "Graph", "Items", "Record", "Recurrent",
    "SizeError", "TraceError", "TreeCell", "TreeRecurrent", "UnknownValueError",
    "abs", "activation_regularisation", "attend", "cell", "cells", "check",
    "detach", "export_c", "export_onnx", "from_keras_weights", "from_pretrained",
    "from_torch", "init", "load_cell", "load_run", "name", "onnx_translations",
    "record", "reset_rows", "sum", "temporal_activation_regularisation",
    "to_keras_weights", "to_torch", "total", "tree_cell",
]  # fmt: skip
__all__ += _ops.__all__
