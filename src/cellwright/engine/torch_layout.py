"""How torch packs the weights of the cells that it has too.

`find_layout` recognises such a cell by its equations, whatever its names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import cells
from ..language import Cell, Graph
from ..language.equations import same_equations


@dataclass(frozen=True)
class TorchLayout:
    """How torch.nn packs a cell.

    Attributes:
        kernel: torch's function: "lstm", "gru", "rnn_tanh" or "rnn_relu".
        cell: the same cell in the language.
        input_gates: the affines whose x-columns are the rows of `weight_ih`, in order.
        hidden_gates: the affines whose h-columns are the rows of `weight_hh`.
        projection: the affine that is `weight_hr`, if any.
    """

    kernel: str
    cell: Cell
    input_gates: tuple[str, ...]
    hidden_gates: tuple[str, ...]
    projection: str | None = None

    def renamed(self, names: dict[str, str]) -> TorchLayout:
        """The same layout for a cell that gives its weights other names."""
        return TorchLayout(
            self.kernel,
            self.cell,
            tuple(names[g] for g in self.input_gates),
            tuple(names[g] for g in self.hidden_gates),
            self.projection and names[self.projection],
        )


_IFGO = ("i", "f", "g", "o")
LSTM = TorchLayout("lstm", cells.lstm, _IFGO, _IFGO)
LSTM_PROJECTED = TorchLayout("lstm", cells.lstm_projected, _IFGO, _IFGO, "p")
GRU = TorchLayout("gru", cells.gru_reset_after, ("r", "z", "n"), ("r", "z", "m"))
RNN_TANH = TorchLayout("rnn_tanh", cells.rnn, ("h",), ("h",))
RNN_RELU = TorchLayout("rnn_relu", cells.rnn_relu, ("h",), ("h",))
LAYOUTS = (LSTM, LSTM_PROJECTED, GRU, RNN_TANH, RNN_RELU)


def find_layout(graph: Graph) -> TorchLayout | None:
    """The torch layout of a cell with these equations, or `None`."""
    for layout in LAYOUTS:
        names = same_equations(layout.cell.graph, graph)
        if names is not None:
            return layout.renamed(names)
    return None


def pack(layout: TorchLayout, graph: Graph, W: Any) -> list[Tensor]:
    """torch's flat weights [w_ih, w_hh, b_ih, b_hh(, w_hr)] of a cell's own."""
    x_columns = [columns(graph, W, gate, of_x=True) for gate in layout.input_gates]
    h_columns = [columns(graph, W, gate, of_x=False) for gate in layout.hidden_gates]
    zeros = torch.zeros_like(x_columns[0][:, 0])
    b_ih = [_bias(W, gate, zeros) for gate in layout.input_gates]
    b_hh = [
        zeros if gate in layout.input_gates else _bias(W, gate, zeros)
        for gate in layout.hidden_gates
    ]
    flat = [torch.cat(part) for part in (x_columns, h_columns, b_ih, b_hh)]
    if layout.projection:
        flat.append(getattr(W, layout.projection).weight)
    return flat


def columns(graph: Graph, W: Any, gate: str, of_x: bool) -> Tensor:
    """The columns of an affine's matrix that meet x, or those that meet h."""
    return getattr(W, gate).weight[:, column_slice(graph, gate, of_x)]


def column_slice(graph: Graph, gate: str, of_x: bool) -> slice:
    """Which columns of an affine's matrix meet x, or which meet h."""
    node = next(n for n in graph.nodes if n.op == "affine" and n["weight"] == gate)
    start = 0
    for arg in node.args:
        stop = start + int(graph.nodes[arg].size)
        if (graph.nodes[arg].op == "input") == of_x:
            return slice(start, stop)
        start = stop
    raise AssertionError(f"{gate} has no such operand")


def _bias(W: Any, gate: str, zeros: Tensor) -> Tensor:
    bias = getattr(W, gate).bias
    return zeros if bias is None else bias
