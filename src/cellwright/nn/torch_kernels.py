"""torch's own recurrent kernels, for the cells that torch has too.

`TorchLayout` says how torch packs such a cell's weights; `find_layout` recognises a
cell by its equations, whatever its names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import cells
from ..engine.schedule import Order
from ..language import ArgumentError, Cell, Graph
from .equations import same_equations


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


# -- recognising ---------------------------------------------------------------


def find_layout(graph: Graph) -> TorchLayout | None:
    """The torch layout of a cell with these equations, or `None`."""
    for layout in LAYOUTS:
        names = same_equations(layout.cell.graph, graph)
        if names is not None:
            return layout.renamed(names)
    return None


# -- running -------------------------------------------------------------------


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


def run(
    kernel: str,
    flat: list[Tensor],
    x: Tensor,
    states: Sequence[Tensor],
    *,
    reverse: bool = False,
    order: Order | None = None,
    fresh: Sequence[Tensor] = (),
    biased: bool = True,
) -> tuple[Tensor, list[Tensor]]:
    """One layer in one direction through torch's kernel.

    Args:
        kernel: as in `TorchLayout`.
        flat: torch's packed weights.
        x: (T, B, input_size); (Σ batch_sizes, input_size) if it is packed.
        states: (B, size) each.
        reverse: walk from the last step to the first.
        order: lengths, resets or batch sizes; without it every row at every step.
        fresh: what a reset starts from, (size,) each.
        biased: the weights have biases.

    Raises:
        ArgumentError: inside torch.func.vmap.
    """
    refuse_vmap()
    if order is None or order.plain:
        x = x.flip(0) if reverse else x
        y, news = _call(kernel, flat, x, None, states, biased)
        return y.flip(0) if reverse else y, news
    pieces = order.pieces(reverse)
    if not len(pieces.rows):
        return x.new_zeros(*x.shape[:-1], states[0].shape[1]), list(states)
    rows = pieces.rows.to(x.device)
    if fresh:
        states = [torch.cat([s, f[None]]) for s, f in zip(states, fresh, strict=True)]
    initial = [s[pieces.initial] for s in states]
    data = x.reshape(-1, x.shape[-1])[rows]
    y, news = _call(kernel, flat, data, pieces.batch_sizes, initial, biased)
    whole = y.new_zeros(x.shape[:-1].numel(), y.shape[1]).index_copy(0, rows, y)
    empty = pieces.empty.to(x.device)
    finals = [
        torch.where(empty, s[: len(empty)], n[pieces.last])
        for s, n in zip(states, news, strict=True)
    ]
    return whole.view(*x.shape[:-1], -1), finals


def _call(
    kernel: str,
    flat: list[Tensor],
    x: Tensor,
    batch_sizes: Tensor | None,
    states: Sequence[Tensor],
    biased: bool,
) -> tuple[Tensor, list[Tensor]]:
    """torch's function, of padded or packed rows."""
    olds = [s.unsqueeze(0) for s in states]
    hidden = olds if kernel == "lstm" else olds[0]
    # num_layers, dropout, train, bidirectional
    options = (biased, 1, 0.0, False, False)
    function = getattr(torch._VF, kernel)  # type: ignore[attr-defined]
    if batch_sizes is None:
        y, *news = function(x, hidden, flat, *options, False)  # batch_first
    else:
        y, *news = function(x, batch_sizes, hidden, flat, *options)
    return y, [n.squeeze(0) for n in news]


def refuse_vmap() -> None:
    """torch's kernels have no rule for another batch dimension.

    Raises:
        ArgumentError: inside torch.func.vmap.
    """
    if torch.compiler.is_compiling():  # it follows no such question
        return
    stack = torch._C._functorch.get_interpreter_stack() or ()  # type: ignore[attr-defined]
    if any(i.key() == torch._C._functorch.TransformType.Vmap for i in stack):  # type: ignore[attr-defined]
        raise ArgumentError(
            "[engine] torch's kernels cannot be mapped by torch.func.vmap; received "
            "engine 'torch', expected 'native' or 'reference'"
        )
