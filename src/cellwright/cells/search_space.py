"""The LSTM and its eight variants of Greff, Srivastava, Koutník, Steunebrink &
Schmidhuber, "LSTM: A Search Space Odyssey" (IEEE TNNLS 28, 2017), sections II and III.

Their names: z block input, i f o gates, y block output (the state that the layer
returns); peepholes are diagonal. Each variant changes one thing of `vanilla`.
"""

from ..language import cell
from ..language.ops import sigmoid, tanh


@cell
def vanilla(W, x, y, c):
    """Vanilla LSTM, V: three gates and diagonal peepholes (section II-A)."""
    z = tanh(W.z(y, x))
    i = sigmoid(W.i(y, x) + W.p_i * c)
    f = sigmoid(W.f(y, x) + W.p_f * c)
    c = z * i + c * f
    o = sigmoid(W.o(y, x) + W.p_o * c)
    return tanh(c) * o, c


@cell
def nig(W, x, y, c):
    """No input gate, NIG: i_t = 1."""
    z = tanh(W.z(y, x))
    f = sigmoid(W.f(y, x) + W.p_f * c)
    c = z + c * f
    o = sigmoid(W.o(y, x) + W.p_o * c)
    return tanh(c) * o, c


@cell
def nfg(W, x, y, c):
    """No forget gate, NFG: f_t = 1."""
    z = tanh(W.z(y, x))
    i = sigmoid(W.i(y, x) + W.p_i * c)
    c = z * i + c
    o = sigmoid(W.o(y, x) + W.p_o * c)
    return tanh(c) * o, c


@cell
def nog(W, x, y, c):
    """No output gate, NOG: o_t = 1."""
    z = tanh(W.z(y, x))
    i = sigmoid(W.i(y, x) + W.p_i * c)
    f = sigmoid(W.f(y, x) + W.p_f * c)
    c = z * i + c * f
    return tanh(c), c


@cell
def niaf(W, x, y, c):
    """No input activation function, NIAF: g(x) = x."""
    z = W.z(y, x)
    i = sigmoid(W.i(y, x) + W.p_i * c)
    f = sigmoid(W.f(y, x) + W.p_f * c)
    c = z * i + c * f
    o = sigmoid(W.o(y, x) + W.p_o * c)
    return tanh(c) * o, c


@cell
def noaf(W, x, y, c):
    """No output activation function, NOAF: h(x) = x."""
    z = tanh(W.z(y, x))
    i = sigmoid(W.i(y, x) + W.p_i * c)
    f = sigmoid(W.f(y, x) + W.p_f * c)
    c = z * i + c * f
    o = sigmoid(W.o(y, x) + W.p_o * c)
    return c * o, c


@cell
def cifg(W, x, y, c):
    """Coupled input and forget gate, CIFG: f_t = 1 − i_t."""
    z = tanh(W.z(y, x))
    i = sigmoid(W.i(y, x) + W.p_i * c)
    c = z * i + c * (1 - i)
    o = sigmoid(W.o(y, x) + W.p_o * c)
    return tanh(c) * o, c


@cell
def np(W, x, y, c):
    """No peepholes, NP: the LSTM of torch.nn, in the paper's names."""
    z = tanh(W.z(y, x))
    i = sigmoid(W.i(y, x))
    f = sigmoid(W.f(y, x))
    c = z * i + c * f
    o = sigmoid(W.o(y, x))
    return tanh(c) * o, c


@cell
def fgr(W, x, y, c, i, f, o):
    """Full gate recurrence, FGR: every gate sees the three gates of the step before."""
    z = tanh(W.z(y, x))
    gates = (i, f, o)
    i = sigmoid(W.i(y, x, *gates) + W.p_i * c)
    f = sigmoid(W.f(y, x, *gates) + W.p_f * c)
    c = z * i + c * f
    o = sigmoid(W.o(y, x, *gates) + W.p_o * c)
    return tanh(c) * o, c, i, f, o
