"""Steps of the linear cells, and of others since 2014, by hand, in plain PyTorch.

Each names the code whose facts it follows. They read weights by name and call nothing
of cellwright; see `oracles.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from oracles import affine, logistic


def _softplus(v: Tensor) -> Tensor:
    return torch.logaddexp(v, torch.zeros_like(v))


def _positive(v: Tensor) -> Tensor:
    """g of Feng et al. 2024, appendix B.2.1; lucidrains/minGRU-pytorch has the same."""
    return torch.where(v >= 0, v + 0.5, logistic(v))


def min_gru(W, x, h, positive=False):
    """Feng et al. 2024, appendix B.1.1 (sequential mode)."""
    z, n = logistic(affine(W.z, x)), affine(W.n, x)
    h = h + z * ((_positive(n) if positive else n) - h)
    return h, [h]


def min_lstm(W, x, h, positive=False):
    """Feng et al. 2024, appendix B.1.2 (sequential mode)."""
    f, i, n = logistic(affine(W.f, x)), logistic(affine(W.i, x)), affine(W.n, x)
    h = (f * h + i * (_positive(n) if positive else n)) / (f + i)
    return h, [h]


def sru(W, x, c):
    """asappresearch/sru at its first release: `SRU_Compute_CPU`, tanh, four maps."""
    f, r = logistic(affine(W.f, x)), logistic(affine(W.r, x))
    u, skip = affine(W.u, x), affine(W.skip, x)
    c = (c - u) * f + u
    return (torch.tanh(c) - skip) * r + skip, [c]


def qrnn(W, x, c, past):
    """salesforce/pytorch-qrnn, window 2: its linear map of [x before, x], ForgetMult
    with f where the paper's (here) has 1 − f."""
    z = torch.tanh(affine(W.z, past, x))
    new = 1 - logistic(affine(W.f, past, x))
    c = new * z + (1 - new) * c
    return logistic(affine(W.o, past, x)) * c, [c, x]


def _blocks(gate: Any, u: Tensor) -> Tensor:
    weight = gate.weight
    dense = torch.block_diag(*weight) if weight.dim() == 3 else weight
    return u @ dense.T + gate.bias


def rg_lru(W, x, h):
    """google-deepmind/recurrentgemma, torch/layers.py, `RGLRU` and `rnn_scan`, its
    input after the block's `linear_x`."""
    u = x @ W.u.weight.T
    log_a = -8.0 * logistic(_blocks(W.r, u)) * _softplus(W.decay)
    normalised = logistic(_blocks(W.i, u)) * u * torch.sqrt(1 - torch.exp(2 * log_a))
    h = torch.exp(log_a) * h + normalised
    return h, [h]


def lru(W, x, re, im):
    """NicolasZucchet/minimal-LRU, lru/model.py, in complex numbers; D is a matrix, as
    in the paper."""
    eigenvalue = torch.exp(torch.complex(-torch.exp(W.nu), torch.exp(W.theta)))
    into = torch.complex(W.b_re.weight, W.b_im.weight) * torch.exp(W.gamma)[:, None]
    out = torch.complex(W.c_re.weight, W.c_im.weight)
    s = eigenvalue * torch.complex(re, im) + x.to(into.dtype) @ into.T
    return (s @ out.T).real + x @ W.d.weight.T, [s.real, s.imag]


def li_gru(W, x, h):
    """mravanelli/pytorch-kaldi, neural_networks.py, `liGRU`, without batch norm."""
    z = logistic(affine(W.z, h, x))
    h = z * h + (1 - z) * affine(W.n, h, x).clamp(min=0)
    return h, [h]


def minimal_rnn(W, x, h):
    """Chen 2017; RecurrentLayers.jl and state-spaces (HazyResearch) agree."""
    z = torch.tanh(affine(W.z, x))
    u = logistic(affine(W.u, h, z))
    h = z + u * (h - z)
    return h, [h]


def fast_rnn(W, x, h):
    """microsoft/EdgeML, edgeml_pytorch/graph/rnn.py, `FastRNNCell`."""
    h = logistic(W.beta) * h + logistic(W.alpha) * torch.tanh(affine(W.n, h, x))
    return h, [h]


def fast_grnn(W, x, h):
    """microsoft/EdgeML, edgeml_pytorch/graph/rnn.py, `FastGRNNCell`."""
    shared = affine(W.u, h, x)
    z, n = logistic(shared + W.bias_z), torch.tanh(shared + W.bias_n)
    h = z * h + (logistic(W.zeta) * (1 - z) + logistic(W.nu)) * n
    return h, [h]


def scrn(W, x, h, s, alpha=0.95):
    """Mikolov et al. 2015, eq. 3–5; MartinuzziFrancesco/RecurrentLayers.jl agrees."""
    s = alpha * s + (1 - alpha) * x @ W.b.weight.T
    h = logistic(affine(W.h, s, x, h))
    return affine(W.y, h, s), [h, s]


def rhn(W, x, h, depth=3):
    """jzilly/RecurrentHighwayNetworks, rhn.py, `couple_gates`."""
    for layer in range(depth):
        seen = (h, x) if layer == 0 else (h,)
        transform = logistic(affine(getattr(W, f"t{layer}"), *seen))
        h = h + transform * (torch.tanh(affine(getattr(W, f"n{layer}"), *seen)) - h)
    return h, [h]


def cornn(W, x, y, z, dt=0.05, gamma=1.0, epsilon=1.0):
    """tk-rusch/coRNN, adding/model.py, `coRNNCell`."""
    pulled = torch.tanh(affine(W.force, y, z, x)) - gamma * y - epsilon * z
    z = z + dt * pulled
    y = y + dt * z
    return y, [y, z]


def unicornn(W, x, y, z, dt=0.05, alpha=1.0):
    """tk-rusch/unicornn, eigenWorms/network.py, the kernel `unicornn_fwd`."""
    own = dt * logistic(W.c)
    z = z - own * (torch.tanh(y * W.w + affine(W.u, x)) + alpha * y)
    y = y + own * z
    return y, [y, z]


def cfc(W, x, h, dt):
    """mlech26l/ncps, torch/cfc_cell.py, mode "default", one backbone layer."""
    z = 1.7159 * torch.tanh(0.666 * affine(W.z, x, h))
    first, second = torch.tanh(affine(W.f, z)), torch.tanh(affine(W.g, z))
    between = logistic(affine(W.a, z) * dt + affine(W.b, z))
    h = first * (1 - between) + between * second
    return h, [h]


def ltc(W, x, h, dt, unfolds=6):
    """Hasani et al. 2021, algorithm 1; the semi-implicit step of raminmh/
    liquid_time_constant_networks with f of one affine map."""
    for _ in range(unfolds):
        f, step = logistic(affine(W.f, h, x)), dt / unfolds
        h = (h + step * f * W.a) / (1 + step / _softplus(W.tau) + step * f)
    return h, [h]


STEPS: dict[str, Callable[..., Any]] = {
    "min_gru": min_gru,
    "min_lstm": min_lstm,
    "sru": sru,
    "qrnn": qrnn,
    "rg_lru": rg_lru,
    "lru": lru,
    "li_gru": li_gru,
    "minimal_rnn": minimal_rnn,
    "fast_rnn": fast_rnn,
    "fast_grnn": fast_grnn,
    "scrn": scrn,
    "rhn": rhn,
    "cornn": cornn,
    "unicornn": unicornn,
    "cfc": cfc,
    "ltc": ltc,
}
