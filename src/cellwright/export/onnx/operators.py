"""The cells that ONNX has as operators of its own."""

from __future__ import annotations

from typing import Any, NamedTuple

from ... import cells as zoo
from ...language import Graph
from ...nn.packing import Packing, same_gates
from .call import NamedCall
from .weights import Weights
from .writer import Writer


class Operator(NamedTuple):
    """An operator that computes a cell.

    Attributes:
        name: ONNX's.
        packing: how it stacks the gates: input, output, forget, candidate.
        attributes: that make it this cell.
    """

    name: str
    packing: Packing
    attributes: dict[str, Any]


# In a cell with coupled gates one gate is the other negated, and `input_forget` says so
# once more. ONNX's GRU keeps the old state by its z, the papers' lets in the new.
_OPERATORS = (
    Operator("RNN", same_gates(zoo.rnn, "h"), {"activations": ["Tanh"]}),
    Operator("RNN", same_gates(zoo.rnn_relu, "h"), {"activations": ["Relu"]}),
    Operator("LSTM", same_gates(zoo.lstm, "i", "o", "f", "g"), {}),
    Operator(
        "LSTM",
        same_gates(
            zoo.peephole_diagonal, "i", "o", "f", "g", vectors=("p_i", "p_o", "p_f")
        ),
        {},
    ),
    Operator("LSTM", same_gates(zoo.coupled, "-f", "o", "f", "g"), {"input_forget": 1}),
    Operator(
        "LSTM",
        same_gates(zoo.cifg, "i", "o", "-i", "z", vectors=("p_i", "p_o", "-p_i")),
        {"input_forget": 1},
    ),
    Operator(
        "GRU",
        Packing(zoo.gru_reset_after, ("z", "r", "n"), ("z", "r", "m")),
        {"linear_before_reset": 1},
    ),
    Operator("GRU", same_gates(zoo.gru_bias, "-z", "r", "n"), {}),
)


def find_operator(graph: Graph) -> Operator | None:
    """The operator that computes a cell with concrete sizes, its gates' names in it."""
    for operator in _OPERATORS:
        packing = operator.packing.fitted(graph)
        if packing is not None:
            return operator._replace(packing=packing)
    return None


def write_operator(
    writer: Writer, operator: Operator, weights: Weights, call: NamedCall
) -> tuple[str, list[str]]:
    """A layer·direction as an operator: its output and its final states."""
    size, lengths = int(weights.graph.states[0].size), ""
    if call.lengths:
        lengths = writer.add("Cast", call.lengths, to=writer.onnx.TensorProto.INT32)
    olds = [writer.unsqueeze(old, 0) for old in call.states]
    y, *news = writer.add_several(
        operator.name,
        call.x,
        *_stacked(writer, operator.packing, weights),
        lengths,
        *olds,
        *_vectors(writer, operator.packing, weights),
        count=1 + len(olds),
        hidden_size=size,
        direction="reverse" if call.reverse else "forward",
        **operator.attributes,
    )
    y = writer.squeeze(y, 1)  # the operator's directions
    news = [writer.squeeze(new, 0) for new in news]
    if not lengths:
        return y, news
    # A row without a step keeps its state, which runtimes do not agree on.
    empty = writer.unsqueeze(writer.add("Equal", call.lengths, writer.integer(0)), 1)
    pairs = zip(call.states, news, strict=True)
    return y, [writer.add("Where", empty, old, new) for old, new in pairs]


def _stacked(writer: Writer, packing: Packing, weights: Weights) -> list[str]:
    """W (1, gates · size, input size), R and B, by gates in the operator's order.

    A gate on both x and h has its bias in B's first half.
    """
    x_gates, h_gates = packing.input_gates, packing.hidden_gates
    zeros = writer.zeros(int(weights.graph.states[0].size))

    def signed(gate: str, value: str) -> str:
        return writer.add("Neg", value) if value and gate.startswith("-") else value

    def columns(gate: str, of_x: bool) -> str:
        return signed(gate, weights.columns(gate.removeprefix("-"), of_x))

    def bias(gate: str) -> str:
        return signed(gate, weights.bias(gate.removeprefix("-"))) or zeros

    stacks = [
        [columns(gate, True) for gate in x_gates],
        [columns(gate, False) for gate in h_gates],
        [*map(bias, x_gates), *(zeros if g in x_gates else bias(g) for g in h_gates)],
    ]
    return [writer.unsqueeze(writer.concatenate(s, axis=0), 0) for s in stacks]


def _vectors(writer: Writer, packing: Packing, weights: Weights) -> list[str]:
    """P, (1, 3 · size), where the cell has peepholes."""
    parts = []
    for name in packing.vectors:
        value = weights.vector(name.removeprefix("-"))
        parts.append(writer.add("Neg", value) if name.startswith("-") else value)
    return [writer.unsqueeze(writer.concatenate(parts, 0), 0)] if parts else []
