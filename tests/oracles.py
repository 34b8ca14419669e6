"""What the library is held to: steps written by hand, and the comparison itself.

The steps are written in plain PyTorch from the papers' equations. They read weights by
name and call nothing of cellwright.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

RELATIVE = 1e-10  # of the largest entry, in float64

# -- comparing -----------------------------------------------------------------


def assert_close(value: Tensor, expected: Tensor, what: str = "value") -> None:
    """Equal shape and dtype, and equal to `RELATIVE` of the largest entry."""
    assert isinstance(value, Tensor), f"{what}: {type(value).__name__}"
    assert value.shape == expected.shape, (
        f"{what}: shape {tuple(value.shape)}, expected {tuple(expected.shape)}"
    )
    assert value.dtype == expected.dtype, (
        f"{what}: {value.dtype}, expected {expected.dtype}"
    )
    value, expected = value.detach(), expected.detach()
    assert torch.isfinite(expected).all(), f"{what}: the oracle is not finite"
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    error = float((value - expected).abs().max()) if expected.numel() else 0.0
    assert error <= RELATIVE * scale, f"{what}: error {error:.3g} at scale {scale:.3g}"


def flat(results: Any) -> list[Tensor]:
    """The tensors of nested tuples and lists, in order."""
    if isinstance(results, Tensor):
        return [results]
    return [tensor for part in results for tensor in flat(part)]


def random_cotangents(results: Sequence[Tensor], seed: int = 7) -> list[Tensor]:
    """Drawn in float64: the same numbers, rounded, for results of another type."""
    generator = torch.Generator().manual_seed(seed)
    drawn = (
        torch.randn(r.shape, dtype=torch.float64, generator=generator) for r in results
    )
    return [g.to(r.device, r.dtype) for g, r in zip(drawn, results, strict=True)]


def gradients(
    run: Callable[[], Any], leaves: Mapping[str, Tensor]
) -> tuple[list[Tensor], dict[str, Tensor | None]]:
    """The results of `run`, and every leaf's gradient under random cotangents."""
    results = flat(run())
    found = torch.autograd.grad(
        results,
        list(leaves.values()),
        random_cotangents(results),
        allow_unused=True,
    )
    return results, dict(zip(leaves, found, strict=True))


def assert_same_values_and_gradients(
    run: Callable[[], Any],
    oracle: Callable[[], Any],
    leaves: Mapping[str, Tensor],
    oracle_leaves: Mapping[str, Tensor] | None = None,
    *,
    silent: Sequence[str] = (),
) -> None:
    """Hold `run` to `oracle`: all results, and the gradient of every leaf.

    Args:
        run, oracle: give tensors, or nested tuples of them.
        leaves: what `run` is differentiated by.
        oracle_leaves: the same for `oracle`; without it, the very same tensors.
        silent: leaves whose gradient is zero or absent; every other one's must not be.
    """
    oracle_leaves = leaves if oracle_leaves is None else oracle_leaves
    assert list(leaves) == list(oracle_leaves)
    results, found = gradients(run, leaves)
    expected_results, expected = gradients(oracle, oracle_leaves)
    assert len(results) == len(expected_results)
    for k, (result, by_hand) in enumerate(zip(results, expected_results, strict=True)):
        assert_close(result, by_hand, f"result {k}")
    for name, by_hand in expected.items():
        if name in silent:
            assert by_hand is None or not by_hand.any(), f"{name} is not silent"
            assert found[name] is None or not found[name].any(), name
            continue
        assert by_hand is not None, f"the oracle does not use {name}"
        assert by_hand.any(), f"the gradient of {name} is zero: it tests nothing"
        assert found[name] is not None, f"{name} gets no gradient"
        assert_close(found[name], by_hand, f"gradient of {name}")


# -- weights and inputs --------------------------------------------------------


def randomise(module: nn.Module, seed: int = 3, scale: float = 0.4) -> nn.Module:
    """Asymmetric random values for every parameter, biases and vectors too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(
                parameter.shape, dtype=torch.float64, generator=generator
            )
            parameter.copy_(scale * noise + 0.07)
    return module


def normal(*shape: int, seed: int, grad: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(*shape, dtype=torch.float64, generator=generator)
    return tensor.requires_grad_(grad)


def leaves_of(
    layer: nn.Module, x: Tensor, states: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Everything a layer has a gradient for: x, the initial states, parameters."""
    olds = {f"state {k}": s for k, s in enumerate(states)}
    return {"x": x, **olds, **dict(layer.named_parameters())}


# -- the steps, by hand --------------------------------------------------------


def affine(gate: Any, *operands: Tensor) -> Tensor:
    """W·[operands] + b, one matrix, columns in the order written."""
    rows = torch.cat(operands, dim=1) @ gate.weight.T
    return rows if gate.bias is None else rows + gate.bias


def logistic(v: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(0.5 * v))


def rnn(W, x, h):
    h = torch.tanh(affine(W.h, h, x))
    return h, [h]


def rnn_relu(W, x, h):
    h = affine(W.h, h, x).clamp(min=0)
    return h, [h]


def _lstm_gates(W, x, h):
    i, f, g, o = (affine(getattr(W, name), h, x) for name in "ifgo")
    return logistic(i), logistic(f), torch.tanh(g), logistic(o)


def lstm(W, x, h, c):
    i, f, g, o = _lstm_gates(W, x, h)
    c = f * c + i * g
    h = o * torch.tanh(c)
    return h, [h, c]


def lstm_projected(W, x, h, c):
    i, f, g, o = _lstm_gates(W, x, h)
    c = f * c + i * g
    h = (o * torch.tanh(c)) @ W.p.weight.T
    return h, [h, c]


def lstm_book(W, x, h, s, squash=logistic):
    forget = logistic(affine(W.f, h, x))  # eq. 10.40
    external = logistic(affine(W.g, h, x))  # eq. 10.42
    s = forget * s + external * squash(affine(W.u, h, x))  # eq. 10.41
    output = logistic(affine(W.q, h, x))  # eq. 10.44
    h = torch.tanh(s) * output  # eq. 10.43
    return h, [h, s]


def peephole(W, x, h, c):
    old = c
    f = logistic(affine(W.f, old, h, x))
    i = logistic(affine(W.i, old, h, x))
    new = f * old + i * torch.tanh(affine(W.g, h, x))
    o = logistic(affine(W.o, new, h, x))
    h = o * torch.tanh(new)
    return h, [h, new]


def peephole_diagonal(W, x, h, c):
    old = c
    f = logistic(affine(W.f, h, x) + W.p_f * old)
    i = logistic(affine(W.i, h, x) + W.p_i * old)
    new = f * old + i * torch.tanh(affine(W.g, h, x))
    o = logistic(affine(W.o, h, x) + W.p_o * new)
    h = o * torch.tanh(new)
    return h, [h, new]


def coupled(W, x, h, c):
    f = logistic(affine(W.f, h, x))
    c = f * c + (1 - f) * torch.tanh(affine(W.g, h, x))
    h = logistic(affine(W.o, h, x)) * torch.tanh(c)
    return h, [h, c]


def gru(W, x, h):
    """Reset before the matrix; z lets the new in."""
    z = logistic(affine(W.z, h, x))
    r = logistic(affine(W.r, h, x))
    candidate = torch.tanh(affine(W.n, r * h, x))
    h = (1 - z) * h + z * candidate
    return h, [h]


def gru_reset_after(W, x, h):
    """Reset after the matrix; z keeps the old (torch's documentation of nn.GRU)."""
    z = logistic(affine(W.z, h, x))
    r = logistic(affine(W.r, h, x))
    candidate = torch.tanh(affine(W.n, x) + r * affine(W.m, h))
    h = (1 - z) * candidate + z * h
    return h, [h]


def mgu(W, x, h):
    f = logistic(affine(W.f, h, x))
    candidate = torch.tanh(affine(W.n, f * h, x))
    h = (1 - f) * h + f * candidate
    return h, [h]


def janet(W, x, c, beta=1.0):
    s = affine(W.s, c, x)
    c = logistic(s) * c + (1 - logistic(s - beta)) * torch.tanh(affine(W.g, c, x))
    return c, [c]


def ugrnn(W, x, h):
    g = logistic(affine(W.g, h, x))
    h = g * h + (1 - g) * torch.tanh(affine(W.n, h, x))
    return h, [h]


def indrnn(W, x, h):
    h = (affine(W.h, x) + W.u * h).clamp(min=0)
    return h, [h]


def leaky_rnn(W, x, h, alpha=0.1):
    h = (1 - alpha) * h + alpha * torch.tanh(affine(W.n, h, x))
    return h, [h]


def odyssey(
    *,
    input_gate: str = "own",
    forget_gate: str = "own",
    output_gate: bool = True,
    input_activation: bool = True,
    output_activation: bool = True,
    peepholes: bool = True,
) -> Callable[..., Any]:
    """Greff et al. (2017), section II: one step with one thing left out."""

    def gate(W: Any, name: str, y: Tensor, x: Tensor, c: Tensor) -> Tensor:
        v = affine(getattr(W, name), y, x)
        return logistic(v + getattr(W, f"p_{name}") * c if peepholes else v)

    def step(W, x, y, c):
        z = affine(W.z, y, x)
        z = torch.tanh(z) if input_activation else z
        one = torch.ones_like(c)
        i = gate(W, "i", y, x, c) if input_gate == "own" else one
        f = gate(W, "f", y, x, c) if forget_gate == "own" else one
        f = 1 - i if forget_gate == "coupled" else f
        c = z * i + c * f
        o = gate(W, "o", y, x, c) if output_gate else one
        y = (torch.tanh(c) if output_activation else c) * o
        return y, [y, c]

    return step


def fgr(W, x, y, c, i, f, o):
    seen = (y, x, i, f, o)
    z = torch.tanh(affine(W.z, y, x))
    i = logistic(affine(W.i, *seen) + W.p_i * c)
    f = logistic(affine(W.f, *seen) + W.p_f * c)
    c = z * i + c * f
    o = logistic(affine(W.o, *seen) + W.p_o * c)
    y = torch.tanh(c) * o
    return y, [y, c, i, f, o]


STEPS: dict[str, Callable[..., Any]] = {
    "rnn": rnn,
    "rnn_relu": rnn_relu,
    "lstm": lstm,
    "lstm_projected": lstm_projected,
    "lstm_book": lstm_book,
    "peephole": peephole,
    "peephole_diagonal": peephole_diagonal,
    "coupled": coupled,
    "gru": gru,
    "gru_bias": gru,
    "gru_reset_after": gru_reset_after,
    "mgu": mgu,
    "janet": janet,
    "ugrnn": ugrnn,
    "indrnn": indrnn,
    "leaky_rnn": leaky_rnn,
    "vanilla": odyssey(),
    "nig": odyssey(input_gate="none"),
    "nfg": odyssey(forget_gate="none"),
    "nog": odyssey(output_gate=False),
    "niaf": odyssey(input_activation=False),
    "noaf": odyssey(output_activation=False),
    "cifg": odyssey(forget_gate="coupled"),
    "np": odyssey(peepholes=False),
    "fgr": fgr,
}

STATES = {  # how many states a cell has, where it is not one
    **dict.fromkeys(
        [
            "lstm",
            "lstm_projected",
            "lstm_book",
            "peephole",
            "peephole_diagonal",
            "coupled",
            "vanilla",
            "nig",
            "nfg",
            "nog",
            "niaf",
            "noaf",
            "cifg",
            "np",
        ],
        2,
    ),
    "fgr": 5,
}

_LSTM = {f"{g}.weight": (4, 9) for g in "figo"} | {f"{g}.bias": (4,) for g in "figo"}
_GRU = {f"{g}.weight": (4, 9) for g in "zrn"}
_PEEPHOLES = {"p_i": (4,), "p_f": (4,), "p_o": (4,)}


def _odyssey(gates: str, peepholes: str, seen: int = 9) -> dict[str, tuple[int, ...]]:
    shapes = {f"{g}.weight": (4, 9 if g == "z" else seen) for g in gates}
    shapes |= {f"{g}.bias": (4,) for g in gates}
    return shapes | {f"p_{g}": (4,) for g in peepholes}


# The parameters of every cell for 5 inputs and 4 units (3 projected ones).
PARAMETERS: dict[str, dict[str, tuple[int, ...]]] = {
    "rnn": {"h.weight": (4, 9), "h.bias": (4,)},
    "rnn_relu": {"h.weight": (4, 9), "h.bias": (4,)},
    "lstm": _LSTM,
    "lstm_projected": {
        **{f"{g}.weight": (4, 8) for g in "figo"},
        **{f"{g}.bias": (4,) for g in "figo"},
        "p.weight": (3, 4),
    },
    "lstm_book": {f"{g}.weight": (4, 9) for g in "fguq"}
    | {f"{g}.bias": (4,) for g in "fguq"},
    "peephole": _LSTM | {f"{g}.weight": (4, 13) for g in "fio"},
    "peephole_diagonal": _LSTM | _PEEPHOLES,
    "coupled": {n: s for n, s in _LSTM.items() if not n.startswith("i")},
    "gru": _GRU,
    "gru_bias": _GRU | {f"{g}.bias": (4,) for g in "zrn"},
    "gru_reset_after": {
        "r.weight": (4, 9),
        "z.weight": (4, 9),
        "n.weight": (4, 5),
        "m.weight": (4, 4),
        **{f"{g}.bias": (4,) for g in "rznm"},
    },
    "mgu": {"f.weight": (4, 9), "f.bias": (4,), "n.weight": (4, 9), "n.bias": (4,)},
    "janet": {"s.weight": (4, 9), "s.bias": (4,), "g.weight": (4, 9), "g.bias": (4,)},
    "ugrnn": {"g.weight": (4, 9), "g.bias": (4,), "n.weight": (4, 9), "n.bias": (4,)},
    "indrnn": {"h.weight": (4, 5), "h.bias": (4,), "u": (4,)},
    "leaky_rnn": {"n.weight": (4, 9), "n.bias": (4,)},
    "vanilla": _odyssey("zifo", "ifo"),
    "nig": _odyssey("zfo", "fo"),
    "nfg": _odyssey("zio", "io"),
    "nog": _odyssey("zif", "if"),
    "niaf": _odyssey("zifo", "ifo"),
    "noaf": _odyssey("zifo", "ifo"),
    "cifg": _odyssey("zio", "io"),
    "np": _odyssey("zifo", ""),
    "fgr": _odyssey("zifo", "ifo", seen=21),
}


# -- sequences, layers, directions ---------------------------------------------


def walk(
    step: Callable[..., Any],
    W: Any,
    x: Tensor,
    states: Sequence[Tensor],
    *,
    reverse: bool = False,
    **options: Any,
) -> tuple[Tensor, list[Tensor]]:
    """One direction over x (T, B, I): outputs in the order of x, and final states."""
    states = list(states)
    outputs: list[Any] = [None] * len(x)
    for t in range(len(x) - 1, -1, -1) if reverse else range(len(x)):
        outputs[t], states = step(W, x[t], *states, **options)
    return torch.stack(outputs), states


def layers(
    step: Callable[..., Any],
    cells: Sequence[Any],
    x: Tensor,
    states: Sequence[Tensor],
    *,
    bidirectional: bool = False,
    **options: Any,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Stacked layers: y, and each state (layers · directions, B, size)."""
    directions = 2 if bidirectional else 1
    finals = []
    for first in range(0, len(cells), directions):
        outputs = []
        for k in range(first, first + directions):
            y, news = walk(
                step, cells[k], x, [s[k] for s in states], reverse=k > first, **options
            )
            outputs.append(y)
            finals.append(news)
        x = torch.cat(outputs, dim=2)
    return x, tuple(torch.stack(s) for s in zip(*finals, strict=True))
