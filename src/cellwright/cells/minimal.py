"""Cells with fewer gates, or none."""

from ..language import cell, name
from ..language.ops import relu, sigmoid, tanh


@cell
def mgu(W, x, h):
    """Minimal gated unit (Zhou, Wu, Zhang & Zhou 2016, eq. 6): one gate for both."""
    f = sigmoid(W.f(h, x))
    n = tanh(W.n(f * h, x))
    return (1 - f) * h + f * n


@cell
def janet(W, x, c, *, beta=1.0):
    """JANET, "just another network": a forget gate alone (van der Westhuizen &
    Lasenby 2018): c_t = σ(s_t) * c_{t−1} + (1 − σ(s_t − β)) * g_t."""
    s = W.s(c, x)
    f = name("f", sigmoid(s))
    g = tanh(W.g(c, x))
    return f * c + (1 - sigmoid(s - beta)) * g


@cell
def ugrnn(W, x, h):
    """Update-gate RNN (Collins, Sohl-Dickstein & Sussillo 2017)."""
    g = sigmoid(W.g(h, x))
    n = tanh(W.n(h, x))
    return g * h + (1 - g) * n


@cell
def indrnn(W, x, h):
    """Independently recurrent network (Li, Li, Cook, Zhu & Gao 2018, eq. 2)."""
    return relu(W.h(x) + W.u * h)


@cell
def leaky_rnn(W, x, h, *, alpha=0.1):
    """Leaky integrator units (Jaeger et al. 2007): α is the leak, 1 the simple RNN."""
    n = tanh(W.n(h, x))
    return (1 - alpha) * h + alpha * n


@cell
def li_gru(W, x, h):
    """Light GRU (Ravanelli, Brakel, Omologo & Bengio 2018, arXiv 1803.10225): no reset
    gate, a rectified candidate. Their batch normalisation of W x is left out."""
    z = sigmoid(W.z(h, x))
    n = relu(W.n(h, x))
    return z * h + (1 - z) * n


@cell
def minimal_rnn(W, x, h):
    """MinimalRNN (Chen 2017, arXiv 1711.06788): the input is mapped into the states'
    space."""
    z = tanh(W.z(x))
    u = sigmoid(W.u(h, z))
    return u * h + (1 - u) * z


@cell
def fast_rnn(W, x, h):
    """FastRNN (Kusupati et al. 2018, arXiv 1901.02358): a residual connection over
    time; its two numbers are σ of parameters, as in their code."""
    n = tanh(W.n(h, x))
    alpha = sigmoid(W.scalar("alpha", init=-3.0))
    beta = sigmoid(W.scalar("beta", init=3.0))
    return alpha * n + beta * h


@cell
def fast_grnn(W, x, h):
    """FastGRNN (Kusupati et al. 2018, arXiv 1901.02358): gate and candidate share a
    matrix."""
    shared = W.u(h, x, bias=False)
    z = name("z", sigmoid(shared + W.vector("bias_z", init=1.0)))
    n = name("n", tanh(shared + W.vector("bias_n", init=1.0)))
    zeta = sigmoid(W.scalar("zeta", init=1.0))
    nu = sigmoid(W.scalar("nu", init=-4.0))
    return (zeta * (1 - z) + nu) * n + z * h


@cell
def scrn(W, x, h, s, *, alpha=0.95):
    """Structurally constrained network (Mikolov et al. 2015, arXiv 1412.7753, eq. 3–5):
    s changes slowly. The output is what their softmax reads."""
    s = (1 - alpha) * W.b(x, bias=False) + alpha * s
    h = sigmoid(W.h(s, x, h, bias=False))
    return W.y(h, s, bias=False), h, s
