"""Your own cells.

Try `cellwright check examples/my_cells.py:mine`, then
`cellwright train stdlib --cell examples/my_cells.py:mine --minutes 1`.
"""

from cellwright import cell, sigmoid, tanh


@cell
def mine(W, x, h, c):
    """Coupled gates that look at the cell state, and a bounded memory."""
    f = sigmoid(W.f(h, x, bias=1.0) + W.p * c)
    g = tanh(W.g(h, x))
    c = f * c + (1 - f) * g
    return sigmoid(W.o(h, x)) * c, c


@cell
def slow_and_fast(W, x, h, s, *, alpha=0.05):
    """A hidden state, and a slow average of it, which gate and candidate read too."""
    z = sigmoid(W.z(h, s, x))
    n = tanh(W.n(h, s, x))
    h = (1 - z) * h + z * n
    return h, (1 - alpha) * s + alpha * h
