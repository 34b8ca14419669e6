"""Sets of items: the language, graphs, their derivative, and the layer's arguments."""

import copy
import pickle
import re
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import cellwright as cw
from cellwright import Items, attend, cell, sigmoid, tanh, total
from cellwright.compiler.differentiate import differentiate
from cellwright.compiler.once import made_once
from cellwright.language import verify
from cellwright.language.evaluate import Edges, evaluate, evaluate_nodes
from oracles import normal, random_cotangents, randomise
from strategies import (
    HIDDEN,
    INPUT,
    ITEM_SIZES,
    item_sizes,
    make_cell,
    sources,
    table_gradients,
)

T, B, S = 4, 3, 5
ITEM = ITEM_SIZES["source"]
COUNTS = [4, 0, 2]
SETS = {"source": COUNTS, "notes": [1, 3, 0]}
EDGES = {
    name: Edges(torch.arange(B).repeat_interleave(torch.tensor(counts)), B)
    for name, counts in SETS.items()
}
examples = settings(
    max_examples=40, deadline=None, suppress_health_check=list(HealthCheck)
)


def attentive(**options):
    layer = cw.Recurrent(
        "bahdanau_gru",
        INPUT,
        HIDDEN,
        items={"source": ITEM},
        dtype=torch.float64,
        **options,
    )
    return randomise(layer)


def x_and_source():
    x = normal(T, B, INPUT, seed=1, grad=False)
    return x, normal(S, B, ITEM, seed=2, grad=False)


def raises(error, *parts):
    return pytest.raises(error, match=".*".join(map(re.escape, parts)))


# -- the language --------------------------------------------------------------


@cell
def reader(W, x, h, *, source: Items):
    e = W.e(tanh(W.query(h, bias=False) + W.key(source)), size=1)
    return tanh(W.h(h, x, attend(e, source)))


def test_items_are_arguments_of_the_graph_and_values_vary_over_their_set():
    graph = reader.graph
    (item,) = graph.items
    assert (item.name, item.size, item.set) == ("source", "source_size", "source")
    assert graph.size_names == ("input_size", "source_size", "hidden_size")
    sets = {name: graph.sets[n] for name, n in graph.names}
    over = dict.fromkeys(("key", "query", "e", "attention"), "source")
    assert sets == {**over, "h": None}
    assert graph.inputs[0].name == "x"
    assert len(graph.inputs) == 1


def test_a_size_of_its_own_may_be_shared_with_other_sets():
    @cell
    def shared(W, x, h, *, a: Items["enc"], b: Items["enc"], c: Items[3]):  # noqa: F821
        seen = [total(v) for v in (a, b, c)]
        return tanh(W.h(h, x, *seen))

    sizes = [item.size for item in shared.graph.items]
    assert sizes == ["enc", "enc", 3]
    layer = cw.Recurrent(shared, 2, 3, items={"a": 5, "b": 5})
    assert layer.item_sizes == {"a": 5, "b": 5, "c": 3}
    with raises(cw.ArgumentError, "'b'", "received 4 for them, expected 5"):
        cw.Recurrent(shared, 2, 3, items={"a": 5, "b": 4})


FUTURE = """
from __future__ import annotations
import cellwright as cw
from cellwright import Items, cell, attend, tanh

@cell
def plain(W, x, h: "wide", *, source: Items, other: cw.Items["enc"], dt: 1):
    return tanh(W.g(h, x, attend(W.e(source, size=1), source), size="wide")) * dt
"""


def test_annotations_as_strings_are_resolved(tmp_path):
    (tmp_path / "cells.py").write_text(FUTURE)
    graph = cw.load_cell(f"{tmp_path}/cells.py:plain").graph
    assert [(i.name, i.size) for i in graph.items] == [
        ("source", "source_size"),
        ("other", "enc"),
    ]
    assert [(i.name, i.size) for i in graph.inputs] == [("x", "input_size"), ("dt", 1)]
    assert graph.states[0].size == "wide"

    def quoted(W, x, h, *, source: "Items", other: 'Items["enc"]'):  # noqa: F821
        return tanh(W.h(h, x, total(source), total(other)))

    assert [i.size for i in cell(quoted).graph.items] == ["source_size", "enc"]


def test_an_unknown_annotation_is_an_error(tmp_path):
    text = FUTURE.replace("dt: 1", "dt: Tensor").replace("attend, tanh", "attend, tanh")
    text = text.replace("import cellwright as cw", "import cellwright as cw\n"
                        "from torch import Tensor")  # fmt: skip
    (tmp_path / "cells.py").write_text(text)
    with raises(cw.CellError, "size of dt is a count of units", "Tensor"):
        cw.load_cell(f"{tmp_path}/cells.py:plain")
    for annotation in (torch.Tensor, "list[int]", Items):
        with pytest.raises(cw.CellError):

            @cell
            def wrong(W, x, h: annotation):
                return tanh(W.h(h, x))


def test_items_are_keyword_only_and_have_no_default():
    with raises(cw.CellError, "keyword-only argument", "`*, source: Items`"):

        @cell
        def positional(W, x, h, source: Items):
            return tanh(W.h(h, x, total(source)))

    with raises(cw.CellError, "without a default"):

        @cell
        def defaulted(W, x, h, *, source: Items = 3):
            return tanh(W.h(h, x))

    with raises(cw.CellError, "neither an input", "items={'source': 256}"):
        cw.Recurrent(reader, 2, 3, inputs={"source": 4})
    with raises(cw.CellError, "neither an input", "items={'source': 256}"):
        cw.Recurrent(reader, 2, 3, source=4)


def refused(*parts):
    def check(function):
        with raises(cw.CellError, Path(__file__).name, *parts):
            cell(function)

    return check


def test_what_a_set_cannot_do_is_an_error_at_the_users_line():
    @refused("varies over one set", "'a' and 'b' at once")
    def node1(W, x, h, *, a: Items, b: Items):
        return tanh(W.h(h, x, total(W.k(a) * W.l(b))))

    @refused("total(…) sums what each item has", "a value that the step has once")
    def node2(W, x, h, *, source: Items):
        return tanh(W.h(h, x, total(h)))

    @refused("total(…) sums", "another total")
    def node3(W, x, h, *, source: Items):
        return tanh(W.h(h, x, total(total(source))))

    @refused("each item has its scores", "attend(e, source)")
    def node4(W, x, h, *, source: Items):
        return tanh(W.h(h, x, attend(W.e(h, size=1), source)))

    @refused("each item has its values", "a value that the step has once")
    def node5(W, x, h, *, source: Items):
        return tanh(W.h(h, x, attend(W.e(source, size=1), h)))

    @refused("one value for each item", "as in total(source)")
    def node6(W, x, h, *, source: Items):
        return tanh(W.h(source))

    @refused("varies over one set")
    def node7(W, x, h, *, a: Items, b: Items):
        return tanh(W.h(h, x, attend(W.e(a, size=1), b)))

    @refused("comparisons stand inside where")
    def node8(W, x, h, *, source: Items):
        return tanh(W.h(h, x, attend(source > 0, source)))

    @refused("one score for a member", "W.e(v, size=1)")
    def node9(W, x, h, *, source: Items[1]):
        return tanh(W.h(h, x, attend(W.e(source, size=4), source)))

    with raises(cw.TraceError, "each item has its values", "received 3"):

        @cell
        def node10(W, x, h, *, source: Items):
            return tanh(W.h(h, attend(source, 3)))

    with raises(cw.TraceError, "is a whole row of units"):

        @cell
        def node11(W, x, h, *, source: Items):
            return tanh(W.h(h, source[0]))

    with raises(cw.CellError, "a tree cell looks at its children"):

        @cw.tree_cell
        def node12(W, x, child, *, source: Items):
            return tanh(W.h(total(child.h), x, total(source)))


def test_attention_weights_are_named():
    def named(*scores):
        @cell
        def heads(W, x, h, *, source: Items):
            seen = [
                attend(getattr(W, name)(h, source, size=1), source) for name in scores
            ]
            return tanh(W.h(h, x, *seen))

        return {n for n in heads.graph.gates if n.startswith("attention")}

    assert named("e") == {"attention"}
    assert named("e", "e2") == {"attention.e", "attention.e2"}

    @cell
    def unnamed(W, x, h, *, source: Items):
        first = attend(cw.sum(source * source), source)
        return tanh(W.h(h, x, first, attend(cw.sum(source), source)))

    assert set(unnamed.graph.gates) == {"attention", "attention.2"}

    @cell
    def twice(W, x, h, *, source: Items):  # one attention over two values
        e = W.e(source, size=1)
        return tanh(W.h(h, x, attend(e, source), attend(e, W.v(source))))

    assert set(twice.graph.gates) == {"e", "v", "attention"}
    assert [n.op for n in twice.graph.nodes].count("attention") == 1


def test_an_attention_that_nothing_reads_is_no_part_of_the_cell():
    @cell
    def lazy(W, x, h, *, source: Items):
        attend(source * 2, source)
        return tanh(W.h(h, x))

    assert not any(node.op == "attention" for node in lazy.graph.nodes)
    assert [item.name for item in lazy.graph.items] == ["source"]


def test_attention_over_children_is_the_same_notion():
    @cw.tree_cell
    def node(W, x, child):
        return tanh(W.h(attend(W.e(child.h, x, size=1), child.h), x))

    layer = randomise(cw.TreeRecurrent(node, 2, 3, dtype=torch.float64))
    forest = cw.Forest.from_parents([2, 2, 3, -1])
    x = normal(4, 2, seed=1)
    y, _ = layer(x, forest)
    W = layer.cells[0]
    zero = x.new_zeros(3)
    leaf = [torch.tanh(W.h(zero[None], x[n : n + 1])) for n in (0, 1)]
    children = torch.cat(leaf)
    weights = torch.softmax(W.e(children, x[2:3].expand(2, -1)), 0)
    second = torch.tanh(W.h((weights * children).sum(0, keepdim=True), x[2:3]))
    root = torch.tanh(W.h(second, x[3:]))
    torch.testing.assert_close(y, torch.cat([*leaf, second, root]))


# -- text ----------------------------------------------------------------------

PRINTED = [
    "# cellwright cell" + part
    for part in (Path(__file__).parent / "printed_items.txt")
    .read_text("utf-8")
    .split("# cellwright cell")[1:]
]


@pytest.mark.parametrize("text", PRINTED, ids=lambda t: re.search(r"def (\w+)", t)[1])
def test_a_text_of_version_3_is_read_and_says_the_same(text):
    graph = cw.Graph.from_text(text)
    assert graph.to_text() == text
    assert cw.Graph.from_text(graph.to_text()) == graph
    verify(graph, after="parsing")
    bound = graph.bind(**dict.fromkeys(graph.size_names, 4))
    assert cw.Graph.from_text(bound.to_text()) == bound
    differentiate(made_once(bound).step)


def test_only_cells_with_sets_of_items_are_printed_as_version_3():
    first = {c.to_text().split("\n")[0] for c in cw.cells.all().values()}
    assert first == {"# cellwright cell 1"}
    trees = {c.to_text().split("\n")[0] for c in cw.cells.all_of_trees().values()}
    assert trees == {"# cellwright cell 2"}
    assert reader.to_text().startswith("# cellwright cell 3\n")


@pytest.mark.parametrize(
    "text",
    [
        "def f(W, x, h, *, source: Items['a b']):\n    return h + total(source)",
        "def f(W, x, h, *, source: Items[0]):\n    return h + total(source)",
        "def f(W, x, h, *, source: Items()):\n    return h + total(source)",
        "def f(W, x, h, source: Items):\n    return h + total(source)",
        "def f(W, x, h, *, source: Items):\n    return h + attend(source)",
        "def f(W, x, h, *, source: Items):\n    return h + attend(source, source, 1)",
        "def f(W, x, h, *, source: Items):\n    return source",
    ],
)
def test_a_text_that_is_no_cell_is_refused(text):
    with pytest.raises(cw.CellError):
        cw.Graph.from_text(f"# cellwright cell 3\n{text}\n")


def test_equations_and_pictures_have_signs_for_items():
    latex = cw.cells.bahdanau_gru.latex()
    assert r"\alpha_{t,s} &= \operatorname{softmax}_{s}(e_{t,s})" in latex
    assert r"\sum_{s} \alpha_{t,s}\, \mathrm{source}_s" in latex
    assert r"\mathrm{key}_s &=" in latex
    diagram = cw.cells.bahdanau_gru.diagram()
    assert "attention over them" in diagram.svg
    assert "set of items" in diagram.svg
    assert "attention" not in cw.cells.lstm.diagram().svg
    (step,) = [s for s in diagram.steps() if s.equation.startswith("α")]
    assert step.equation == "α_t,s = softmax_s(e_t,s)"
    assert "how much each item is looked at" in step.caption
    assert "cw-attention" in diagram.unrolled(2).svg


# -- values and derivatives ----------------------------------------------------


def test_the_softmax_over_sets_is_stable_and_leaves_empty_ones_alone():
    edges = Edges(torch.tensor([1, 1, 1, 3]), 4)
    scores = torch.tensor([[1e4], [1e4 - 1], [-1e4], [-1e30]], dtype=torch.float64)
    found = edges.softmax(scores.requires_grad_())
    expected = torch.cat([torch.softmax(scores[:3], 0), torch.ones(1, 1)])
    torch.testing.assert_close(found, expected, check_dtype=False)
    values = normal(4, 2, seed=1)
    assert not edges.total(found * values)[[0, 2]].any()
    (gradient,) = torch.autograd.grad(found[0].sum(), scores)
    assert torch.isfinite(gradient).all()
    assert gradient[:2].any()


def make_random(source):
    random = make_cell(source)
    layer = cw.Recurrent(
        random,
        INPUT,
        HIDDEN,
        items=item_sizes(random),
        engine="reference",
        dtype=torch.float64,
    )
    randomise(layer)
    leaves = {"x": normal(B, INPUT, seed=1)}
    for name, size in layer.item_sizes.items():
        leaves[name] = normal(sum(SETS[name]), size, seed=9)
    leaves |= {i.name: normal(B, i.size, seed=7) for i in random.graph.inputs[1:]}
    for k, state in enumerate(random.states):
        leaves[state.name] = normal(B, HIDDEN, seed=2 + k)
    return random, layer, leaves


def row_by_row(random, W, leaves):
    """The function itself on each row: what its tensors have is its items alone."""
    rows = []
    items = {i.name: leaves[i.name].split(SETS[i.name]) for i in random.graph.items}
    for row in range(B):
        now = {n: v[row : row + 1] for n, v in leaves.items() if n not in items}
        named = {i.name: now[i.name] for i in random.graph.inputs[1:]}
        named |= {name: own[row] for name, own in items.items()}
        states = [now[s.name] for s in random.states]
        found = random(W, now["x"], *states, **named)
        rows.append(found if isinstance(found, tuple) else (found,))
    return [torch.cat(column) for column in zip(*rows, strict=True)]


def assert_near(value, expected, what, source):
    expected = torch.zeros_like(value) if expected is None else expected.detach()
    scale = max(float(expected.abs().max()), 1.0)
    error = float((value.detach() - expected).abs().max())
    assert value.shape == expected.shape, f"{what}\n{source}"
    assert error <= 1e-10 * scale, f"{what}: error {error}\n{source}"


@examples
@given(sources(items=True))
def test_graph_text_and_derivative_of_random_cells(source):
    random, layer, leaves = make_random(source)
    again = cw.Cell.from_text(random.to_text())
    assert again.graph == random.graph
    assert again.to_text() == random.to_text()
    W, graph = layer.cells[0], layer.graphs[0]
    results = row_by_row(random, W, leaves)
    inputs = {i.name: leaves[i.name] for i in (*graph.inputs, *graph.items)}
    states = {s.name: leaves[s.name] for s in random.states}
    values = evaluate(graph, W, inputs, states, EDGES)
    for number, result in zip(graph.returned, results, strict=True):
        assert_near(values[number], result, "value", source)
    cotangents = random_cotangents(results)
    wanted = {**leaves, **dict(W.named_parameters())}
    tensors = list(wanted.values())
    expected = torch.autograd.grad(results, tensors, cotangents, allow_unused=True)
    found = table_gradients(graph, W, leaves, cotangents, EDGES)
    for name, by_autograd in zip(wanted, expected, strict=True):
        assert_near(found[name], by_autograd, name, source)


@settings(examples, max_examples=25)
@given(sources(items=True))
def test_a_step_cut_in_two_computes_the_same(source):
    random, layer, leaves = make_random(source)
    W, graph = layer.cells[0], layer.graphs[0]
    once = made_once(graph)
    given = {i.name: leaves[i.name] for i in graph.items}
    before = evaluate_nodes(once.nodes, W, given, EDGES)
    items = {name: before[n] for name, n in once.made.items()}
    states = {s.name: leaves[s.name] for s in random.states}
    inputs = {i.name: leaves[i.name] for i in graph.inputs}
    values = evaluate(once.step, W, {**inputs, **items}, states, EDGES)
    expected = row_by_row(random, W, leaves)
    for number, result in zip(once.step.returned, expected, strict=True):
        assert_near(values[number], result, "value", source)
    for node, over in zip(once.step.nodes, once.step.sets, strict=True):
        fixed = node.op == "affine" and over and all(
            once.step.nodes[a].op == "item" for a in node.args
        )  # fmt: skip
        assert not fixed, source


def test_products_of_the_items_are_made_once_a_call():
    layer = attentive(engine="reference")
    once = made_once(layer.graphs[0])
    assert set(once.made) == {"source", "key"}
    assert {i.name: i.set for i in once.step.items} == dict.fromkeys(
        ("source", "key"), "source"
    )
    assert "key" not in {w.name for w in once.step.weights}
    assert "key" not in once.step.values
    calls = []
    layer.cells[0].key.register_forward_hook(lambda *_: calls.append(1))
    x, source = x_and_source()
    layer(x, source=source)
    assert len(calls) == 1


def test_a_weight_of_items_and_states_is_one_weight():
    @cell
    def shared(W, x, h, *, source: Items["hidden_size"]):  # noqa: F821
        e = cw.sum(W.m(h) * W.m(source))
        return tanh(W.g(h, x, attend(e, W.m(source))))

    layer = cw.Recurrent(shared, INPUT, HIDDEN, dtype=torch.float64)
    with raises(cw.ArgumentError, "'hidden_size'", "received 9 for them, expected 4"):
        cw.Recurrent(shared, INPUT, HIDDEN, items={"source": 9})
    randomise(layer)
    W, x, h = layer.cells[0], normal(2, 1, INPUT, seed=1), normal(1, 1, HIDDEN, seed=2)
    source = normal(S, 1, HIDDEN, seed=3)
    last = h[0]
    for x_t in x:
        last = shared(W, x_t, last, source=source[:, 0])
    y, _ = layer(x, h, source=source)
    torch.testing.assert_close(y[-1], last)
    wanted = [x, h, source, *layer.parameters()]
    cotangent = random_cotangents([last])
    found = torch.autograd.grad(y[-1], wanted, cotangent)
    expected = torch.autograd.grad(last, wanted, cotangent)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_dot_product_that_a_weight_scales_is_kept_for_its_gradient():
    @cell
    def scaled(W, x, h, *, source: Items):
        e = W.scalar("sharpness") * cw.sum(W.q(h) * W.k(source))
        return tanh(W.g(h, x, attend(e, source)))

    results = []
    x, source = normal(T, B, INPUT, seed=1), normal(S, B, ITEM, seed=2)
    for engine in ("auto", "reference"):
        layer = cw.Recurrent(
            scaled,
            INPUT,
            HIDDEN,
            items={"source": ITEM},
            engine=engine,
            dtype=torch.float64,
        )
        y, _ = randomise(layer)(x, source=source, source_lengths=COUNTS)
        wanted = [x, source, *layer.parameters()]
        found = torch.autograd.grad(y, wanted, random_cotangents([y]))
        results.append([y, *found])
    torch.testing.assert_close(*results, rtol=0, atol=1e-12)


def test_a_cell_without_items_is_left_as_it_is():
    graph = cw.Recurrent("lstm", 2, 3).graphs[0]
    assert made_once(graph).step is graph


def test_second_derivatives_with_an_empty_set():
    layer = attentive(engine="reference")
    x = normal(2, 3, INPUT, seed=1)
    source = normal(2, 3, ITEM, seed=2)

    def run(x, source):
        return layer(x, source=source, source_lengths=[2, 0, 1])[0]

    assert torch.autograd.gradcheck(run, (x, source))
    assert torch.autograd.gradgradcheck(run, (x, source))


# -- the layer -----------------------------------------------------------------


def test_layouts_agree():
    layer = attentive()
    x, source = x_and_source()
    y, h = layer(x, source=source)
    first = copy.deepcopy(layer)
    first.batch_first = True
    found, state = first(x.transpose(0, 1), source=source.transpose(0, 1))
    torch.testing.assert_close((found.transpose(0, 1), state), (y, h))
    for row in range(B):
        one, end = layer(x[:, row], source=source[:, row])
        torch.testing.assert_close((one, end), (y[:, row], h[:, row]))
    shorter, ends = layer(x, source=source, source_lengths=COUNTS)
    for row, count in enumerate(COUNTS):
        one, end = layer(x[:, row], source=source[:count, row])
        torch.testing.assert_close((one, end), (shorter[:, row], ends[:, row]))


@pytest.mark.parametrize("batch_first", [False, True])
def test_packed_sequences_and_packed_items(batch_first):
    layer = attentive(batch_first=batch_first)
    x, source = x_and_source()
    if batch_first:
        x, source = x.transpose(0, 1), source.transpose(0, 1)
    lengths, counts = [2, 4, 3], [3, 5, 1]
    expected, ends = layer(x, lengths=lengths, source=source, source_lengths=counts)

    def pack(value, lengths):
        return pack_padded_sequence(value, lengths, batch_first, enforce_sorted=False)

    forms = (
        {"source": source, "source_lengths": counts},
        {"source": pack(source, counts)},
    )
    for form in forms:
        y, h = layer(pack(x, lengths), **form)
        y, _ = pad_packed_sequence(y, batch_first)
        torch.testing.assert_close((y, h), (expected, ends))
    y, h = layer(x, lengths=lengths, source=forms[1]["source"])
    torch.testing.assert_close((y, h), (expected, ends))
    with raises(cw.ArgumentError, "[source_lengths]", "has its own lengths"):
        layer(x, source=forms[1]["source"], source_lengths=counts)


def test_rows_padded_on_the_left_and_lengths_of_all_kinds():
    layer = attentive()
    x, source = x_and_source()
    given = {"source": source, "starts": [1, 0, 2]}
    y, h = layer(x, **given, source_lengths=torch.tensor(COUNTS, dtype=torch.int32))
    for row, (start, count) in enumerate(zip([1, 0, 2], COUNTS, strict=True)):
        one, end = layer(x[start:, row], source=source[:count, row])
        torch.testing.assert_close((one, end), (y[start:, row], h[:, row]))
    again = layer(x, **given, source_lengths=torch.tensor(COUNTS).numpy())
    torch.testing.assert_close(again, (y, h))


def test_two_sets_have_lengths_of_their_own():
    @cell
    def two(W, x, h, *, source: Items, facts: Items):
        seen = attend(W.e(tanh(W.q(h) + W.k(source)), size=1), source)
        known = attend(cw.sum(W.r(h) * W.f(facts)), facts)
        return tanh(W.h(h, x, seen, known))

    sizes = {"source": ITEM, "facts": 2}
    layer = cw.Recurrent(two, INPUT, HIDDEN, items=sizes, dtype=torch.float64)
    randomise(layer)
    x, source = x_and_source()
    facts = normal(2, B, 2, seed=4, grad=False)
    lengths = {"source_lengths": COUNTS, "facts_lengths": [0, 2, 1]}
    y, _ = layer(x, source=source, facts=facts, **lengths)
    for row, (m, n) in enumerate(zip(COUNTS, [0, 2, 1], strict=True)):
        one, _ = layer(x[:, row], source=source[:m, row], facts=facts[:n, row])
        torch.testing.assert_close(one, y[:, row])


def test_items_are_no_wider_in_one_layer_than_in_another():
    @cell
    def wide(W, x, h, *, source: Items["input_size"]):  # noqa: F821
        return tanh(W.g(h, x, total(source)))

    with raises(cw.ArgumentError, "every layer sees the same items"):
        cw.Recurrent(wide, INPUT, HIDDEN)


def test_several_heads_are_a_loop_over_names():
    @cell
    def heads(W, x, h, *, source: Items, n=3):
        seen = [
            attend(
                getattr(W, f"e{k}")(h, source, size=1),
                getattr(W, f"v{k}")(source, size=2),
            )
            for k in range(n)
        ]
        return tanh(W.h(h, x, *seen))

    layer = cw.Recurrent(heads, INPUT, HIDDEN, items={"source": ITEM})
    x, source = (v.float() for v in x_and_source())
    with cw.record(layer) as values:
        layer(x, source=source, source_lengths=COUNTS)
    for k in range(3):
        weights = values[f"attention.e{k}"]
        assert weights.shape == (T, B, S)
        assert weights[:, 0].sum(-1).allclose(torch.ones(T))


def test_regularised_layers_train_and_evaluate():
    layer = attentive(
        num_layers=2,
        dropout=0.3,
        recurrent_dropout=0.2,
        zoneout=0.1,
        weight_drop=0.2,
        update_dropout=0.2,
    )
    x, source = x_and_source()
    y, _ = layer(x, source=source, source_lengths=COUNTS)
    y.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    layer.eval()
    first, second = (layer(x, source=source)[0] for _ in range(2))
    assert torch.equal(first, second)
    with raises(cw.ArgumentError, "update_dropout", "attention"):
        attentive(update_dropout={"attention": 0.5})


def test_copies_compute_the_same():
    layer = attentive(num_layers=2, bidirectional=True)
    x, source = x_and_source()
    expected = layer(x, source=source, source_lengths=COUNTS)
    again = attentive(num_layers=2, bidirectional=True)
    again.load_state_dict(layer.state_dict())
    others = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), again
    for other in others:
        found = other(x, source=source, source_lengths=COUNTS)
        torch.testing.assert_close(found, expected)


def test_arguments_that_do_not_fit_are_refused():
    layer = attentive()
    x, source = x_and_source()
    for items, parts in (
        ({}, ("looks at the items 'source'", "received none", "source_lengths=")),
        ({"source": source[..., :2]}, ("(5, 3, 2)", "expected (S, 3, 3)")),
        ({"source": source[:, :2]}, ("(5, 2, 3)", "expected (S, 3, 3)")),
        ({"source": source[:, 0]}, ("(5, 3)", "expected (S, 3, 3)")),
        ({"source": 3}, ("received int",)),
        ({"source": source.float()}, ("'source' has another dtype",)),
        ({"source": source, "facts": x}, ("no input 'facts'", "source_lengths")),
    ):
        with raises(cw.ArgumentError, *parts):
            layer(x, **items)
    for lengths, parts in (
        ([6, 0, 0], ("received 6 for row 0", "expected 0 … 5")),
        ([0, -1, 0], ("received -1 for row 1",)),
        ([1, 2], ("one integer for each row",)),
        ([1.0, 2.0, 3.0], ("one integer for each row",)),
        ("abc", ("one integer for each row",)),
    ):
        with raises(cw.ArgumentError, "[source_lengths]", *parts):
            layer(x, source=source, source_lengths=lengths)
    with raises(cw.ArgumentError, "has no input 'source'"):
        cw.Recurrent("gru", INPUT, HIDDEN).double()(x, source=source)
    with raises(cw.ArgumentError, "received no size", "items={'source': 256}"):
        cw.Recurrent("bahdanau_gru", 2, 3)
    with raises(cw.ArgumentError, "looks at no items 'facts'"):
        cw.Recurrent("bahdanau_gru", 2, 3, items={"facts": 3})
    with raises(cw.CellError, "a layer over trees has none"):
        cw.TreeRecurrent("bahdanau_gru", 2, 3)
    with raises(cw.SizeError, "element by element", "3 and 4"):
        cw.Recurrent("luong_lstm", 2, 3, items={"source": 4})


def test_torchs_tracers_and_transforms():
    layer = attentive()
    x, source = x_and_source()
    expected, _ = layer(x, source=source)
    exported = torch.export.export(layer, (x,), {"source": source}, strict=False)
    torch.testing.assert_close(exported.module()(x, source=source)[0], expected)

    def run(source):
        return layer(x, source=source, source_lengths=COUNTS)[0]

    sources_ = torch.stack([source, source + 1])
    found = torch.func.vmap(run)(sources_)
    torch.testing.assert_close(found, torch.stack([run(s) for s in sources_]))


def test_under_autocast_every_gradient_arrives():
    layer = attentive().float()
    x, source = (v.float().requires_grad_() for v in x_and_source())
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = layer(x, source=source, source_lengths=COUNTS)
    expected, _ = layer(x, source=source, source_lengths=COUNTS)
    torch.testing.assert_close(y.float(), expected, rtol=0, atol=0.1)
    y.sum().backward()
    assert all(t.grad is not None for t in (x, source, *layer.parameters()))


# -- recording, stepping -------------------------------------------------------


def test_recorded_attention_and_its_gradient():
    layer = attentive(num_layers=2)
    x, source = x_and_source()
    given = {"source": source, "source_lengths": COUNTS, "lengths": [4, 3, 0]}
    with cw.record(layer, gradients=True) as values:
        y, _ = layer(x, **given)
    assert "0.query" not in values
    assert "0.key" not in values
    weights = values["0.attention"]
    assert weights.shape == (T, B, S)
    sums = weights.sum(-1)
    torch.testing.assert_close(sums[:, 0], torch.ones(T, dtype=torch.float64))
    assert not sums[:, 1:].any()  # no items; no steps
    assert not weights[:, 0, COUNTS[0] :].any()
    y.square().sum().backward()
    gradient = values["0.attention"].grad
    assert gradient.shape == (T, B, S)
    assert gradient[:, 0, : COUNTS[0]].any()
    with cw.record(layer, names=["query", "0.e", "1.attention"]) as values:
        layer(x, **given)
    assert values["0.query"].shape == (T, B, S, HIDDEN)
    assert values["0.e"].shape == (T, B, S)
    shown = torch.softmax(values["0.e"][:, 0, : COUNTS[0]], -1)
    torch.testing.assert_close(shown, weights[:, 0, : COUNTS[0]].detach())
    with raises(cw.ArgumentError, "no value of this model fits 'key'"):
        cw.record(layer, names="key")


def test_a_gradient_through_a_recorded_attention_is_that_of_a_change_of_it():
    layer = attentive()
    x, source = x_and_source()
    source_ = source.clone().requires_grad_()
    with cw.record(layer, gradients=True) as values:
        layer(x, source=source_, source_lengths=COUNTS)
        penalty = (values["attention"] ** 2).sum()
    (gradient,) = torch.autograd.grad(penalty, source_)
    direction, width = normal(*source.shape, seed=3, grad=False), 1e-6
    ends = []
    for sign in (1, -1):
        moved = source + sign * width * direction
        with cw.record(layer) as values:
            layer(x, source=moved, source_lengths=COUNTS)
        ends.append((values["attention"] ** 2).sum())
    slope = (ends[0] - ends[1]) / (2 * width)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=0)


def test_records_of_packed_and_single_sequences():
    layer = attentive()
    x, source = x_and_source()
    lengths = [2, 4, 3]
    with cw.record(layer) as values:
        layer(x, lengths=lengths, source=source, source_lengths=COUNTS)
    expected = values["attention"]
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    with cw.record(layer) as values:
        layer(packed, source=source, source_lengths=COUNTS)
    torch.testing.assert_close(values["attention"], expected)
    with cw.record(layer) as values:
        layer(x[:, 0], source=source[: COUNTS[0], 0])
    single = values["attention"]
    torch.testing.assert_close(single[:2], expected[:2, 0, : COUNTS[0]])


def test_the_stepper_is_given_the_items_once():
    layer = attentive(num_layers=2)
    x, source = x_and_source()
    expected, end = layer(x, source=source, source_lengths=COUNTS)
    step = layer.stepper(batch_size=B)
    with raises(cw.ArgumentError, "received none so far", "step.attend_to(source=…)"):
        step(x[0])
    step.attend_to(source=source, source_lengths=COUNTS)
    for _ in range(2):  # reset keeps the items
        torch.testing.assert_close(torch.stack([step(v) for v in x]), expected)
        torch.testing.assert_close(step.state, end)
        step.reset()
    other = pickle.loads(pickle.dumps(step))
    torch.testing.assert_close(torch.stack([other(v) for v in x]), expected)
    with torch.no_grad():
        layer.cells[0].key.weight.mul_(2)
    assert step.stale
    step.refresh()
    doubled, _ = layer(x, source=source, source_lengths=COUNTS)
    torch.testing.assert_close(torch.stack([step(v) for v in x]), doubled)
    step.reset()
    step.attend_to(source=source[:2])
    fewer, _ = layer(x, source=source[:2])
    torch.testing.assert_close(torch.stack([step(v) for v in x]), fewer)


def test_a_stepper_of_one_row_takes_a_single_set():
    layer = attentive()
    x, source = x_and_source()
    step = layer.stepper()
    step.attend_to(source=source[:, 0])
    expected, _ = layer(x[:, 0], source=source[:, 0])
    found = torch.stack([step(v) for v in x[:, 0]])
    torch.testing.assert_close(found, expected)


def test_a_stepper_refuses_items_that_do_not_fit():
    layer = attentive()
    x, source = x_and_source()
    step = layer.stepper(batch_size=B)
    for items, parts in (
        ({}, ("looks at the items 'source'",)),
        ({"source": source[:, :2]}, ("(5, 2, 3)",)),
        ({"source": source.float()}, ("is torch.float32",)),
        ({"source": 3}, ("received int",)),
        ({"source": source, "facts": x}, ("no items of that name",)),
        ({"source": source, "source_lengths": [9, 0, 0]}, ("received 9",)),
    ):
        with raises(cw.ArgumentError, *parts):
            step.attend_to(**items)
    with raises(cw.ArgumentError, "no input 'source'", "step.attend_to(source=…)"):
        step(x[0], source=source)
    with raises(cw.ArgumentError, "looks at no items"):
        cw.Recurrent("gru", 2, 3).stepper().attend_to(source=source)


@pytest.mark.parametrize("name", cw.cells.all_with_items())
def test_every_cell_with_items_is_sound(name):
    from cellwright.look.check import check_cell

    found = check_cell(cw.cells.get(name), 5, 6, steps=10)
    assert found.sound, str(found)


def test_the_function_runs_on_tensors_as_its_graph_does():
    layer = attentive()
    W, graph = layer.cells[0], layer.graphs[0]
    x, source = normal(2, 1, INPUT, seed=1), normal(2, S, ITEM, seed=2)
    h = normal(2, 1, HIDDEN, seed=3)
    by_function = cw.cells.bahdanau_gru(W, x, h, source=source)
    values = evaluate(graph, W, {"x": x, "source": source}, {"h": h})
    torch.testing.assert_close(values[graph.output], by_function)
    parsed = cw.Cell.from_text(cw.cells.bahdanau_gru.to_text())
    torch.testing.assert_close(parsed(W, x, h, source=source), by_function)
    assert sigmoid(x).shape == x.shape
