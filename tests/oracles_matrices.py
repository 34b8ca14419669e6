"""Steps of the cells with matrix states, by hand, in plain PyTorch.

Each names the code whose facts it follows. A state is (B, heads, rows, columns) here:
`_cut` and `_flat` go from the flat states of a layer and back. They read weights by
name and call nothing of cellwright; see `oracles.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from oracles import affine, logistic


def _cut(S: Tensor, heads: int, columns: int) -> Tensor:
    return S.reshape(S.shape[0], heads, -1, columns)


def _flat(S: Tensor) -> Tensor:
    return S.reshape(S.shape[0], -1)


def _heads(v: Tensor, heads: int) -> Tensor:
    return v.reshape(v.shape[0], heads, -1)


def _write(v: Tensor, k: Tensor) -> Tensor:
    """v kᵀ of every head."""
    return torch.einsum("bhr,bhc->bhrc", v, k)


def _read(S: Tensor, q: Tensor) -> Tensor:
    """S q of every head."""
    return torch.einsum("bhrc,bhc->bhr", S, q)


def mlstm(W, x, C, n, m, heads=1):
    """NX-AI/xlstm, `recurrent_step_stabilized_simple`; their C is kᵀv, its 1/√d is in
    W.k here, and its eps is left out, as in the paper."""
    q, k, v = (_heads(affine(g, x), heads) for g in (W.q, W.k, W.v))
    C, n = _cut(C, heads, q.shape[-1]), _heads(n, heads)
    log_f, log_i = F.logsigmoid(affine(W.f, x)), affine(W.i, x)
    new = torch.maximum(log_f + m, log_i)
    f, i = torch.exp(log_f + m - new)[..., None], torch.exp(log_i - new)[..., None]
    C = f[..., None] * C + i[..., None] * _write(v, k)
    n = f * n + i * k
    length = torch.maximum((n * q).sum(-1).abs(), torch.exp(-new))
    h = _read(C, q) / length[..., None]
    return logistic(affine(W.o, x)) * _flat(h), [_flat(C), _flat(n), new]


def _elu1(v: Tensor) -> Tensor:
    return F.elu(v) + 1


def fast_weights(W, x, S, z, heads=1):
    """idiap/fast-transformers, `linear_attention` and its recurrent form, without the
    eps of their normaliser."""
    q, k = (_heads(_elu1(affine(g, x)), heads) for g in (W.q, W.k))
    v = _heads(affine(W.v, x), heads)
    S = _cut(S, heads, q.shape[-1]) + _write(v, k)
    z = _heads(z, heads) + k
    y = _read(S, q) / (z * q).sum(-1, keepdim=True)
    return _flat(y), [_flat(S), _flat(z)]


def _l2(v: Tensor) -> Tensor:
    """fla's `l2norm`: eps within the root."""
    return v * torch.rsqrt((v * v).sum(-1, keepdim=True) + 1e-6)


def _delta(W, x, S, heads, decay, v, negative):
    q, k = (_l2(_heads(F.silu(affine(g, x)), heads)) for g in (W.q, W.k))
    S = decay * _cut(S, heads, q.shape[-1])
    beta = (2 if negative else 1) * logistic(affine(W.beta, x))
    eye = torch.eye(k.shape[-1], dtype=k.dtype)
    # As the paper writes it: S (I − β k kᵀ) + β v kᵀ.
    S = S @ (eye - beta[..., None, None] * _write(k, k))
    S = S + beta[..., None, None] * _write(_heads(v, heads), k)
    return _flat(_read(S, q)), [_flat(S)]


def delta_net(W, x, S, heads=1, negative_eigenvalues=False):
    """fla-org/flash-linear-attention, `delta_rule_recurrence`; 1/√d is in W.q here."""
    return _delta(W, x, S, heads, 1, affine(W.v, x), negative_eigenvalues)


def gated_delta_net(W, x, S, heads=1, negative_eigenvalues=False):
    """fla's layer `GatedDeltaNet`: A_log, dt_bias, without convolutions; its
    `naive_recurrent_gated_delta_rule`."""
    g = -W.log_rate.exp() * F.softplus(affine(W.step, x))
    v = F.silu(affine(W.v, x))
    return _delta(W, x, S, heads, g.exp()[..., None, None], v, negative_eigenvalues)


def retention(W, x, S, heads=1, gamma=1 - 2**-5):
    """Sun et al. 2023, eq. 6; theirs is kᵀv."""
    q, k, v = (_heads(affine(g, x), heads) for g in (W.q, W.k, W.v))
    S = gamma * _cut(S, heads, q.shape[-1]) + _write(v, k)
    return _flat(_read(S, q)), [_flat(S)]


def _group_norm(v: Tensor, eps: float) -> Tensor:
    """Every head apart."""
    centred = v - v.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def gla(W, x, S, heads=1, rank=16, tau=16):
    """fla's layer `GatedLinearAttention`, with the LayerNorm of the paper."""
    q, k, v = (_heads(affine(g, x), heads) for g in (W.q, W.k, W.v))
    gk = F.logsigmoid(affine(W.a, affine(W.low, x))) / tau
    decay = _heads(gk.exp(), heads)[:, :, None, :]
    S = decay * _cut(S, heads, q.shape[-1]) + _write(v, k)
    o = _flat(_group_norm(_read(S, q), 1e-5))
    return F.silu(affine(W.r, x)) * o, [_flat(S)]


def rwkv6(W, x, S, past, heads=1, rank=32, decay_rank=64):
    """BlinkDL/RWKV-LM, RWKV-v5 `RWKV_Tmix_x060`: state after bonus, eps 64e-5."""
    delta = past - x
    mean = torch.lerp(x, past, W.mix.expand_as(x))

    def lerp(low, up):
        return x + delta * affine(up, torch.tanh(affine(low, mean)))

    r, k, v = (
        _heads(affine(g, lerp(low, up)), heads)
        for g, low, up in (
            (W.r, W.low_r, W.mix_r),
            (W.k, W.low_k, W.mix_k),
            (W.v, W.low_v, W.mix_v),
        )
    )
    g = F.silu(affine(W.g, lerp(W.low_g, W.mix_g)))
    low = torch.tanh(affine(W.low_decay, lerp(W.low_w, W.mix_w)))
    w = _heads(torch.exp(-torch.exp(affine(W.decay, low))), heads)
    S = _cut(S, heads, k.shape[-1])
    kv = _write(v, k)
    bonus = _heads(W.bonus[None], heads)[:, :, None, :]
    y = _flat(_group_norm(_read(S + bonus * kv, r), 64e-5))
    S = S * w[:, :, None, :] + kv
    return g * (y * W.gain + W.shift), [_flat(S), x]


def selective_ssm(W, x, h, state_size=16, rank=1):
    """state-spaces/mamba, `selective_scan_ref`: deltaA, deltaB_u, D."""
    u = affine(W.u, x)
    delta = F.softplus(affine(W.delta, affine(W.low, u)))
    A = -torch.exp(W.log_A)
    h = h.reshape(h.shape[0], -1, state_size)
    h = torch.exp(torch.einsum("bd,dn->bdn", delta, A)) * h
    h = h + torch.einsum("bd,bn,bd->bdn", delta, affine(W.B, u), u)
    y = torch.einsum("bdn,bn->bd", h, affine(W.C, u)) + u * W.skip
    return y, [_flat(h)]


STEPS: dict[str, Callable[..., Any]] = {
    step.__name__: step
    for step in (
        mlstm,
        fast_weights,
        delta_net,
        gated_delta_net,
        retention,
        gla,
        rwkv6,
        selective_ssm,
    )
}
