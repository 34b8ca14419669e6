"""What is measured: the shapes, and the cells with their equations for the peers.

A peer's step is written once, over `xp`, a handful of operations that PyTorch and JAX
both have. The input's product `u` is made outside the time loop, all gates at once, and
gates under the same activation lie side by side: that is the best loop known to us.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import cellwright as cw

Weights = dict[str, Any]
States = tuple[Any, ...]


@dataclass(frozen=True)
class Shape:
    batch: int
    steps: int
    inputs: int
    hidden: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.steps}x{self.inputs}x{self.hidden}"


SHAPES = (
    Shape(1, 100, 64, 128),
    Shape(32, 100, 128, 128),
    Shape(64, 100, 256, 256),
    Shape(64, 50, 512, 512),
    Shape(32, 50, 1024, 1024),
    Shape(256, 365, 32, 64),
    Shape(128, 20, 40, 40),
    Shape(7, 33, 19, 50),
)
QUICK_SHAPES = (Shape(32, 100, 128, 128), Shape(7, 33, 19, 50))


@dataclass(frozen=True)
class Case:
    """A cell and how the peers compute it.

    Attributes:
        layer: our public layer, from input and hidden size.
        torch_layer: torch.nn's, where it has the cell.
        pack: the loop's weights from our layer's.
        inputs: the loop's input products: names of a weight (I, columns) and a bias.
        step: (xp, products, states, weights) -> new states, the first is the output.
        states: how many.
        matrices: sizes of the recurrent and input matrices together, in units of
            H·H and H·I.
    """

    name: str
    layer: Callable[[int, int], nn.Module]
    pack: Callable[[Any], dict[str, Tensor]]
    inputs: tuple[tuple[str, str], ...]
    step: Callable[[Any, tuple[Any, ...], States, Weights], States]
    states: int
    matrices: tuple[int, int]
    torch_layer: type[nn.Module] | None = None

    def flops(self, shape: Shape, mode: str) -> int:
        """Floating point operations of the matrix products alone."""
        square, rectangular = self.matrices
        weights = shape.hidden * (square * shape.hidden + rectangular * shape.inputs)
        products = 3 if mode == "training" else 1  # two more in the backward pass
        return 2 * products * shape.batch * shape.steps * weights


# -- packing -------------------------------------------------------------------------


def _columns(layer: Any, gates: str, operand: int) -> Tensor:
    """The (operand, gates · H) matrix that an operand meets."""
    W = layer.cells[0]
    blocks = [getattr(W, g).blocks(operand)[0] for g in gates]
    return torch.cat(blocks).t().contiguous()


def _biases(layer: Any, gates: str) -> Tensor:
    return torch.cat([getattr(layer.cells[0], g).bias.detach() for g in gates])


def _pack_drop_in(gates: str) -> Callable[[Any], dict[str, Tensor]]:
    """From torch's own parameters, whose gates may lie in another order."""

    def pack(layer: Any) -> dict[str, Tensor]:
        return {
            "R": _columns(layer, gates, 0),
            "W": _columns(layer, gates, 1),
            "b": _biases(layer, gates),
        }

    return pack


def _pack_gru(layer: Any) -> dict[str, Tensor]:
    p = {name: v.detach().clone() for name, v in layer.named_parameters()}
    hidden = layer.hidden_size
    bias = p["bias_ih_l0"].clone()
    bias[: 2 * hidden] += p["bias_hh_l0"][: 2 * hidden]
    return {
        "W": p["weight_ih_l0"].t().contiguous(),
        "b": bias,
        "R": p["weight_hh_l0"].t().contiguous(),
        "b_m": torch.cat([torch.zeros(2 * hidden), p["bias_hh_l0"][2 * hidden :]]),
    }


def _pack_diagonal(layer: Any) -> dict[str, Tensor]:
    W = layer.cells[0]
    packed = _pack_drop_in("fiog")(layer)
    packed["p_fi"] = torch.cat([W.p_f.detach(), W.p_i.detach()])
    packed["p_o"] = W.p_o.detach().clone()
    return packed


def _pack_peephole(layer: Any) -> dict[str, Tensor]:
    blocks = layer.cells[0]
    hidden = [blocks.f, blocks.i, blocks.o]
    R = [w.blocks(1)[0] for w in hidden] + blocks.g.blocks(0)
    W = [w.blocks(2)[0] for w in hidden] + blocks.g.blocks(1)
    return {
        "R": torch.cat(R).t().contiguous(),
        "W": torch.cat(W).t().contiguous(),
        "b": _biases(layer, "fiog"),
        "C_fi": _columns(layer, "fi", 0),
        "C_o": _columns(layer, "o", 0),
    }


def _pack_reset_before(layer: Any) -> dict[str, Tensor]:
    return {
        "W_zr": _columns(layer, "zr", 1),
        "b_zr": _biases(layer, "zr"),
        "R_zr": _columns(layer, "zr", 0),
        "W_n": _columns(layer, "n", 1),
        "b_n": _biases(layer, "n"),
        "R_n": _columns(layer, "n", 0),
    }


def _pack_own(layer: Any) -> dict[str, Tensor]:
    packed = _pack_drop_in("fog")(layer)
    packed["p"] = layer.cells[0].p.detach().clone()
    return packed


# -- the steps -----------------------------------------------------------------------


def _lstm(xp: Any, u: tuple[Any, ...], states: States, w: Weights) -> States:
    h, c = states
    gates, g = xp.split(xp.addmm(u[0], h, w["R"]), 3)
    f, i, o = xp.chunk(xp.sigmoid(gates), 3)
    c = xp.addcmul(f * c, i, xp.tanh(g))
    return o * xp.tanh(c), c


def _gru(xp: Any, u: tuple[Any, ...], states: States, w: Weights) -> States:
    (h,) = states
    gates, m = xp.split(xp.addmm(w["b_m"], h, w["R"]), 2)
    u_gates, u_n = xp.split(u[0], 2)
    r, z = xp.chunk(xp.sigmoid(gates + u_gates), 2)
    n = xp.tanh(xp.addcmul(u_n, r, m))
    return (xp.lerp(n, h, z),)


def _rnn(xp: Any, u: tuple[Any, ...], states: States, w: Weights) -> States:
    return (xp.tanh(xp.addmm(u[0], states[0], w["R"])),)


def _diagonal(xp: Any, u: tuple[Any, ...], states: States, w: Weights) -> States:
    h, c = states
    fi, o, g = xp.split(xp.addmm(u[0], h, w["R"]), 2, 1)
    f, i = xp.chunk(xp.sigmoid(xp.addcmul(fi, w["p_fi"], xp.twice(c))), 2)
    c = xp.addcmul(f * c, i, xp.tanh(g))
    o = xp.sigmoid(xp.addcmul(o, w["p_o"], c))
    return o * xp.tanh(c), c


def _peephole(xp: Any, u: tuple[Any, ...], states: States, w: Weights) -> States:
    h, c = states
    fi, o, g = xp.split(xp.addmm(u[0], h, w["R"]), 2, 1)
    f, i = xp.chunk(xp.sigmoid(xp.addmm(fi, c, w["C_fi"])), 2)
    c = xp.addcmul(f * c, i, xp.tanh(g))
    o = xp.sigmoid(xp.addmm(o, c, w["C_o"]))
    return o * xp.tanh(c), c


def _coupled(xp: Any, u: tuple[Any, ...], states: States, w: Weights) -> States:
    h, c = states
    gates, g = xp.split(xp.addmm(u[0], h, w["R"]), 2)
    f, o = xp.chunk(xp.sigmoid(gates), 2)
    c = xp.lerp(xp.tanh(g), c, f)
    return o * xp.tanh(c), c


def _reset_before(xp: Any, u: tuple[Any, ...], states: States, w: Weights) -> States:
    (h,) = states
    z, r = xp.chunk(xp.sigmoid(xp.addmm(u[0], h, w["R_zr"])), 2)
    n = xp.tanh(xp.addmm(u[1], r * h, w["R_n"]))
    return (xp.lerp(h, n, z),)


def _own(xp: Any, u: tuple[Any, ...], states: States, w: Weights) -> States:
    h, c = states
    gates, g = xp.split(xp.addmm(u[0], h, w["R"]), 2)
    f, o = xp.chunk(xp.sigmoid(gates), 2)
    c = xp.lerp(xp.softsign(g), c, f)
    return o * xp.tanh(w["p"] * c), c


@cw.cell
def own_cell(W, x, h, c):
    """A user's own: a softsign candidate, coupled gates, a gain on what is read."""
    f = cw.sigmoid(W.f(h, x))
    g = cw.softsign(W.g(h, x))
    c = f * c + (1 - f) * g
    o = cw.sigmoid(W.o(h, x))
    return o * cw.tanh(W.p * c), c


# -- the table -----------------------------------------------------------------------


def _recurrent(cell: Any) -> Callable[[int, int], nn.Module]:
    return lambda inputs, hidden: cw.Recurrent(cell, inputs, hidden, engine="native")


def _drop_in(layer: Any) -> Callable[[int, int], nn.Module]:
    return lambda inputs, hidden: layer(inputs, hidden, engine="native")


_ONE = (("W", "b"),)
_TWO = (("W_zr", "b_zr"), ("W_n", "b_n"))
_zoo = cw.cells

CASES = {
    case.name: case
    for case in (
        Case(
            "lstm",
            _drop_in(cw.LSTM),
            _pack_drop_in("fiog"),
            _ONE,
            _lstm,
            2,
            (4, 4),
            nn.LSTM,
        ),
        Case("gru", _drop_in(cw.GRU), _pack_gru, _ONE, _gru, 1, (3, 3), nn.GRU),
        Case(
            "rnn", _drop_in(cw.RNN), _pack_drop_in("h"), _ONE, _rnn, 1, (1, 1), nn.RNN
        ),
        Case(
            "peephole_diagonal",
            _recurrent(_zoo.peephole_diagonal),
            _pack_diagonal,
            _ONE,
            _diagonal,
            2,
            (4, 4),
        ),
        Case(
            "peephole",
            _recurrent(_zoo.peephole),
            _pack_peephole,
            _ONE,
            _peephole,
            2,
            (7, 4),
        ),
        Case(
            "coupled",
            _recurrent(_zoo.coupled),
            _pack_drop_in("fog"),
            _ONE,
            _coupled,
            2,
            (3, 3),
        ),
        Case(
            "gru_bias",
            _recurrent(_zoo.gru_bias),
            _pack_reset_before,
            _TWO,
            _reset_before,
            1,
            (3, 3),
        ),
        Case("own", _recurrent(own_cell), _pack_own, _ONE, _own, 2, (3, 3)),
    )
}
