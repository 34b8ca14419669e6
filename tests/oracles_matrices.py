"""Steps of the cells with matrix states, by hand, in plain PyTorch.

Each names the code, and the function in it, whose facts it follows. A state is
(B, heads, rows, columns) here: `_cut` and `_flat` go from the flat states of a layer
and back. Where the source's matrix is the transposed one, keys × values, so is the
step's: `_by_key` and `_by_value`. They read weights by name and call nothing of
cellwright; see `oracles.py`.
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
    """NX-AI/xlstm, xlstm/blocks/mlstm/backends.py, `recurrent_step_stabilized_simple`;
    its C is k vᵀ, its 1/√d is in W.k here, and its eps is left out, as in the paper."""
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


def _by_key(S: Tensor, heads: int) -> Tensor:
    """A flat state as the sources have it, (B, heads, keys, values)."""
    width = round((S.shape[1] // heads) ** 0.5)
    return _cut(S, heads, width).transpose(-1, -2)


def _by_value(S: Tensor) -> Tensor:
    """The flat state of keys × values."""
    return _flat(S.transpose(-1, -2))


def fast_weights(W, x, S, z, heads=1):
    """idiap/fast-transformers, recurrent/attention/self_attention/linear_attention.py,
    `RecurrentLinearAttention`, its normaliser's eps 1e-5 as in the paper's own code:
    lmtool-fwms, cuda_fast_weight_layer.py, `CudaFastWeightSumLinearTransformerLayer`,
    which first divides q and k by their sums."""
    q, k, v = (_heads(affine(g, x), heads) for g in (W.q, W.k, W.v))
    q, k = (torch.where(u > 0, u + 1, u.exp()) for u in (q, k))
    memory = _by_key(S, heads) + k.unsqueeze(-1) * v.unsqueeze(-2)
    total = _heads(z, heads) + k
    share = q / ((q * total).sum(-1, keepdim=True) + 1e-5)
    return _flat(torch.einsum("nhd,nhdm->nhm", share, memory)), [
        _by_value(memory),
        _flat(total),
    ]


def _l2(v: Tensor) -> Tensor:
    """fla's `l2norm`: eps within the root."""
    return v * torch.rsqrt((v * v).sum(-1, keepdim=True) + 1e-6)


def delta_net(W, x, S, heads=1, negative_eigenvalues=False):
    """fla-org/flash-linear-attention, fla/ops/delta_rule/naive.py,
    `delta_rule_recurrence`, on q and k of fla/layers/delta_net.py, `DeltaNet`; 1/√d is
    in W.q here."""
    q, k = (_l2(_heads(F.silu(affine(g, x)), heads)) for g in (W.q, W.k))
    v, beta = _heads(affine(W.v, x), heads), logistic(affine(W.beta, x))
    beta = (2 if negative_eigenvalues else 1) * beta[..., None, None]
    # As the paper writes it: S (I − β k kᵀ) + β v kᵀ.
    eye = torch.eye(k.shape[-1], dtype=k.dtype)
    S = _cut(S, heads, k.shape[-1]) @ (eye - beta * _write(k, k)) + beta * _write(v, k)
    return _flat(_read(S, q)), [_flat(S)]


def gated_delta_net(W, x, S, heads=1, negative_eigenvalues=False):
    """fla-org/flash-linear-attention: fla/ops/gated_delta_rule/naive.py,
    `naive_recurrent_gated_delta_rule`, on what fla/layers/gated_deltanet.py,
    `GatedDeltaNet`, hands it without short convolutions; 1/√d is in W.q here."""
    q, k, v = (_heads(F.silu(affine(g, x)), heads) for g in (W.q, W.k, W.v))
    q, k = (u / (u.square().sum(-1, keepdim=True) + 1e-6).sqrt() for u in (q, k))
    g = -torch.exp(W.log_rate) * F.softplus(affine(W.step, x))
    beta = logistic(affine(W.beta, x)) * (2.0 if negative_eigenvalues else 1.0)
    decayed = _by_key(S, heads) * g.exp()[:, :, None, None]
    error = v - (decayed * k[..., None]).sum(-2)  # against what k reads
    memory = decayed + k[..., None] * (beta[..., None] * error)[..., None, :]
    return _flat((q[..., None] * memory).sum(-2)), [_by_value(memory)]


def retention(W, x, S, heads=1, gamma=1 - 2**-5):
    """microsoft/torchscale, component/multiscale_retention.py, `recurrent_forward` in
    its plain form (kv = prev_kv * decay + kv); `theta_shift`, RMSNorm and gate left
    out, its 1/√d in W.k."""
    q, k, v = (_heads(affine(g, x), heads) for g in (W.q, W.k, W.v))
    memory = gamma * _by_key(S, heads) + k[..., None] * v[..., None, :]
    return _flat((q[..., None] * memory).sum(-2)), [_by_value(memory)]


def gla(W, x, S, heads=1, rank=16, tau=16):
    """fla-org/flash-linear-attention: fla/ops/gla/naive.py, `naive_recurrent_gla`, on
    what fla/layers/gla.py, `GatedLinearAttention`, hands it; the paper's LayerNorm for
    its RMSNorm, 1/√d in W.q, no output matrix."""
    q, k, v = (_heads(affine(g, x), heads) for g in (W.q, W.k, W.v))
    gk = F.logsigmoid(_heads(affine(W.a, affine(W.low, x)), heads)) / tau
    memory = _by_key(S, heads) * gk.exp()[..., None] + k[..., None] * v[..., None, :]
    o = (q[..., None] * memory).sum(-2)
    o = F.layer_norm(o, o.shape[-1:], eps=1e-5)
    return _flat(o) * F.silu(affine(W.r, x)), [_by_value(memory)]


def rwkv6(W, x, S, past, heads=1, rank=32, decay_rank=64):
    """BlinkDL/RWKV-LM, RWKV-v5/rwkv_v6_demo.py, `RWKV_Tmix_x060`, and its kernel as
    fla/ops/rwkv6/recurrent_naive.py has it; no output matrix. The demo's w1 and w2 are
    five matrices side by side, here one for each gate; its time_maa_* and time_decay
    are biases here."""
    xx = past - x
    xxx = x + xx * W.mix

    def shifted(g):
        m = torch.tanh(xxx @ getattr(W, f"low_{g}").weight.T)
        up = getattr(W, f"mix_{g}")
        return x + xx * (up.bias + m @ up.weight.T)

    r, k, v = (_heads(shifted(g) @ getattr(W, g).weight.T, heads) for g in "rkv")
    gate = F.silu(shifted("g") @ W.g.weight.T)
    low = torch.tanh(shifted("w") @ W.low_decay.weight.T)
    w = _heads(W.decay.bias + low @ W.decay.weight.T, heads)
    memory = _by_key(S, heads)
    kv = k[..., None] * v[..., None, :]
    u = W.bonus.reshape(heads, -1)[None, :, :, None]
    o = _flat(((memory + u * kv) * r[..., None]).sum(-2))
    o = F.group_norm(o, heads, W.gain, W.shift, eps=1e-5 * 8**2)
    memory = memory * torch.exp(-torch.exp(w))[..., None] + kv
    return o * gate, [_by_value(memory), x]


def selective_ssm(W, x, h, state_size=16, rank=1):
    """state-spaces/mamba: mamba_ssm/ops/selective_scan_interface.py,
    `selective_scan_ref`, on what mamba_ssm/modules/mamba_simple.py, `Mamba.step`, hands
    it; convolution, SiLU, gate z and output matrix left out."""
    u = x @ W.u.weight.T
    dt = F.softplus((u @ W.low.weight.T) @ W.delta.weight.T + W.delta.bias)
    B, C = u @ W.B.weight.T, u @ W.C.weight.T
    A = -torch.exp(W.log_A)
    state = h.unflatten(1, (-1, state_size))
    state = state * torch.exp(dt[..., None] * A) + (dt * u)[..., None] * B[:, None, :]
    y = (state * C[:, None, :]).sum(-1) + W.skip * u
    return y, [_flat(state)]


def mc_lstm_hydrology(W, x, c, mass):
    """neuralhydrology/neuralhydrology, modelzoo/mclstm.py, `_MCLSTMCell._step`; its
    norm of c is over the whole batch, the paper's and this one over each row."""
    features = torch.cat([mass, x, c / (c.abs().sum(1, keepdim=True) + 1e-5)], -1)
    i = F.normalize(logistic(affine(W.i, features)), p=1, dim=-1)
    r = affine(W.r, features).view(len(c), c.shape[1], c.shape[1])
    r = F.normalize(torch.relu(r), p=1, dim=-1)
    o = logistic(affine(W.o, features))
    new = i * mass + (c[:, None] @ r)[:, 0]
    return o * new, [(1 - o) * new]


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
        mc_lstm_hydrology,
    )
}
