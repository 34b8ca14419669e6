"""Cells that a search found."""

from ..language import cell
from ..language.ops import relu, sigmoid, tanh


@cell
def mut1(W, x, h):
    """MUT1 (Jozefowicz, Zaremba & Sutskever 2015).

    Where MUT1 and MUT2 add the bare input to hidden units, a matrix maps it, so that
    both may have any size.
    """
    z = sigmoid(W.z(x))
    r = sigmoid(W.r(h, x))
    n = tanh(W.n(r * h) + tanh(W.p(x, bias=False)))
    return n * z + h * (1 - z)


@cell
def mut2(W, x, h):
    """MUT2 (Jozefowicz, Zaremba & Sutskever 2015): see `mut1`."""
    z = sigmoid(W.z(h, x))
    r = sigmoid(W.r(h) + W.p(x, bias=False))
    n = tanh(W.n(r * h, x))
    return n * z + h * (1 - z)


@cell
def mut3(W, x, h):
    """MUT3 (Jozefowicz, Zaremba & Sutskever 2015)."""
    z = sigmoid(W.z(tanh(h), x))
    r = sigmoid(W.r(h, x))
    n = tanh(W.n(r * h, x))
    return n * z + h * (1 - z)


@cell
def nas(W, x, h, c):
    """NAS cell, found by reinforcement learning (Zoph & Le 2017, section 4.2, fig. 8).

    A tree of eight leaves; the third multiplies where the others add, the old c joins
    at the first branch, and the new one is taken before the root.
    """
    a = tanh(sigmoid(W.a1(h, x)) * relu(W.a2(h, x)))
    b = tanh(sigmoid(W.b1(h, x)) + relu(W.b2_x(x) * W.b2_h(h, bias=False)))
    d = tanh(tanh(W.d1(h, x)) * sigmoid(W.d2(h, x)))
    e = sigmoid(tanh(W.e1(h, x)) + sigmoid(W.e2(h, x)))
    c = tanh(a + c) * b
    return tanh(c * tanh(d + e)), c
