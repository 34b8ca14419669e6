"""Cells whose gates read the input alone: linear in their states, parallel in time.

`cell.linear_in` says so, and all their products are made for many steps at once.
"""

from ..language import cell, name
from ..language.ops import cos, exp, identity, sigmoid, sin, softplus, sqrt, tanh, where


@cell
def min_gru(W, x, h, *, positive=False):
    """minGRU (Feng et al. 2024, "Were RNNs All We Needed?", arXiv 2410.01201v3, section
    3.1.3).

    `positive` maps the candidate by g, as their form in log space does: n + 0.5 where
    n ≥ 0, else σ(n).
    """
    z = sigmoid(W.z(x))
    n = W.n(x)
    n = where(n >= 0, n + 0.5, sigmoid(n)) if positive else n
    return (1 - z) * h + z * n


@cell
def min_lstm(W, x, h, *, positive=False):
    """minLSTM, its gates normalised (Feng et al. 2024, section 3.2); `positive` as in
    `min_gru`."""
    f = sigmoid(W.f(x))
    i = sigmoid(W.i(x))
    n = W.n(x)
    n = where(n >= 0, n + 0.5, sigmoid(n)) if positive else n
    both = f + i
    return f / both * h + i / both * n


@cell
def sru(W, x, c, *, squash=tanh):
    """Simple recurrent unit (Lei, Zhang & Artzi 2017, arXiv 1709.02755v1, eq. 3–7).

    The highway's x is mapped by a matrix, as in their code where sizes differ; `squash`
    is g of eq. 7. (The gates of the paper's later versions read c too.)
    """
    f = sigmoid(W.f(x))
    r = sigmoid(W.r(x))
    c = f * c + (1 - f) * W.u(x, bias=False)
    return r * squash(c) + (1 - r) * W.skip(x, bias=False), c


@cell
def qrnn(W, x, c, past: "input_size"):  # noqa: F821  # type: ignore
    """Quasi-recurrent network, fo-pooling, a convolution of width 2 (Bradbury, Merity,
    Xiong & Socher 2017, arXiv 1611.01576, eq. 2 and 4): `past` is the input before."""
    z = tanh(W.z(past, x))
    f = sigmoid(W.f(past, x))
    o = sigmoid(W.o(past, x))
    c = f * c + (1 - f) * z
    return o * c, c, identity(x)


@cell
def rg_lru(W, x, h, *, heads=1):
    """Real-gated linear recurrent unit of Griffin (De et al. 2024, arXiv 2402.19427,
    eq. 1–4 and 6).

    u is the block's linear map before it; `heads` cuts the gates' matrices into blocks,
    as RecurrentGemma's are.
    """
    u = W.u(x, bias=False)
    r = sigmoid(W.r(u, heads=heads))  # eq. 1
    i = sigmoid(W.i(u, heads=heads))  # eq. 2
    log_a = -8 * softplus(W.vector("decay", init=-5.0)) * r  # eq. 6
    a = name("a", exp(log_a))  # eq. 3
    return a * h + sqrt(1 - exp(2 * log_a)) * (i * u)  # eq. 4


@cell
def lru(W, x, re, im):
    """Linear recurrent unit (Orvieto et al. 2023, arXiv 2303.06349, section 3): one
    complex number a unit, λ = exp(−exp(ν) + i exp(θ)), and y = Re(C s) + D x for the
    state s. `cw.init.ring_` spreads λ over a ring, as the paper does (lemma 2)."""
    radius = exp(-exp(W.vector("nu", init=-3.0)))  # |λ|, section 3.3
    phase = exp(W.vector("theta"))
    a, b = radius * cos(phase), radius * sin(phase)
    gamma = exp(W.vector("gamma", init=-1.2))  # section 3.4
    re, im = (
        a * re - b * im + gamma * W.b_re(x, bias=False),
        b * re + a * im + gamma * W.b_im(x, bias=False),
    )
    return W.c_re(re, bias=False) - W.c_im(im, bias=False) + W.d(x, bias=False), re, im
