"""Matrices in the language: operations, sizes, texts, and cells with matrix states."""

from pathlib import Path

import pytest
import torch

import cellwright as cw
import oracles_modern
from cellwright import (
    cell,
    matvec,
    outer,
    scale_columns,
    scale_rows,
    sigmoid,
    spread,
    tanh,
    vecmat,
)
from cellwright.language import OPS, CellError, SizeError, parse_graph
from cellwright.language.evaluate import evaluate
from cellwright.language.sizes import MatrixSize
from cellwright.nn.weights import CellWeights
from oracles import (
    affine,
    assert_close,
    assert_same_values_and_gradients,
    leaves_of,
    normal,
    random_cotangents,
    randomise,
)
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


# -- texts and errors ------------------------------------------------------------


def test_a_printed_cell_of_version_3_loads_for_ever():
    """Each kind of what is new in it, as it was first written."""
    text = (Path(__file__).parent / "printed_matrices.txt").read_text(encoding="utf-8")
    for part in text.split("\n\n"):
        part = part.strip() + "\n"
        assert parse_graph(part).to_text() == part


def test_one_number_a_head_is_written_as_the_user_wrote_it():
    text = everything.to_text()
    assert "f * S" in text
    assert text == cw.Cell.from_text(text).to_text()


def refused(message, kind=SizeError):
    """A test that defining the decorated cell is refused, at its own line."""

    def check(function):
        with pytest.raises(kind, match=message) as caught:
            cell(function)
        assert "test_matrices.py" in str(caught.value)

    return check


def test_sizes_that_do_not_fit_are_refused_at_the_users_line():
    size = ("hidden_size", "hidden_size", 4)

    @refused(r"outer\(v, k, heads=4\) cuts both .* multiples of 4")
    def uneven(W, x, S: size):
        return S + outer(W.v(x, size=6), W.k(x, size=6), heads=4)

    @refused(r"works element by element; .* one number a head. .*scale_rows")
    def vector(W, x, S: size):
        return S * W.v(x)

    @refused(r"works element by element")
    def other_heads(W, x, S: size):
        return S + outer(W.v(x), W.k(x), heads=2)

    @refused(r"matvec\(C, q\) takes a matrix; received a vector")
    def no_matrix(W, x, S: size):
        return matvec(W.v(x), W.v(x)), S + 1

    @refused(r"q, which meets the columns, has another size .* received 3, expected 8")
    def wrong_columns(W, x, S: (8, 8)):
        return matvec(S, W.q(x, size=3)), S + 1

    @refused(r"W.r maps vectors; received a matrix")
    def mapped(W, x, S: size):
        return W.r(S), S + 1

    @refused(r"softmax looks at the units of a vector")
    def softened(W, x, S: size):
        return cw.softmax(S)

    @refused(r"another size than the state")
    def vector_for_a_matrix(W, x, S: size):
        return W.v(x)

    @refused(r"W.p beside a matrix; .* W.matrix", CellError)
    def peephole(W, x, S: size):
        return W.p * S

    @refused(r"the size of the matrix S is its rows, its columns")
    def one_size(W, x, S: ("hidden_size",)):  # noqa: F821
        return S + 1

    @refused(r"matvec takes values of the step; received a single number", CellError)
    def number(W, x, S: size):
        return matvec(S, 1), S + 1


def test_heads_that_do_not_divide_are_refused_when_sizes_are_known():
    with pytest.raises(SizeError, match="a multiple of 4"):
        cw.Recurrent(cw.cells.delta_net, 3, 6, heads=4)


def test_a_state_is_as_wide_as_a_hyperparameter_says():
    assert cw.cells.mlstm.partial(heads=4).states[2].size == 4
    assert cw.cells.selective_ssm.states[0].size == MatrixSize("hidden_size", 16)


def test_a_weight_called_matrix_beside_matrices_is_refused():
    """`W.matrix` would be two things where the cell's function runs on tensors."""
    message = r"called matrix, and W\.matrix\(\"A\"\) makes another.*W\.matrix2"
    with pytest.raises(cw.CellError, match=message):

        @cw.cell
        def mapped(W, x, C: (H, 3)):
            return C * W.matrix("A", size=(H, 3)) + cw.outer(W.matrix(x), x), C

    with pytest.raises(cw.CellError, match=message):

        @cw.cell
        def scaled(W, x, C: (H, 3)):
            C = C * W.matrix("A", size=(H, 3)) + 1
            return W.matrix * cw.matvec(C, W.key(x, size=3)), C

    with pytest.raises(cw.CellError, match=message):
        cw.Cell.from_text(
            "# cellwright cell 3\ndef c(W, x, C: (4, 3)):\n"
            '    C_new = C * W.matrix("A", size=(4, 3))\n'
            "    return W.matrix(x), C_new\n"
        )


# -- matrices that are made of values ----------------------------------------------


@cell
def rewritten(W, x, C: ("hidden_size", 3), h):  # noqa: F821
    """Two matrices of x, one that two products share, and a vector beside them."""
    A = tanh(W.A(x, h, size=("hidden_size", 3)))
    C = sigmoid(W.B(x, bias=False, size=("hidden_size", 3))) * C + A
    k = W.k(vecmat(h, A))
    h = tanh(matvec(C, W.q(x, size=3)) + k)
    return h, C, h


def rewritten_by_hand(W, x, C, h):
    A = torch.tanh(affine(W.A, x, h)).view(len(x), -1, 3)
    C = torch.sigmoid(x @ W.B.weight.T).view_as(A) * C.view_as(A) + A
    k = affine(W.k, torch.einsum("brc,br->bc", A, h))
    h = torch.tanh(torch.einsum("brc,bc->br", C, affine(W.q, x)) + k)
    return h, [C.flatten(1), h]


@pytest.mark.parametrize("engine", ["reference", "native"])
def test_an_affine_map_may_give_a_matrix(engine):
    layer = cw.Recurrent(rewritten, 2, 4, engine=engine, dtype=torch.float64)
    randomise(layer)
    x = normal(5, 3, 2, seed=1)
    states = [normal(1, 3, n, seed=n) for n in (12, 4)]
    assert_same_values_and_gradients(
        lambda: layer(x, tuple(states)),
        lambda: oracles_modern.layers(rewritten_by_hand, layer.cells, x, states, {}),
        leaves_of(layer, x, states),
    )
    assert layer.cells[0].A.weight.shape == (12, 6)
    lengths = torch.tensor([5, 0, 2])
    y, _ = layer(x, tuple(states), lengths=lengths)
    assert_close(y[:2, 2], layer(x[:2, 2:], tuple(s[:, 2:] for s in states))[0][:, 0])


def test_a_map_to_a_matrix_is_printed_and_its_unknown_sizes_shown():
    text = rewritten.to_text()
    assert text.startswith("# cellwright cell 3\n")
    assert 'W.A(x, h, size=("hidden_size", 3))' in text
    again = cw.Cell.from_text(text)
    assert again.graph == rewritten.graph
    assert rewritten.graph.weight("A").shapes()["bias"] == ("(hidden_size)·(3)",)
    W = cw.Recurrent(rewritten, 2, 4, dtype=torch.float64).cells[0]
    x, C, h = normal(3, 2, seed=1), normal(3, 12, seed=2), normal(3, 4, seed=3)
    for own, other in zip(rewritten(W, x, C, h), again(W, x, C, h), strict=True):
        assert_close(own, other)


@pytest.mark.parametrize("options", [{"heads": 2}, {"size": (4, 4, 2)}])
def test_a_map_to_a_matrix_has_no_heads(options):
    with pytest.raises(SizeError, match=r"gives a whole matrix; received heads"):

        @cell
        def bad(W, x, h):
            return matvec(W.A(h, **{"size": (4, 4), **options}), h)
