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
