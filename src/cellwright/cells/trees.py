"""Cells of recursive nets: a node of a tree sees its children."""

from functools import cache

from ..language import TreeCell, name, total, tree_cell
from ..language.ops import sigmoid, tanh


@tree_cell(arity=2)
def recursive(W, x, left, right):
    """Recursive net, p = tanh(W [left; right] + b): Socher, Perelygin, Wu, Chuang,
    Manning, Ng, Potts, "Recursive Deep Models for Semantic Compositionality Over a
    Sentiment Treebank", EMNLP 2013, section 4.1 (their bias is a unit of the input).

    A leaf's word is an x of its own matrix, as in Socher, Lin, Ng, Manning, "Parsing
    Natural Scenes and Natural Language with Recursive Neural Networks", ICML 2011,
    eqs. 1 and 3, where it maps features into the space of the nodes.
    """
    return tanh(W.h(left.h, right.h, x))


@tree_cell
def child_sum_lstm(W, x, child):
    """Child-sum Tree-LSTM: Tai, Socher, Manning, "Improved Semantic Representations
    From Tree-Structured Long Short-Term Memory Networks", ACL 2015, eqs. 2-8.

    For any number of children without an order, such as those of a dependency tree.
    """
    h = name("h_tilde", total(child.h))
    f = sigmoid(W.f(child.h, x))
    c = total(f * child.c) + sigmoid(W.i(h, x)) * tanh(W.u(h, x))
    return sigmoid(W.o(h, x)) * tanh(c), c


@cache
def nary_lstm(arity: int) -> TreeCell:
    """N-ary Tree-LSTM for up to `arity` children: Tai, Socher, Manning, ACL 2015,
    eqs. 9-14. Every child's forget gate sees all children, and x by one W.f.
    """

    @tree_cell(arity=arity)
    def nary_lstm(W, x, *children):
        h, f_x = [child.h for child in children], W.f(x)
        c = sigmoid(W.i(*h, x)) * tanh(W.u(*h, x))
        for k, child in enumerate(children, 1):
            f = sigmoid(getattr(W, f"f_{k}")(*h, bias=False) + f_x)
            c = c + f * child.c
        return sigmoid(W.o(*h, x)) * tanh(c), c

    return nary_lstm


@tree_cell(arity=2)
def binary_lstm(W, x, left, right):
    """Binary (constituency) Tree-LSTM: Tai, Socher, Manning, ACL 2015, eqs. 9-14 with
    N = 2; on words at the leaves and nothing at the other nodes as in section 3.2.
    """
    f_x = W.f(x)  # the two forget gates share W_f and b_f
    f_left = sigmoid(W.f_left(left.h, right.h, bias=False) + f_x)
    f_right = sigmoid(W.f_right(left.h, right.h, bias=False) + f_x)
    i = sigmoid(W.i(left.h, right.h, x))
    u = tanh(W.u(left.h, right.h, x))
    c = i * u + f_left * left.c + f_right * right.c
    o = sigmoid(W.o(left.h, right.h, x))
    return o * tanh(c), c


@tree_cell
def child_sum_gru(W, x, child):
    """Child-sum Tree-GRU: Zhou, Liu, Pan, "Modelling Sentence Pairs with
    Tree-structured Attentive Encoder", COLING 2016, section 3, as their code has it:
    a reset gate for every child, and z keeps the old.
    """
    h = name("h_tilde", total(child.h))
    z = sigmoid(W.z(h, x))
    g = total(sigmoid(W.r(child.h, x)) * child.h)
    return z * h + (1 - z) * tanh(W.n(g, x))
