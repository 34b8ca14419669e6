"""Matrices in the language: operations, sizes, texts, and cells with matrix states."""

import pytest
import torch

import cellwright as cw
from cellwright import cell, matvec, outer, scale_columns, scale_rows, spread
from cellwright.language import OPS
from cellwright.language.evaluate import evaluate
from cellwright.nn.weights import CellWeights
from oracles import assert_close, normal, random_cotangents, randomise
from strategies import table_gradients

H, R, C = 3, 2, 4  # heads, rows and columns of a block


def whole(flat, heads=H, columns=C):
    """The blocks of a flat matrix, (…, heads, rows, columns)."""
    return flat.unflatten(-1, (heads, -1, columns))


def heads_of(v):
    return v.unflatten(-1, (H, -1))


# By hand: the blocks of a matrix are one axis more than its vectors' heads.
OF_MATRICES = {
    "outer": lambda v, k: torch.einsum(
        "...hr,...hc->...hrc", heads_of(v), heads_of(k)
    ).flatten(-3),
    "matvec": lambda m, q: torch.einsum(
        "...hrc,...hc->...hr", whole(m), heads_of(q)
    ).flatten(-2),
    "vecmat": lambda v, m: torch.einsum(
        "...hrc,...hr->...hc", whole(m), heads_of(v)
    ).flatten(-2),
    "scale_rows": lambda m, v: (whole(m) * heads_of(v)[..., None]).flatten(-3),
    "scale_columns": lambda m, v: (whole(m) * heads_of(v)[..., None, :]).flatten(-3),
    "row_dots": lambda a, b, like: whole(a * b).sum(-1).flatten(-2),
    "column_dots": lambda a, b, like: whole(a * b).sum(-2).flatten(-2),
}
SIZES = {"m": H * R * C, "a": H * R * C, "b": H * R * C, "v": H * R, "k": H * C}
ARGUMENTS = {
    "outer": "vk",
    "matvec": "mk",
    "vecmat": "vm",
    "scale_rows": "mv",
    "scale_columns": "mk",
    "row_dots": "abv",
    "column_dots": "abk",
}


@pytest.mark.parametrize("name", OF_MATRICES)
def test_value_and_derivative_of_operations_on_matrices(name):
    op, letters = OPS[name], ARGUMENTS[name]
    args = [normal(2, SIZES[c], seed=k) for k, c in enumerate(letters)]
    attrs = {"heads": H} if "heads" in op.attrs else {}
    value, expected = op.on_tensors(args, attrs), OF_MATRICES[name](*args)
    assert_close(value, expected)
    (g,) = random_cotangents([expected])
    exact = torch.autograd.grad(expected, args, g, allow_unused=True)
    with torch.no_grad():
        found = op.derivative(g, value, *args, **attrs)
    for cotangent, e in zip(found, exact, strict=True):
        if e is None:  # it gives a size alone
            assert cotangent is None
            continue
        cotangent = getattr(cotangent, "flat", cotangent)
        assert_close(cotangent, e)


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_sums_of_heads_and_their_adjoint(heads):
    v = normal(2, 6, seed=1)
    by_hand = torch.stack([b.sum(-1) for b in v.chunk(heads, -1)], -1)
    found = cw.sum(v, heads=heads)
    assert_close(found, by_hand)
    repeated = spread(found, v)
    assert_close(repeated, by_hand.repeat_interleave(6 // heads, -1))
    g = normal(2, 6, seed=2, grad=False)
    back, none = OPS["spread"].derivative(g, repeated, found, v, heads=heads)
    assert none is None
    assert_close(back, torch.autograd.grad(repeated, found, g)[0])


# -- a cell with all of it -------------------------------------------------------


@cell
def everything(W, x, h, S: ("hidden_size", "key_size", "heads"), *, heads=2):  # noqa: F821  # type: ignore
    """Every operation of matrices, with symbolic sizes."""
    k, q = W.k(x, size="key_size"), W.q(h, size="key_size")
    v = W.v(h, x)
    f, b = cw.sigmoid(W.f(x, size=heads)), cw.sigmoid(W.b(x, size=1))
    A = W.matrix("A", size=("hidden_size", "key_size", heads))
    S = f * S + b * outer(v - matvec(S, k), k, heads=heads) / 2
    S = scale_columns(scale_rows(cw.tanh(S + A * S), cw.sigmoid(W.r(x))), k) - S / f
    n = cw.sum(v * v, heads=heads) + cw.sum(S, heads=heads)
    h = cw.tanh(matvec(S, q) / spread(1 + n * n, v)) + cw.sum(S)
    return h, S


def by_hand(W, x, h, S, heads=2):
    """The same in plain torch, its blocks one by one."""

    def affine(gate, *operands):
        return torch.cat(operands, -1) @ gate.weight.T + gate.bias

    k, q, v = affine(W.k, x), affine(W.q, h), affine(W.v, h, x)
    f, b = (torch.sigmoid(affine(gate, x)) for gate in (W.f, W.b))
    r = torch.sigmoid(affine(W.r, x))
    parts, ks, qs, vs, rs = (t.chunk(heads, -1) for t in (S, k, q, v, r))
    A = W.A.view(heads, *W.A.shape[-2:])
    news, outs, totals = [], [], []
    for n in range(heads):
        M = parts[n].unflatten(-1, (vs[n].shape[-1], -1))
        u = vs[n] - (M * ks[n][:, None, :]).sum(-1)
        fn = f[:, n, None, None]
        M = fn * M + b[..., None] * u[:, :, None] * ks[n][:, None, :] / 2
        N = torch.tanh(M + A[n] * M) * rs[n][:, :, None] * ks[n][:, None, :] - M / fn
        d = (vs[n] * vs[n]).sum(-1) + N.sum((-1, -2))
        outs.append((N * qs[n][:, None, :]).sum(-1) / (1 + d * d)[:, None])
        news.append(N.flatten(-2))
        totals.append(N.sum((-1, -2)))
    h = torch.tanh(torch.cat(outs, -1)) + sum(totals)[:, None]
    return h, torch.cat(news, -1)


def bound(a_cell, hidden, **sizes):
    graph = a_cell.graph.bind(hidden_size=hidden, **sizes)
    return graph, randomise(CellWeights(graph, hidden, dtype=torch.float64))


@pytest.mark.parametrize("heads", [1, 2])
def test_a_step_and_its_derivative_are_those_of_plain_torch(heads):
    own = everything.partial(heads=heads)
    graph, W = bound(own, 4, input_size=3, key_size=6)
    leaves = {
        "x": normal(2, 3, seed=1),
        "h": normal(2, 4, seed=2),
        "S": normal(2, 4 * 6 // heads, seed=3),
    }
    x, h, S = leaves.values()
    expected = by_hand(W, x, h, S, heads)
    by_graph = graph.results(evaluate(graph, W, {"x": x}, {"h": h, "S": S}))
    for found in (own(W, x, h, S), by_graph):  # the function itself, and its graph
        for value, exact in zip(found, expected, strict=True):
            assert_close(value, exact)
    cotangents = random_cotangents(expected)
    wanted = {**leaves, **dict(W.named_parameters())}
    exact = torch.autograd.grad(expected, list(wanted.values()), cotangents)
    found = table_gradients(graph, W, leaves, cotangents)
    for label, e in zip(wanted, exact, strict=True):
        assert_close(found[label].view_as(e), e, label)
