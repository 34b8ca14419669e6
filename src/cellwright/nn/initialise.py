"""Initialisers that the field uses, by gate name, for `Recurrent` and the drop-ins.

Each works in place, under no gradient, and returns the layer. A weight that is made of
others is written through what makes it; where that cannot be, it is an `ArgumentError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..language import ArgumentError, Graph
from .made import changing

Layer = TypeVar("Layer", bound=nn.Module)


@torch.no_grad()
def forget_bias_(layer: Layer, value: float = 1.0, gate: str = "f") -> Layer:
    """Set the bias of the forget gate: 1 or 2 keeps the cell's memory at the start.

    Source: Gers, Schmidhuber & Cummins (2000); Jozefowicz, Zaremba & Sutskever (2015).

    Args:
        layer: a `Recurrent` or a drop-in.
        value: of the bias; in a drop-in, of the sum of torch's two.
        gate: the gate's name; "z" is the one that keeps in torch's GRU.

    Raises:
        ArgumentError: the cell has no such gate, or the gate no bias.
    """
    for affine in _gates(layer, gate):
        affine.fill_bias_(value)
    return layer


@torch.no_grad()
def orthogonal_(layer: Layer, gain: float = 1.0) -> Layer:
    """Make every recurrent matrix orthogonal, times `gain` (Saxe et al. 2014).

    Recurrent are the columns that meet a state, or a value computed from one.
    """

    def change(matrix: Tensor) -> None:
        nn.init.orthogonal_(matrix, gain)

    _change_matrices(layer, change, recurrent=True)
    return layer


@torch.no_grad()
def identity_(layer: Layer, scale: float = 1.0) -> Layer:
    """Make every recurrent matrix `scale` times the identity, its biases zero.

    Source: Le, Jaitly & Hinton (2015), for `cells.rnn_relu` ("IRNN").
    """

    def change(matrix: Tensor) -> None:
        nn.init.eye_(matrix).mul_(scale)

    _change_matrices(layer, change, recurrent=True)
    for affine in _affines(layer):
        affine.fill_bias_(0.0)
    return layer


@torch.no_grad()
def glorot_(layer: Layer, gain: float = 1.0) -> Layer:
    """Draw every matrix from U(±gain·√(6/(fan in + fan out))), an operand apart.

    Source: Glorot & Bengio (2010), eq. 16.
    """

    def change(matrix: Tensor) -> None:
        nn.init.xavier_uniform_(matrix, gain)

    _change_matrices(layer, change, recurrent=False)
    return layer


@torch.no_grad()
def chrono_(
    layer: Layer, longest: float, forget: str = "f", store: str | None = None
) -> Layer:
    """Chrono initialisation: biases for memories of 1 to `longest` steps.

    b_forget = log U(1, longest − 1), b_store = −b_forget (Tallec & Ollivier 2018,
    eq. 16).

    Args:
        layer: a `Recurrent` or a drop-in.
        longest: the longest dependency expected, in steps; above 2.
        forget: the gate that keeps the old state ("f"; "z" in torch's GRU).
        store: the gate that lets the new in; without it "i" where the cell has one.
    """
    if longest <= 2:
        raise ArgumentError(
            f"[chrono_] longest counts steps; received {longest}, expected more than 2"
        )
    if store is None and "i" in _names(layer):
        store = "i"
    stores: list[Any] = _gates(layer, store) if store else []
    for k, affine in enumerate(_gates(layer, forget)):
        reference = affine.bias
        bias = torch.empty_like(reference).uniform_(1, longest - 1).log_()
        affine.fill_bias_(bias)
        if stores:
            stores[k].fill_bias_(-bias)
    return layer


@torch.no_grad()
def ring_(
    layer: Layer, low: float = 0.9, high: float = 0.999, phase: float = 2 * math.pi
) -> Layer:
    """Spread the factors of `cells.lru` or `cells.rg_lru` evenly over a ring.

    The area between the radii `low` and `high` is filled evenly, with angles from 0 to
    `phase`; LRU's γ becomes √(1 − |λ|²). RG-LRU's factor, at r = 1/8, is real: it gets
    such a radius.

    Source: Orvieto et al. (2023), lemma 2 and section 3.4 (small phases for long
    sequences); RecurrentGemma's code.

    Args:
        layer: a `Recurrent` of one of these cells.
        low, high: radii, 0 ≤ low < high < 1.
        phase: largest angle, in radians.

    Raises:
        ArgumentError: another cell, or radii that make no ring.
    """
    if not 0 <= low < high < 1 or not phase > 0:
        raise ArgumentError(
            "[ring_] expected 0 <= low < high < 1 and a phase above 0; received low "
            f"{low}, high {high}, phase {phase}"
        )
    for weights in layer.cells:  # type: ignore[union-attr]
        vectors = [n for n, _ in weights.named_parameters() if n in _ON_A_RING]  # type: ignore[union-attr]
        if not vectors:
            raise ArgumentError(
                "[ring_] the cell has no vector nu, theta or decay; expected cells.lru "
                "or cells.rg_lru"
            )
        share, turn = (1 - torch.rand(2, layer.hidden_size)).unbind()  # type: ignore[arg-type]
        radius = (low**2 + share * (high**2 - low**2)).sqrt()
        for name in vectors:
            with changing(weights, name) as vector:  # type: ignore[arg-type]
                vector.copy_(_ON_A_RING[name](radius, phase * turn))
    return layer


#: A vector of `ring_`'s cells from the radii and angles of its units.
_ON_A_RING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nu": lambda radius, angle: (-radius.log()).log(),
    "theta": lambda radius, angle: angle.log(),
    "gamma": lambda radius, angle: (1 - radius**2).log() / 2,
    "decay": lambda radius, angle: (1 / radius - 1).log(),  # softplus gives −log |λ|
}


@torch.no_grad()
def published_(layer: Layer) -> Layer:
    """Start the weights as the cell's authors do; what is not named stays as it is.

    `mlstm` (NX-AI/xlstm, mlstm/cell.py): biases of the forget gates spread over 3 … 6,
    of the input gates N(0, 0.1²), and no weights.
    `slstm` (NX-AI/xlstm, slstm/cell.py): biases of the forget gates from 5 to −7 over
    a head, by a power that grows with the layer; other biases and recurrent weights 0.
    `gated_delta_net` (fla-org/flash-linear-attention, layers/gated_deltanet.py): rates
    U(0, 16), and steps, softplus of the biases, log-uniform in 0.001 … 0.1.
    `selective_ssm` (Gu & Dao 2023, section 3.6; state-spaces/mamba, mamba_simple.py):
    A = −1, −2 … −`state_size` (S4D-real), and Δ as the steps above.
    `lru`, `rg_lru`: `ring_`.

    Args:
        layer: a `Recurrent` of one of these cells.

    Raises:
        ArgumentError: another cell.
    """
    cell: str = layer.cell.name  # type: ignore[union-attr, assignment]
    if cell not in _PUBLISHED:
        raise ArgumentError(
            f"[published_] cell {cell!r} has no start of its own; expected one "
            f"of {', '.join(_PUBLISHED)}"
        )
    _PUBLISHED[cell](layer)
    return layer


def _start_mlstm(layer: Any) -> None:
    for weights in layer.cells:
        for gate in (weights.f, weights.i):
            with gate.changing_weight() as weight:
                weight.zero_()
        heads = len(weights.f.bias)
        weights.f.fill_bias_(torch.linspace(3, 6, heads))
        weights.i.fill_bias_(0.1 * torch.randn(heads))


def _start_slstm(layer: Any) -> None:
    deepest = max(layer.num_layers - 1, 1)
    for number, weights in enumerate(layer.cells):
        depth = number // layer.directions / deepest  # 0 … 1
        for gate in "zifo":
            recurrent = getattr(weights, f"r_{gate}")
            with recurrent.changing_weight() as weight:
                weight.zero_()
            getattr(weights, gate).fill_bias_(0.0)
        heads = weights.r_f.heads
        share = torch.linspace(0, 1, layer.hidden_size // heads)
        weights.f.fill_bias_((5 - 12 * share ** (0.3 + 1.3 * depth)).repeat(heads))


def _start_gated_delta_net(layer: Any) -> None:
    for weights in layer.cells:
        with changing(weights, "log_rate") as rate:
            rate.copy_((16 * (1 - torch.rand(rate.shape))).log())  # never log 0
        weights.step.fill_bias_(_log_uniform_steps(len(weights.step.bias)))


def _start_selective_ssm(layer: Any) -> None:
    for weights in layer.cells:
        with changing(weights, "log_A") as log_a:
            log_a.copy_(torch.arange(1.0, log_a.shape[-1] + 1).log().expand_as(log_a))
        weights.delta.fill_bias_(_log_uniform_steps(len(weights.delta.bias)))
        bound = weights.delta.weight.shape[-1] ** -0.5
        with weights.delta.changing_weight() as weight:
            weight.uniform_(-bound, bound)


def _log_uniform_steps(count: int, low: float = 1e-3, high: float = 0.1) -> Tensor:
    """Biases such that softplus of them is log-uniform in [low, high]."""
    step = torch.empty(count).uniform_(math.log(low), math.log(high)).exp()
    return step + torch.log(-torch.expm1(-step))  # softplus⁻¹


#: How the authors of a cell start it, by the cell's name.
_PUBLISHED: dict[str, Callable[[Any], Any]] = {
    "mlstm": _start_mlstm,
    "slstm": _start_slstm,
    "gated_delta_net": _start_gated_delta_net,
    "selective_ssm": _start_selective_ssm,
    "lru": ring_,
    "rg_lru": ring_,
}


@torch.no_grad()
def initial_state_(layer: Layer, **values: float | Tensor) -> Layer:
    """Set learned initial states by name, in every layer and direction.

    Args:
        layer: a `Recurrent` with learn_initial_state.
        **values: a number, or a (size,) tensor, for each state: `h=0.0, c=1.0`.

    Raises:
        ArgumentError: the layer learns no initial states, or none of that name.
    """
    states: Any = getattr(layer, "initial_states", None)
    if states is None:
        raise ArgumentError(
            "[initialise] this layer's initial states are no parameters; expected a "
            "Recurrent with learn_initial_state=True"
        )
    for name, value in values.items():
        if name not in states[0]:
            raise ArgumentError(
                f"[initialise] there is no initial state {name!r}; expected "
                f"{', '.join(states[0])}"
            )
        for own in states:
            with changing(own, name) as start:
                start.copy_(torch.as_tensor(value))
    return layer


# -- finding gates and matrices ------------------------------------------------


def _names(layer: Any) -> list[str]:
    return [w.name for w in layer.cell.graph.weights if w.kind == "matrix"]


def _affines(layer: Any) -> Iterator[Any]:
    for weights in layer.cells:
        for name in _names(layer):
            yield getattr(weights, name)


def _gates(layer: Any, gate: str) -> list[Any]:
    """The affine of that name in every layer and direction, its bias present."""
    if gate not in _names(layer):
        raise ArgumentError(
            f"[initialise] cell {layer.cell.name!r} has no gate {gate!r}; expected one "
            f"of {', '.join(_names(layer))}"
        )
    affines = [getattr(weights, gate) for weights in layer.cells]
    if any(affine.bias is None for affine in affines):
        raise ArgumentError(f"[initialise] gate {gate!r} has no bias to set")
    return affines


def _change_matrices(
    layer: Any, change: Callable[[Tensor], None], *, recurrent: bool
) -> None:
    """Change what each operand of each affine meets: all, or the recurrent alone."""
    graph: Graph = layer.cell.graph
    wanted = {
        w.name: _recurrent(graph, w.name) for w in graph.weights if w.kind == "matrix"
    }
    for weights in layer.cells:
        for name, depends in wanted.items():
            with getattr(weights, name).changing_blocks() as blocks:
                for matrices, of_state in zip(blocks, depends, strict=True):
                    for matrix in matrices if of_state or not recurrent else ():
                        change(matrix)


def _recurrent(graph: Graph, name: str) -> list[bool]:
    """Which operands of an affine depend on a state."""
    depends: list[bool] = []
    for node in graph.nodes:
        depends.append(node.op == "state" or any(depends[a] for a in node.args))
    affine = next(n for n in graph.nodes if n.op == "affine" and n["weight"] == name)
    return [depends[a] for a in affine.args]
