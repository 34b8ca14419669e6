"""The steps of the cells since 2015, by hand, in plain PyTorch from their papers.

They read weights by name and call nothing of cellwright; see `oracles.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import oracles_linear
from oracles import affine, logistic


def normalised(v: Tensor, eps: float = 1e-5) -> Tensor:
    """Ba et al. 2016, eq. 3–4."""
    centred = v - v.mean(1, keepdim=True)
    return centred / torch.sqrt((centred * centred).mean(1, keepdim=True) + eps)


def softmax(v: Tensor, axis: int) -> Tensor:
    powers = torch.exp(v - v.max(axis, keepdim=True).values.detach())
    return powers / powers.sum(axis, keepdim=True)


def layer_norm_lstm(W, x, h, c):
    def gate(name):
        parameters = dict(W.named_parameters())
        recurrent = normalised(h @ parameters[f"{name}.weight"].T)
        inward = normalised(x @ parameters[f"{name}_x.weight"].T)
        shifted = parameters[f"gain_{name}"] * recurrent + parameters[f"shift_{name}"]
        return shifted + parameters[f"gain_{name}_x"] * inward

    c = logistic(gate("f")) * c + logistic(gate("i")) * torch.tanh(gate("g"))
    h = logistic(gate("o")) * torch.tanh(W.gain_c * normalised(c) + W.shift_c)
    return h, [h, c]


def _dense(weight: Tensor) -> Tensor:
    return torch.block_diag(*weight) if weight.dim() == 3 else weight


def _slstm_gates(W, x, h):
    return [
        affine(getattr(W, gate), x) + h @ _dense(getattr(W, f"r_{gate}").weight).T
        for gate in "zifo"
    ]


def slstm(W, x, h, c, n, m, exponential_forget=False):
    z, i, f, o = _slstm_gates(W, x, h)
    log_f = f if exponential_forget else torch.nn.functional.logsigmoid(f)
    new_m = torch.maximum(log_f + m, i)
    i, f = torch.exp(i - new_m), torch.exp(log_f + m - new_m)
    c = f * c + i * torch.tanh(z)
    n = f * n + i
    h = logistic(o) * c / n
    return h, [h, c, n, new_m]


def slstm_unstabilised(W, x, h, c, n, exponential_forget=False):
    """Eq. 8–14 alone: the same h, as long as nothing overflows."""
    z, i, f, o = _slstm_gates(W, x, h)
    f = torch.exp(f) if exponential_forget else logistic(f)
    c = f * c + torch.exp(i) * torch.tanh(z)
    n = f * n + torch.exp(i)
    h = logistic(o) * c / n
    return h, [h, c, n]


def multiplicative_lstm(W, x, h, c):
    m = (x @ W.m_x.weight.T) * (h @ W.m_h.weight.T)
    i, f, o = (logistic(affine(getattr(W, gate), m, x)) for gate in "ifo")
    c = f * c + i * torch.tanh(affine(W.g, m, x))
    h = torch.tanh(c) * o
    return h, [h, c]


def star(W, x, h):
    k = logistic(affine(W.k, h, x))
    h = torch.tanh((1 - k) * h + k * torch.tanh(affine(W.z, x)))
    return h, [h]


def mut1(W, x, h):
    z = logistic(affine(W.z, x))
    r = logistic(affine(W.r, h, x))
    new = torch.tanh(affine(W.n, r * h) + torch.tanh(x @ W.p.weight.T))
    h = new * z + h * (1 - z)
    return h, [h]


def mut2(W, x, h):
    z = logistic(affine(W.z, h, x))
    r = logistic(x @ W.p.weight.T + affine(W.r, h))
    h = torch.tanh(affine(W.n, r * h, x)) * z + h * (1 - z)
    return h, [h]


def mut3(W, x, h):
    z = logistic(affine(W.z, torch.tanh(h), x))
    r = logistic(affine(W.r, h, x))
    h = torch.tanh(affine(W.n, r * h, x)) * z + h * (1 - z)
    return h, [h]


def nas(W, x, h, c):
    gates = ("a1", "a2", "b1", "d1", "d2", "e1", "e2")
    leaf = {gate: affine(getattr(W, gate), h, x) for gate in gates}
    product = affine(W.b2_x, x) * affine(W.b2_h, h)
    first = torch.tanh(logistic(leaf["a1"]) * leaf["a2"].clamp(min=0))
    second = torch.tanh(logistic(leaf["b1"]) + product.clamp(min=0))
    third = torch.tanh(torch.tanh(leaf["d1"]) * logistic(leaf["d2"]))
    fourth = logistic(torch.tanh(leaf["e1"]) + logistic(leaf["e2"]))
    c = torch.tanh(first + c) * second
    h = torch.tanh(c * torch.tanh(third + fourth))
    return h, [h, c]


def lem(W, x, y, z, dt=1.0):
    slow = dt * logistic(affine(W.s, y, x))
    fast = dt * logistic(affine(W.t, y, x))
    z = z + slow * (torch.tanh(affine(W.u, y, x)) - z)
    y = y + fast * (torch.tanh(affine(W.v, z, x)) - y)
    return y, [y, z]


def cfn(W, x, h):
    keep, let_in = logistic(affine(W.theta, h, x)), logistic(affine(W.eta, h, x))
    h = keep * torch.tanh(h) + let_in * torch.tanh(x @ W.g.weight.T)
    return h, [h]


def _turned(W, h, gamma):
    A = W.a.weight
    return h @ (A - A.T - gamma * torch.eye(len(A), dtype=A.dtype)).T


def antisymmetric(W, x, h, epsilon=0.1, gamma=0.01):
    """MartinuzziFrancesco/RecurrentLayers.jl, its equations; no code of the authors."""
    h = h + epsilon * torch.tanh(_turned(W, h, gamma) + affine(W.n, x))
    return h, [h]


def gated_antisymmetric(W, x, h, epsilon=0.1, gamma=0.01):
    """The same source's `GatedAntisymmetricRNNCell`."""
    inside = _turned(W, h, gamma)
    z = logistic(inside + affine(W.z, x))
    h = h + epsilon * z * torch.tanh(inside + affine(W.n, x))
    return h, [h]


def mc_lstm(W, x, c, mass):
    """ml-jku/mc-lstm, modelzoo/mclstm.py, `MCLSTMv3` with `LinearRedistribution`."""
    share = c / (c.abs().sum(1, keepdim=True) + 1e-5)
    i = softmax(affine(W.i, share, x), 1)
    o = logistic(affine(W.o, share, x))
    total = c @ softmax(W.r.weight, 0).T + i * mass
    return o * total, [(1 - o) * total]


STEPS: dict[str, Callable[..., Any]] = {
    "layer_norm_lstm": layer_norm_lstm,
    "slstm": slstm,
    "multiplicative_lstm": multiplicative_lstm,
    "star": star,
    "mut1": mut1,
    "mut2": mut2,
    "mut3": mut3,
    "nas": nas,
    "lem": lem,
    "cfn": cfn,
    "antisymmetric": antisymmetric,
    "gated_antisymmetric": gated_antisymmetric,
    "mc_lstm": mc_lstm,
    **oracles_linear.STEPS,
}


def layers(
    step: Callable[..., Any],
    cells: Sequence[Any],
    x: Tensor,
    states: Sequence[Tensor],
    inputs: Mapping[str, Tensor],
    *,
    directions: int = 1,
    **options: Any,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """As `oracles.layers`, every layer seeing the named inputs (T, B, size)."""
    finals = []
    for first in range(0, len(cells), directions):
        outputs = []
        for k in range(first, first + directions):
            current, found = [s[k] for s in states], [Tensor()] * len(x)
            steps = range(len(x))
            for t in reversed(steps) if k > first else steps:
                now = {name: value[t] for name, value in inputs.items()}
                found[t], current = step(cells[k], x[t], *current, **now, **options)
            outputs.append(torch.stack(found))
            finals.append(current)
        x = torch.cat(outputs, 2)
    return x, tuple(torch.stack(s) for s in zip(*finals, strict=True))
