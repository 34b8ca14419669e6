"""The cells of every course: simple RNN, LSTM, peepholes, coupled gates, GRU.

The equations, nothing else. Weights act on concatenations, [h, x] in the order written.
"""

from ..language import cell
from ..language.ops import relu, sigmoid, tanh

LECTURES = {"c": "C", "g": "C_tilde"}  # what the cell's state and candidate are called


@cell
def rnn(W, x, h):
    """Simple recurrent network (Elman 1990; Goodfellow et al. 2016, eq. 10.8–9)."""
    return tanh(W.h(h, x))


@cell
def rnn_relu(W, x, h):
    """Simple recurrent network with rectified units (Le, Jaitly & Hinton 2015)."""
    return relu(W.h(h, x))


@cell(notation=LECTURES)
def lstm(W, x, h, c):
    """LSTM (Hochreiter & Schmidhuber 1997) with forget gates (Gers et al. 2000)."""
    f = sigmoid(W.f(h, x))
    i = sigmoid(W.i(h, x))
    g = tanh(W.g(h, x))  # the candidate
    c = f * c + i * g
    o = sigmoid(W.o(h, x))
    return o * tanh(c), c


@cell
def lstm_projected(W, x, h: "proj_size", c):  # noqa: F821  # type: ignore
    """LSTM with a recurrent projection (Sak, Senior & Beaufays 2014, eq. 1–6)."""
    f = sigmoid(W.f(h, x))
    i = sigmoid(W.i(h, x))
    g = tanh(W.g(h, x))
    c = f * c + i * g
    o = sigmoid(W.o(h, x))
    return W.p(o * tanh(c), size="proj_size", bias=False), c


@cell
def lstm_book(W, x, h, s, *, squash=sigmoid):
    """The Deep Learning Book's LSTM (Goodfellow et al. 2016, eq. 10.40–10.44).

    s is the state unit, g the external input gate, q the output gate; `squash` is the
    input's nonlinearity (the book's equation has σ; tanh is usual).
    """
    f = sigmoid(W.f(h, x))  # eq. 10.40
    g = sigmoid(W.g(h, x))  # eq. 10.42
    s = f * s + g * squash(W.u(h, x))  # eq. 10.41
    q = sigmoid(W.q(h, x))  # eq. 10.44
    return tanh(s) * q, s  # eq. 10.43


@cell(notation=LECTURES)
def peephole(W, x, h, c):
    """Peephole LSTM as lectures write it: full matrices on [c, h, x].

    After Gers & Schmidhuber (2000); the output gate looks at the new c.
    """
    f = sigmoid(W.f(c, h, x))
    i = sigmoid(W.i(c, h, x))
    g = tanh(W.g(h, x))
    c = f * c + i * g
    o = sigmoid(W.o(c, h, x))
    return o * tanh(c), c


@cell
def peephole_diagonal(W, x, h, c):
    """Peephole LSTM with diagonal weights (Gers, Schraudolph & Schmidhuber 2002)."""
    f = sigmoid(W.f(h, x) + W.p_f * c)
    i = sigmoid(W.i(h, x) + W.p_i * c)
    g = tanh(W.g(h, x))
    c = f * c + i * g
    o = sigmoid(W.o(h, x) + W.p_o * c)
    return o * tanh(c), c


@cell(notation=LECTURES)
def coupled(W, x, h, c):
    """LSTM with coupled input and forget gates: it stores where it deletes.

    c_t = f_t * c_{t−1} + (1 − f_t) * g_t (Greff et al. 2017, CIFG, no peepholes).
    """
    f = sigmoid(W.f(h, x))
    g = tanh(W.g(h, x))
    c = f * c + (1 - f) * g
    o = sigmoid(W.o(h, x))
    return o * tanh(c), c


@cell(notation={"n": "h_tilde", "W.n": ""})
def gru(W, x, h):
    """GRU (Cho et al. 2014, eq. 5–8): no biases, reset before the matrix; z is new."""
    z = sigmoid(W.z(h, x, bias=False))
    r = sigmoid(W.r(h, x, bias=False))
    n = tanh(W.n(r * h, x, bias=False))
    return (1 - z) * h + z * n


@cell
def gru_bias(W, x, h):
    """GRU with biases, reset before the matrix (Chung et al. 2014, section 3.2)."""
    z = sigmoid(W.z(h, x))
    r = sigmoid(W.r(h, x))
    n = tanh(W.n(r * h, x))
    return (1 - z) * h + z * n


@cell
def gru_reset_after(W, x, h):
    """GRU with the reset after the matrix, as torch and cuDNN: z keeps the old h."""
    r = sigmoid(W.r(h, x))
    z = sigmoid(W.z(h, x))
    n = tanh(W.n(x) + r * W.m(h))
    return (1 - z) * n + z * h
