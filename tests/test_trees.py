"""Tree cells and `TreeRecurrent`: held to a naive recursion, values and gradients."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cellwright as cw
import tree_oracles
from cellwright import sigmoid, tanh, total, tree_cell
from cellwright.language import child_states
from cellwright.language.evaluate import Edges, evaluate
from tree_oracles import ORACLES, forests

ENGINES = ["reference", "native"]
INPUT, HIDDEN = 3, 5


def make(name, engine, seed=0, hidden=HIDDEN):
    torch.manual_seed(seed)
    cell, oracle = ORACLES[name]
    layer = cw.TreeRecurrent(cell, INPUT, hidden, engine=engine, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():  # strong, so that gradients travel
            parameter.mul_(1.5)
    return layer, oracle


def compare(layer, oracle, forest, seed=0, atol=1e-10):
    """Outputs, states of roots and every gradient, under random cotangents."""
    torch.manual_seed(seed)
    x = torch.randn(len(forest.inputs), INPUT, dtype=torch.float64, requires_grad=True)
    parameters = dict(layer.cells[0].named_parameters())
    y, state = layer(x, forest)
    states = (state,) if isinstance(state, torch.Tensor) else state
    sizes = [int(s.size) for s in layer.graph.states]
    y2, all_states = tree_oracles.walk(
        oracle, parameters, x, forest, layer.arity, sizes
    )
    roots = torch.from_numpy(forest.roots)
    expected = [y2, *(s[roots] for s in all_states)]
    received = [y, *states]
    cotangents = [torch.randn_like(e) for e in expected]
    wanted = [x, *parameters.values()]
    found = torch.autograd.grad(
        received, wanted, cotangents, allow_unused=True, materialize_grads=True
    )
    right = torch.autograd.grad(
        expected, wanted, cotangents, allow_unused=True, materialize_grads=True
    )
    for r, e in zip([*received, *found], [*expected, *right], strict=True):
        torch.testing.assert_close(r, e, rtol=1e-10, atol=atol)
    return right


# -- against the recursion -----------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ORACLES)
def test_random_forests(name, engine):
    layer, oracle = make(name, engine)

    @settings(max_examples=12, deadline=None)
    @given(forests(layer.arity), st.integers(0, 99))
    def check(forest, seed):
        compare(layer, oracle, forest, seed)

    check()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["child_sum_lstm", "binary_lstm"])
def test_a_chain_of_500(name, engine):
    layer, oracle = make(name, engine, hidden=2)
    with torch.no_grad():  # the forget gates open: the gradient reaches the leaf
        for gate in layer.cells[0].children():
            if gate.bias is not None:
                gate.bias.fill_(2.0)
    forest = cw.Forest.from_parents([-1, *range(499)], inputs=[499])
    of_x, *_ = compare(layer, oracle, forest)
    assert of_x.abs().max() > 1e-12


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["child_sum_lstm", "child_sum_gru"])
def test_a_node_of_300_children(name, engine):
    layer, oracle = make(name, engine)
    compare(layer, oracle, cw.Forest.from_parents([-1, *[0] * 300]), atol=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ORACLES)
def test_single_nodes(name, engine):
    layer, oracle = make(name, engine)
    compare(layer, oracle, cw.Forest.from_parents([-1, -1, -1], inputs=[2, 0]))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["lstm", "gru", "peephole", "rnn"])
def test_a_sequence_is_the_tree_of_one_child(name, engine):
    torch.manual_seed(0)
    sequence = cw.Recurrent(name, INPUT, HIDDEN, dtype=torch.float64)
    tree = cw.TreeRecurrent(name, INPUT, HIDDEN, engine=engine, dtype=torch.float64)
    tree.load_state_dict(sequence.state_dict())
    T, B = 9, 3
    x = torch.randn(T, B, INPUT, dtype=torch.float64, requires_grad=True)
    y, state = sequence(x)
    parents = [
        [B + n if t < T - 1 else -1 for n in range(t * B, t * B + B)] for t in range(T)
    ]
    forest = cw.Forest.from_parents([p for step in parents for p in step])
    y2, roots = tree(x.reshape(T * B, INPUT), forest)
    states = (state,) if isinstance(state, torch.Tensor) else state
    roots = (roots,) if isinstance(roots, torch.Tensor) else roots
    results = [y.reshape(T * B, HIDDEN), *(s[0] for s in states)]
    received = [y2, *roots]
    cotangents = [torch.randn_like(r) for r in results]
    right = torch.autograd.grad(results, [x, *sequence.parameters()], cotangents)
    found = torch.autograd.grad(received, [x, *tree.parameters()], cotangents)
    for r, e in zip([*received, *found], [*results, *right], strict=True):
        torch.testing.assert_close(r, e, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
def test_what_a_forest_was_made_of_may_change_before_backward(engine, again):
    """The lists of nodes, and the arrays that a forest shows, are the caller's."""
    layer, _ = make("child_sum_lstm", engine)
    wanted = [*layer.parameters()]

    def gradients(change):
        given = [torch.tensor([-1, 0, 0, 1, -1, 4]), torch.arange(5, -1, -1)]
        given.append(torch.tensor([0, 1, 0, 0, 0, 0]))
        forest = cw.Forest.from_parents(given[0], inputs=given[1], slots=given[2])
        x = torch.randn(6, INPUT, dtype=torch.float64, generator=torch.manual_seed(1))
        y, states = layer(x, forest)
        loss = y.square().sum() + sum(3 * s.square().sum() for s in states)
        if change:
            shown = forest.parents, forest.slots, forest.heights, forest.inputs
            for array in (*given, *map(torch.from_numpy, (*shown, forest.roots))):
                array.copy_(array.flip(0))
        found = torch.autograd.grad(loss, wanted, create_graph=again)
        if again:
            squares = sum(g.square().sum() for g in found)
            found = torch.autograd.grad(squares, wanted)
        return found

    assert all(map(torch.equal, gradients(False), gradients(True)))


def test_second_derivatives():
    layer, _ = make("child_sum_gru", "auto", hidden=2)
    forest = cw.Forest.from_parents([-1, 0, 0, 1], inputs=[3, 1, 2])
    x = torch.randn(3, INPUT, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x, forest)[0], x)


# -- the language --------------------------------------------------------------

TREES = {**{n: c for n, (c, _) in ORACLES.items()}, "nary_2": cw.cells.nary_lstm(2)}


@pytest.mark.parametrize("cell", TREES.values(), ids=TREES)
def test_print_parse_bind_and_copies(cell):
    graph = cell.graph
    again = cw.Cell.from_text(cell.to_text())
    assert isinstance(again, cw.TreeCell)
    assert again.graph == graph
    assert again.arity == cell.arity
    assert again.to_text() == cell.to_text()
    assert again.to_text().startswith("# cellwright cell 2\n@tree_cell(")
    assert pickle.loads(pickle.dumps(cell)).graph == graph
    assert graph.bind(input_size=3, hidden_size=4).parameters()
    assert copy.deepcopy(cell) is cell
    assert r"\begin{aligned}" in cell.latex()


def test_latex_has_nodes_and_children():
    text = cw.cells.child_sum_lstm.latex()
    assert r"f_{jk} &= \sigma(W_{f} \cdot [h_k, x_j]" in text
    assert r"\sum_{k \in C(j)} f_{jk} * c_k" in text
    assert r"h_{j2}" in cw.cells.nary_lstm(2).latex()
    assert r"c_{\mathrm{left}}" in cw.cells.binary_lstm.latex()


@pytest.mark.parametrize("cell", TREES.values(), ids=TREES)
def test_the_function_is_the_graph(cell):
    """Run on tensors the function gives what its graph gives."""
    torch.manual_seed(0)
    layer = cw.TreeRecurrent(cell, INPUT, HIDDEN, dtype=torch.float64)
    graph, many = cell.graph, cell.arity is None
    rows = (4, 3) if many else (4,)
    x = torch.randn(4, *([1] if many else []), INPUT, dtype=torch.float64)
    children = [
        child_states(
            **{
                s.name: torch.randn(*rows, HIDDEN, dtype=torch.float64)
                for s in graph.states
            }
        )
        for _ in graph.children
    ]
    W = layer.cells[0]
    direct = cell(W, x, *children)
    by_graph = cw.Cell.from_graph(graph)(W, x, *children)
    torch.testing.assert_close(direct, by_graph, rtol=0, atol=1e-12)


def test_names_survive_and_gates_can_be_replaced():
    cell = cw.cells.child_sum_lstm
    assert {"h_tilde", "f", "i", "u", "o", "h", "c"} == set(cell.graph.values)
    other = cell.replace(f=cw.hard_sigmoid)
    assert "f = hard_sigmoid(W.f(child.h, x))" in other.equations
    assert isinstance(other, cw.TreeCell)


def test_declared_states_sizes_outputs_and_inputs():
    @tree_cell(arity=2, states={"m": "proj_size", "c": "hidden_size"})
    def node(W, x, left, right, *, mass, scale=2.0):
        c = tanh(W.g(left.m, right.m, x)) * mass + scale * (left.c + right.c)
        return W.y(c, size=3), W.p(c, size="proj_size"), c

    assert [s.name for s in node.states] == ["m", "c"]
    assert cw.Graph.from_text(node.to_text()) == node.graph
    layer = cw.TreeRecurrent(
        node, 4, 6, proj_size=2, inputs={"mass": 1}, scale=0.5, dtype=torch.float64
    )
    assert layer.output_size == 3
    forest = cw.Forest.from_parents([-1, 0, 0])
    x, mass = torch.randn(3, 4).double(), torch.rand(3, 1).double()
    y, (m, c) = layer(x, forest, mass=mass)
    assert (y.shape, m.shape, c.shape) == ((3, 3), (1, 2), (1, 6))
    assert pickle.loads(pickle.dumps(layer))(x, forest, mass=mass)[0].equal(y)


def test_edges_lift_and_total():
    """Values of a child may meet values of the node: each child sees its parent's."""

    @tree_cell
    def node(W, x, child):
        weight = sigmoid(W.a(child.h, x, size=1))
        share = weight / (total(weight) + 1e-3)  # attention over the children
        return tanh(W.x(x) + total(share * child.h))

    torch.manual_seed(0)
    layer = cw.TreeRecurrent(node, 2, 3, dtype=torch.float64)
    h, x = torch.randn(5, 3).double(), torch.randn(2, 2).double()
    edges = Edges(torch.tensor([0, 0, 0, 1, 1]), 2)
    values = evaluate(layer.graph, layer.cells[0], {"x": x}, {"child.h": h}, edges)
    ragged = layer.graph.results(values)
    for row, own in enumerate((slice(0, 3), slice(3, 5))):
        alone = node(layer.cells[0], x[row : row + 1], child_states(h=h[own]))
        torch.testing.assert_close(ragged[row], alone[0])


def refused(match, **options):
    def check(function):
        with pytest.raises(cw.CellError, match=match):
            tree_cell(**options)(function) if options else tree_cell(function)

    return check


def test_errors_teach():
    @refused(r"returned value has one value for each child.*outside total")
    def node(W, x, child):
        return tanh(W.h(child.h, x))

    @refused(r"total\(…\) sums what each child has; received another total")
    def node2(W, x, child):
        return total(total(child.h))

    @refused(r"total\(…\) sums what each child has; received a value that the node")
    def node3(W, x, child):
        return total(W.h(x)) + total(child.h)

    @refused(r"expected a value computed from the states of any number", arity=2)
    def node4(W, x, left, right):
        return total(left.h) + right.h

    @refused(r"are read that the node does not return; received 1 value.*return h, c")
    def node5(W, x, child):
        return total(child.h * child.c)

    @refused(r"which returned value is which state\? The states read are h; received 2")
    def node6(W, x, child):
        return total(child.h), W.c(x)

    @refused(r"which returned value is which state.*a, b", arity=1)
    def node7(W, x, child):
        return W.u(child.a), W.v(child.b)

    @refused(r"a child has no state 'd'.*Known: h, c", arity=1, states=("h", "c"))
    def node8(W, x, child):
        return child.d, child.h

    @refused(r"reads no state of its children", arity=1)
    def node9(W, x, child):
        return W.h(x)

    @refused(r"'left' is a child, not a value.*as in left.h", arity=2)
    def node10(W, x, left, right):
        return tanh(W.h(left, right, x))

    @refused(r"'left' is a child, not a value", arity=2)
    def node11(W, x, left, right):
        return left + right

    @refused(r"arity counts the children.*received 0", arity=0)
    def node12(W, x):
        return x

    @refused(
        r"arity=3; received \(W, x, left, right\), expected \(W, x, child_1, c", arity=3
    )
    def node13(W, x, left, right):
        return left.h

    @refused(r"arity=None; received \(W, x, left, right\), expected \(W, x, child\)")
    def node14(W, x, left, right):
        return left.h

    @refused(r"a child has no default", arity=1)
    def node15(W, x, child=0.0):
        return child.h

    @refused(r"states= names what a node hands", arity=1, states="h")
    def node16(W, x, child):
        return child.h

    @refused(r"in the order declared.*received 1 value", arity=1, states=("h", "c"))
    def node17(W, x, child):
        return child.h

    with pytest.raises(cw.TraceError, match=r"total\(…\) sums what each child has"):
        total(3)


def test_layers_refuse_each_others_cells():
    with pytest.raises(cw.ArgumentError, match=r"a cell of trees.*TreeRecurrent"):
        cw.Recurrent(cw.cells.child_sum_lstm, 3, 4)
    with pytest.raises(cw.CellError, match=r"starts from -inf.*missing|starts from"):
        cw.TreeRecurrent("slstm", 3, 4)
    with pytest.raises(cw.ArgumentError, match=r"needs a cell; received function"):
        cw.TreeRecurrent(lambda: None, 3, 4)  # type: ignore[arg-type]
    with pytest.raises(cw.ArgumentError, match=r"torch has no kernel"):
        cw.TreeRecurrent("child_sum_lstm", 3, 4, engine="torch")


# -- forests -------------------------------------------------------------------


def test_brackets():
    forest = cw.Forest.from_brackets(
        ["(3 (2 It) (4 (1 really) (2 works)))", "(0 no)"], label=int, word=str.lower
    )
    assert forest.parents.tolist() == [-1, 0, 0, 2, 2, -1]
    assert forest.slots.tolist() == [0, 0, 1, 0, 1, 0]
    assert forest.heights.tolist() == [2, 0, 1, 0, 0, 0]
    assert forest.labels.tolist() == [3, 2, 4, 1, 2, 0]
    assert forest.words.tolist() == ["it", "really", "works", "no"]
    assert forest.inputs.tolist() == [1, 3, 4, 5]
    assert forest.roots.tolist() == [0, 5]
    assert len(forest) == 2
    assert "2 trees: 6 nodes, 4 with an input, height 2" in repr(forest)
    inner = cw.Forest.from_brackets("(S eats (NP cat) (NP mouse (A grey)))")
    assert inner.words.tolist() == ["eats", "cat", "mouse", "grey"]
    assert inner.labels.tolist() == ["S", "NP", "NP", "A"]
    bare = cw.Forest.from_brackets("((a) (b))")
    assert bare.labels.tolist() == ["", "a", "b"]
    assert len(bare.words) == 0


def test_children_and_places():
    forest = cw.Forest.from_children([[None, 1], [2, 3], [], ()])
    assert forest.slots.tolist() == [0, 1, 0, 1]
    assert forest.schedule(2).children.shape == (2, 4)
    same = cw.Forest.from_parents(torch.tensor([-1, 0, 1, 1]), slots=[0, 1, 0, 1])
    assert (same.parents == forest.parents).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_batch_is_its_trees(engine):
    """Bit by bit, where the engine is native."""
    layer, _ = make("binary_lstm", engine)
    tolerance = {"rtol": 0, "atol": 0 if engine == "native" else 1e-12}
    texts = ["(3 (2 It) (4 (1 really) (2 works)))", "(0 no)", "(1 (0 a) (2 b))"]
    trees = [cw.Forest.from_brackets(t) for t in texts]
    whole = cw.Forest.batch(trees)
    assert whole.words.tolist() == ["It", "really", "works", "no", "a", "b"]
    x = torch.randn(6, INPUT, dtype=torch.float64)
    y, (h, c) = layer(x, whole)
    start, row = 0, 0
    for k, tree in enumerate(trees):
        yk, (hk, ck) = layer(x[row : row + len(tree.inputs)], tree)
        received = [y[start : start + tree.nodes], h[k], c[k]]
        torch.testing.assert_close(received, [yk, hk[0], ck[0]], **tolerance)
        start, row = start + tree.nodes, row + len(tree.inputs)
    assert cw.Forest.batch(trees[:1]) is trees[0]
    assert whole.schedule(2) is whole.schedule(2)
    for copied in (copy.deepcopy(whole), pickle.loads(pickle.dumps(whole))):
        assert torch.equal(layer(x, copied)[0], y)


def test_forests_that_are_none():
    Forest, wrong = cw.Forest, cw.ArgumentError
    with pytest.raises(wrong, match=r"at least one node; received no parents"):
        Forest.from_parents([])
    with pytest.raises(wrong, match=r"no trees, expected at least one"):
        Forest.batch([])
    with pytest.raises(wrong, match=r"no trees"):
        Forest.from_brackets([])
    with pytest.raises(wrong, match=r"parent of node 1 is no node; received 7"):
        Forest.from_parents([-1, 7])
    with pytest.raises(wrong, match=r"make a cycle: node 1"):
        Forest.from_parents([-1, 2, 3, 1, 2])
    with pytest.raises(wrong, match=r"make a cycle: node 0"):
        Forest.from_parents([0])
    with pytest.raises(wrong, match=r"node 2 has two parents.*child of 0 and of 1"):
        Forest.from_children([[1, 2], [2], []])
    with pytest.raises(wrong, match=r"child 1 of node 0 is no node; received 5"):
        Forest.from_children([[1, 5], []])
    with pytest.raises(wrong, match=r"nodes 1 and 2 are both child 0 of node 0"):
        Forest.from_parents([-1, 0, 0], slots=[0, 0, 0])
    with pytest.raises(wrong, match=r"slots is a list of 3 whole numbers"):
        Forest.from_parents([-1, 0, 0], slots=[0, 0])
    with pytest.raises(wrong, match=r"slots counts children from 0; received -2"):
        Forest.from_parents([-1, 0], slots=[0, -2])
    with pytest.raises(wrong, match=r"parents is a list of whole numbers.*float64"):
        Forest.from_parents([-1.0, 0.0])  # type: ignore[list-item]
    with pytest.raises(wrong, match=r"inputs names the nodes.*received 3"):
        Forest.from_parents([-1, 0], inputs=[3])
    with pytest.raises(wrong, match=r"received one twice"):
        Forest.from_parents([-1, 0], inputs=[1, 1])


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("(3 (2 a)", "stays open"),
        ("(3 a))", "closes that was not opened"),
        ("(3 a) (2 b)", "holds one tree"),
        ("3 (2 b)", "'3' stands outside"),
        ("(3 a b)", "one word, and 'b' is its second"),
        ("(3 a (2 c) b)", "one word, and 'b' is its second"),
        ("", "there is no tree"),
    ],
)
def test_brackets_that_are_none(text, fact):
    with pytest.raises(cw.ArgumentError, match=f"tree 1: .*{fact}"):
        cw.Forest.from_brackets(["(1 x)", text])


def test_layer_arguments():
    layer, _ = make("binary_lstm", "auto")
    wrong = cw.ArgumentError
    forest = cw.Forest.from_parents([-1, 0, 0], inputs=[1, 2])
    x = torch.randn(2, INPUT, dtype=torch.float64)
    with pytest.raises(wrong, match=r"row for each of the 2 nodes.*expected \(2, 3\)"):
        layer(torch.randn(3, INPUT, dtype=torch.float64), forest)
    with pytest.raises(wrong, match=r"another dtype.*float32, expected torch.float64"):
        layer(x.float(), forest)
    with pytest.raises(wrong, match=r"another device.*meta"):
        layer(x.to("meta"), forest)
    with pytest.raises(wrong, match=r"needs the trees; received list"):
        layer(x, [-1, 0, 0])
    with pytest.raises(wrong, match=r"no input 'mass'"):
        layer(x, forest, mass=x)
    wide = cw.Forest.from_parents([-1, 0, 0, 0])
    with pytest.raises(wrong, match=r"child in place 3.*a cell of 2 children"):
        layer(torch.randn(4, INPUT, dtype=torch.float64), wide)


# -- the native engine beyond the zoo ------------------------------------------


@tree_cell(states=("h", "c"))
def everything(W, x, child, *, dt, scale=0.5):
    """Values of the node among those of children, reductions, vectors, numbers."""
    share = sigmoid(W.a(child.h, x, size=1))
    share = share / (total(share) + W.scalar("s", init=0.3))
    mixed = cw.layer_norm(W.q(child.h, heads=1) * W.x(x)) + W.p * child.c
    c = total(share * tanh(mixed)) + dt * W.vector("v", init=0.2)
    peak = total(cw.exp(-child.h * child.h)) * scale
    h = tanh(W.o(c, total(child.c) - peak, x))
    return W.y(h, size=3), h, c


@tree_cell(arity=2, states=("h", "c"))
def crossed(W, x, left, right, *, dt):
    """A child's state that is not read, one that is handed on, a second stage."""
    r = sigmoid(W.r(left.h, right.h, x))
    c = tanh(W.g(r * left.h, right.c, x)) * dt
    return tanh(W.k(c)) + right.h, c


@pytest.mark.parametrize("cell", [everything, crossed])
def test_native_is_the_reference_for_any_cell(cell):
    torch.manual_seed(0)
    layers = [
        cw.TreeRecurrent(
            cell, 3, 4, inputs={"dt": 1}, engine=engine, dtype=torch.float64
        )
        for engine in ENGINES
    ]
    layers[1].load_state_dict(layers[0].state_dict())

    @settings(max_examples=8, deadline=None)
    @given(forests(cell.arity), st.integers(0, 99))
    def check(forest, seed):
        torch.manual_seed(seed)
        rows = len(forest.inputs)
        x = torch.randn(rows, 3, dtype=torch.float64, requires_grad=True)
        dt = torch.rand(rows, 1, dtype=torch.float64, requires_grad=True)
        cotangents, found = None, []
        for layer in layers:
            y, states = layer(x, forest, dt=dt)
            results = [y, *states]
            cotangents = cotangents or [torch.randn_like(r) for r in results]
            wanted = [x, dt, *layer.parameters()]
            grads = torch.autograd.grad(
                results, wanted, cotangents, allow_unused=True, materialize_grads=True
            )
            with torch.no_grad():  # another program, without what training keeps
                again, _ = layer(x, forest, dt=dt)
            found.append([*results, *grads, again])
        torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-10)

    check()


@pytest.mark.parametrize("cell", ["child_sum_lstm", "binary_lstm"])
def test_the_same_bits_at_any_number_of_threads(cell):
    torch.manual_seed(0)
    layer = cw.TreeRecurrent(cell, 40, 70, engine="native")
    parents = [-1, *((n - 1) // 2 for n in range(1, 700))]
    forest = cw.Forest.from_parents(parents, inputs=range(300, 700))
    x = torch.randn(400, 40, requires_grad=True)
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            y, (h, c) = layer(x, forest)
            loss = (y * torch.linspace(-1, 1, 70)).sum() + (h + 2 * c).sum()
            found.append([y, *torch.autograd.grad(loss, [x, *layer.parameters()])])
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert one.equal(two)


def test_explain_and_cells_show_trees():
    from typer.testing import CliRunner

    from cellwright.cli import app

    shown = CliRunner().invoke(app, ["explain", "child_sum_lstm"]).output
    assert "for each child" in shown
    assert "total h[child]" in shown
    assert "[f.weight+128] · x" in shown  # once a node, not once a child
    listed = CliRunner().invoke(app, ["cells", "child_sum_lstm"]).output
    assert "ACL 2015, eqs. 2-8" in listed
    assert "c = total(f * child.c) + i * u" in listed
    assert "child_sum_gru" in CliRunner().invoke(app, ["cells", "--names"]).output


@pytest.mark.parametrize("cell", [*TREES.values(), everything, crossed])
def test_check_knows_trees(cell):
    from cellwright.look.check import check_cell

    found = check_cell(cell, 4, 5, steps=10)
    assert found.autograd_error < 1e-9
    assert found.difference_error < 1e-6
    assert not [p for p in found.problems if "derivatives" in p]
    assert len(found.gradient_norms) == 11
