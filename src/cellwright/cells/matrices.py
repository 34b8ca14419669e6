"""Cells whose state is a matrix: a memory that keys write to and queries read.

A row of the matrix belongs to a unit of the value, a column to one of the key. With
`heads` it is so many blocks; a gate of one number a head decays or writes a block. A
factor 1/√d of keys or queries, d the width of a head, is part of their matrices here.
"""

import math

from ..language import cell, name
from ..language.ops import (
    abs_,
    exp,
    identity,
    layer_norm,
    matvec,
    maximum,
    minimum,
    outer,
    relu,
    scale_columns,
    scale_rows,
    sigmoid,
    softplus,
    spread,
    sqrt,
    sum_,
    tanh,
    vecmat,
)

# ruff: noqa: F821  # sizes are annotations


def _silu(v):
    """v σ(v), also called swish."""
    return v * sigmoid(v)


def _unit(v, heads):
    """v, every head of length 1."""
    return v / spread(sqrt(sum_(v * v, heads=heads) + 1e-6), v)


def _positive(v):
    """elu(v) + 1 (Katharopoulos, Vyas, Pappas & Fleuret 2020, eq. 7)."""
    return maximum(v, 0) + exp(minimum(v, 0))


def _group_norm(W, v, heads):
    """Every head normalised, then gain and shift; the eps is RWKV's."""
    gain, shift = W.vector("gain", init=1.0), W.vector("shift", init=0.0)
    return gain * layer_norm(v, eps=64e-5, heads=heads) + shift


@cell(notation={"i": "i_prime", "f": "f_prime"})
def mlstm(
    W,
    x,
    C: ("hidden_size", "hidden_size", "heads"),  # type: ignore
    n,
    m: "heads" = -math.inf,  # type: ignore
    *,
    heads=1,
):
    """mLSTM: an LSTM whose cell is a matrix (xLSTM, Beck et al. 2024, eq. 19–27).

    n normalises, m keeps exp from overflowing (eq. 15–17, and so exp(−m) for the 1 of
    eq. 21); the forget gate is σ.
    """
    q, k, v = W.q(x), W.k(x), W.v(x)  # eq. 22–24
    i = name("i_tilde", W.i(x, size=heads))  # eq. 25
    f = name("f_tilde", W.f(x, size=heads))  # eq. 26
    kept = name("log_f", -softplus(-f)) + m
    m = maximum(kept, i)
    i, f = name("i", exp(i - m)), name("f", exp(kept - m))
    C = f * C + i * outer(v, k, heads=heads)  # eq. 19
    n = spread(f, n) * n + spread(i, k) * k  # eq. 20
    length = maximum(abs_(sum_(n * q, heads=heads)), exp(-m))
    h = matvec(C, q) / spread(length, v)
    return sigmoid(W.o(x)) * h, C, n, m  # eq. 21, 27


@cell
def fast_weights(W, x, S: ("hidden_size", "hidden_size", "heads"), z, *, heads=1):  # type: ignore
    """Fast weights, written by the sum rule (Schmidhuber 1992; Schlag, Irie &
    Schmidhuber 2021, section 3.2): linear attention, φ(v) = elu(v) + 1, z normalises,
    its eps as in their code."""
    q, k = _positive(W.q(x)), _positive(W.k(x))
    S = S + outer(W.v(x), k, heads=heads)
    z = z + k
    return matvec(S, q) / spread(sum_(z * q, heads=heads) + 1e-5, q), S, z


@cell
def delta_net(
    W,
    x,
    S: ("hidden_size", "hidden_size", "heads"),  # type: ignore
    *,
    heads=1,
    negative_eigenvalues=False,
):
    """DeltaNet: fast weights, written by the delta rule (Schlag, Irie & Schmidhuber
    2021, section 4.2), q and k as in Yang, Wang, Zhang, Shen & Kim 2024.

    `negative_eigenvalues` doubles β, so that a step may turn a direction round
    (Grazzi et al. 2025).
    """
    q, k = _unit(_silu(W.q(x)), heads), _unit(_silu(W.k(x)), heads)
    beta = sigmoid(W.beta(x, size=heads))
    beta = 2 * beta if negative_eigenvalues else beta
    S = S + beta * outer(W.v(x) - matvec(S, k), k, heads=heads)
    return matvec(S, q), S


@cell
def gated_delta_net(
    W,
    x,
    S: ("hidden_size", "hidden_size", "heads"),  # type: ignore
    *,
    heads=1,
    negative_eigenvalues=False,
):
    """Gated DeltaNet: S (α (I − β k kᵀ)) + β v kᵀ (Yang, Kautz & Hatamizadeh 2025,
    section 3.1), its α as in Mamba-2; `negative_eigenvalues` as in `delta_net`."""
    q, k = _unit(_silu(W.q(x)), heads), _unit(_silu(W.k(x)), heads)
    beta = sigmoid(W.beta(x, size=heads))
    beta = 2 * beta if negative_eigenvalues else beta
    rate = exp(W.vector("log_rate", init=0.0, size=heads))
    alpha = name("alpha", exp(-rate * softplus(W.step(x, size=heads))))
    S = alpha * S
    S = S + beta * outer(_silu(W.v(x)) - matvec(S, k), k, heads=heads)
    return matvec(S, q), S


@cell
def retention(
    W,
    x,
    S: ("hidden_size", "hidden_size", "heads"),  # type: ignore
    *,
    heads=1,
    gamma=1 - 2**-5,
):
    """Retention (RetNet, Sun et al. 2023, eq. 6), without the rotation by position; one
    decay for all heads, in the paper 1 − 2^(−5−i) for head i."""
    k, v = W.k(x, bias=False), W.v(x, bias=False)
    S = gamma * S + outer(v, k, heads=heads)
    return matvec(S, W.q(x, bias=False)), S


@cell
def gla(W, x, S: ("hidden_size", "hidden_size", "heads"), *, heads=1, rank=16, tau=16):  # type: ignore
    """Gated linear attention (Yang, Wang, Shen, Panda & Kim 2024, section 4.1): every
    column has its decay α = σ(·)^(1/τ), from a matrix of low rank (section 4.4)."""
    q, k, v = W.q(x, bias=False), W.k(x, bias=False), W.v(x, bias=False)
    low = W.low(x, size=rank, bias=False)
    alpha = name("alpha", exp(-softplus(-W.a(low)) / tau))
    S = scale_columns(S, alpha) + outer(v, k, heads=heads)
    r = _silu(W.r(x))
    return r * layer_norm(matvec(S, q), heads=heads), S


@cell
def rwkv6(
    W,
    x,
    S: ("hidden_size", "hidden_size", "heads"),  # type: ignore
    past: "input_size",  # type: ignore
    *,
    heads=1,
    rank=32,
    decay_rank=64,
):
    """Time mixing of RWKV-6, Finch (Peng et al. 2024, section 4.2): `past` is the input
    before; every gate reads its own mixture of both."""
    between = past - x

    def mixed(gate):  # ddlerp
        low = getattr(W, f"low_{gate}")(mean, size=rank, bias=False)
        return x + between * getattr(W, f"mix_{gate}")(tanh(low), size="input_size")

    mean = x + between * W.vector("mix", size="input_size")
    r, k, v = (getattr(W, g)(mixed(g), bias=False) for g in "rkv")
    decay = W.low_decay(mixed("w"), size=decay_rank, bias=False)
    w = name("w", exp(-exp(W.decay(tanh(decay)))))
    kv = outer(v, k, heads=heads)
    y = matvec(S + scale_columns(kv, W.vector("bonus")), r)
    y = _group_norm(W, y, heads)
    return _silu(W.g(mixed("g"), bias=False)) * y, scale_columns(S, w) + kv, identity(x)


@cell
def selective_ssm(W, x, h: ("hidden_size", "state_size"), *, state_size=16, rank=1):  # type: ignore
    """Selective state space model, S6 (Mamba, Gu & Dao 2023, eq. 2 and algorithm 2).

    Each unit of u, the block's linear map, has `state_size` numbers; Δ comes from a
    matrix of rank `rank` (section 3.6), B̄ is Δ B as in their code. A starts as −1, in
    their code at −1, −2 … −`state_size` (S4D-real).
    """
    u = W.u(x, bias=False)
    low = W.low(u, size=rank, bias=False)
    delta = name("delta", softplus(W.delta(low)))
    A = -exp(W.matrix("log_A", init=0.0, size=("hidden_size", state_size)))
    B, C = (getattr(W, g)(u, size=state_size, bias=False) for g in "BC")
    h = exp(scale_rows(A, delta)) * h + outer(delta * u, B)
    return matvec(h, C) + W.vector("skip", init=1.0) * u, h


@cell
def mc_lstm_hydrology(W, x, c, *, mass: 1):  # type: ignore
    """Mass-conserving LSTM whose redistribution depends on the input, as in
    NeuralHydrology (Hoedt et al. 2021, arXiv 2101.05186, appendix B.4.2; `mc_lstm`).

    Row i of r says where the mass of unit i goes, and sums to 1; where ReLU leaves
    nothing of a row, that mass is lost. The output is the mass that leaves.
    """
    share = name("share", c / (sum_(abs_(c)) + 1e-5))
    i = sigmoid(W.i(mass, x, share))
    i = name("i", i / sum_(i))
    r = relu(W.r(mass, x, share, size=("hidden_size", "hidden_size")))
    of_rows = maximum(matvec(r, 1 + 0 * c), 1e-12)  # times a vector of ones
    o = sigmoid(W.o(mass, x, share))
    total = name("total", vecmat(c / of_rows, r) + i * mass)
    return o * total, (1 - o) * total
