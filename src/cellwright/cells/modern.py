"""Cells since 2016 that change what a gate, or a product, is."""

import math

from ..language import cell, name
from ..language.ops import exp, layer_norm, maximum, sigmoid, softplus, tanh


def _normalised(W, gate, h, x):
    """gain * LN(W_h h) + gain * LN(W_x x) + shift: β1, β2 and b of eq. 20 are one."""
    recurrent = layer_norm(getattr(W, gate)(h, bias=False))
    inward = layer_norm(getattr(W, f"{gate}_x")(x, bias=False))
    gain_h = W.vector(f"gain_{gate}", init=1.0)
    gain_x = W.vector(f"gain_{gate}_x", init=1.0)
    return gain_h * recurrent + gain_x * inward + W.vector(f"shift_{gate}", init=0.0)


@cell
def layer_norm_lstm(W, x, h, c):
    """LSTM with layer normalisation inside (Ba, Kiros & Hinton 2016, eq. 20–22).

    Every gate has its own mean and variance, as usual; gain and shift are vectors.
    """
    f = sigmoid(_normalised(W, "f", h, x))  # eq. 20
    i = sigmoid(_normalised(W, "i", h, x))
    g = tanh(_normalised(W, "g", h, x))
    o = sigmoid(_normalised(W, "o", h, x))
    c = f * c + i * g  # eq. 21
    seen = W.vector("gain_c", init=1.0) * layer_norm(c) + W.vector("shift_c", init=0.0)
    return o * tanh(seen), c  # eq. 22


@cell(notation={"i": "i_prime", "f": "f_prime"})
def slstm(W, x, h, c, n, m=-math.inf, *, heads=1, exponential_forget=False):
    """sLSTM: exponential gates (xLSTM, Beck et al. 2024, eq. 8–17).

    n normalises, m keeps exp from overflowing. `heads` cuts the recurrent matrices into
    blocks; the forget gate is σ, or exp with `exponential_forget` (eq. 13).
    """
    z = tanh(W.z(x) + W.r_z(h, bias=False, heads=heads))  # eq. 11
    o = sigmoid(W.o(x) + W.r_o(h, bias=False, heads=heads))  # eq. 14
    i = name("i_tilde", W.i(x) + W.r_i(h, bias=False, heads=heads))  # eq. 12
    f = name("f_tilde", W.f(x) + W.r_f(h, bias=False, heads=heads))  # eq. 13
    log_f = f if exponential_forget else name("log_f", -softplus(-f))
    kept = log_f + m
    m = maximum(kept, i)  # eq. 15, where log i is i_tilde
    i, f = name("i", exp(i - m)), name("f", exp(kept - m))  # eq. 16, 17
    c, n = f * c + i * z, f * n + i  # eq. 8, 9
    return o * (c / n), c, n, m  # eq. 10


@cell
def multiplicative_lstm(W, x, h, c):
    """Multiplicative LSTM (Krause, Murray, Renals & Lu 2016, section 3): every input
    has its own recurrent matrix, through the intermediate state m."""
    m = name("m", W.m_x(x, bias=False) * W.m_h(h, bias=False))
    g = tanh(W.g(m, x))
    i = sigmoid(W.i(m, x))
    o = sigmoid(W.o(m, x))
    f = sigmoid(W.f(m, x))
    c = f * c + i * g
    return tanh(c) * o, c


@cell
def star(W, x, h):
    """STAR, a stackable cell of one gate (Turkoglu, D'Aronco, Wegner & Schindler
    2019)."""
    z = tanh(W.z(x))
    k = sigmoid(W.k(h, x))
    return tanh((1 - k) * h + k * z)


@cell
def rhn(W, x, h, *, depth=3):
    """Recurrent highway network (Zilly, Srivastava, Koutník & Schmidhuber 2017,
    arXiv 1607.03474, eq. 6–9), carry gates coupled: `depth` highway layers in every
    step."""
    for layer in range(depth):
        seen = (h, x) if layer == 0 else (h,)
        t = sigmoid(getattr(W, f"t{layer}")(*seen, bias=-2.0))
        n = tanh(getattr(W, f"n{layer}")(*seen))
        h = n * t + h * (1 - t)
    return h
