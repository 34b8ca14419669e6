"""Cells that look at a set of items at every step: decoders with attention."""

from ..language import Items, attend, cell, name
from ..language.ops import sigmoid, sum_, tanh


@cell
def bahdanau_gru(W, x, h, *, source: Items):
    """The decoder of Bahdanau, Cho & Bengio, "Neural Machine Translation by Jointly
    Learning to Align and Translate", ICLR 2015, arXiv 1409.0473v7, appendix A.2.2, with
    biases.

    The alignment model is that of A.1.2; z lets the new in.
    """
    e = W.e(tanh(W.query(h, bias=False) + W.key(source)), size=1, bias=False)
    context = name("context", attend(e, source))  # eq. 5, 6
    z = sigmoid(W.z(h, x, context))
    r = sigmoid(W.r(h, x, context))
    n = tanh(W.n(r * h, x, context))
    return (1 - z) * h + z * n


@cell
def luong_lstm(W, x, a, h, c, *, source: Items, general=False):
    """Global attention over an LSTM: Luong, Pham & Manning, "Effective Approaches to
    Attention-based Neural Machine Translation", EMNLP 2015, arXiv 1508.04025, section
    3.1, with input feeding (3.3).

    The score is their dot product, items as wide as h, or with `general` hᵀ W source.
    """
    f, i = sigmoid(W.f(h, x, a)), sigmoid(W.i(h, x, a))
    g, o = tanh(W.g(h, x, a)), sigmoid(W.o(h, x, a))
    c = f * c + i * g
    h = o * tanh(c)
    key = W.key(source, bias=False) if general else source
    e = name("e", sum_(h * key))  # their score: "dot" or "general"
    context = name("context", attend(e, source))  # eq. 7, and the weighted average
    return tanh(W.a(context, h, bias=False)), h, c  # eq. 5
