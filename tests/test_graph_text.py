"""Printed cells: print → parse → equal, and nothing else is read."""

import copy
import math
import os
import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import cellwright as cw
from cellwright import cell, sigmoid, tanh, total, tree_cell, where
from cellwright.language import OPS, printer
from cellwright.language.builder import Builder
from cellwright.language.evaluate import evaluate
from cellwright.nn.regularise import (
    Regularisers,
    in_evaluation,
    in_training,
    masks_of,
)
from cellwright.nn.weights import CellWeights
from oracles import assert_close, normal, randomise

ZOO = sorted(cw.cells.all())
HEADER = "# cellwright cell 1\n"


@pytest.mark.parametrize("name", ZOO)
def test_every_cell_of_the_zoo_prints_and_parses_to_an_equal_graph(name):
    graph = cw.cells.get(name).graph
    text = graph.to_text()
    again = cw.Graph.from_text(text)
    assert again == graph
    assert again.name == name
    assert again.to_text() == text == str(graph)


@pytest.mark.parametrize("name", ZOO)
def test_a_bound_graph_prints_and_parses_to_an_equal_graph(name):
    graph = cw.cells.get(name).graph
    bound = graph.bind(**{s: 3 + k for k, s in enumerate(graph.size_names)})
    assert cw.Graph.from_text(bound.to_text()) == bound


def test_the_text_is_the_language_under_a_versioned_header():
    assert cw.cells.gru.to_text() == (
        "# cellwright cell 1\n"
        "def gru(W, x, h):\n"
        "    z = sigmoid(W.z(h, x, bias=False))\n"
        "    r = sigmoid(W.r(h, x, bias=False))\n"
        "    n = tanh(W.n(r * h, x, bias=False))\n"
        "    h_new = (1 - z) * h + z * n\n"
        "    return h_new\n"
    )


def test_a_printed_cell_is_a_cell_that_python_can_run_too():
    """The text is the language itself: under @cell it gives the same graph."""
    for name in ZOO:
        graph = cw.cells.get(name).graph
        scope = {n: getattr(cw, n) for n in cw.__all__} | {"inf": math.inf}
        exec(graph.to_text(), scope)
        assert cell(scope[name]).graph == graph, name


# -- everything that the language has ------------------------------------------


def initial_values(W, x, h=0.5, m=-math.inf, k=-1.0):
    m = cw.maximum(m, W.a(h, x))
    return tanh(m), m, 0.5 * k + W.b(m)


def sizes(W, x, h: "memory_size", c: 3):  # noqa: F821
    c = tanh(W.a(h, c, x, size=3))
    return tanh(W.b(c, x, size="memory_size")), c


def weights(W, x, h):
    a = W.vector("a", init=0.5) * h + W.vector("b", size=1) * h + W.c * h
    s = W.scalar("s", init=-1.5) * a + W.scalar("t")
    gain = W.vector("g", init=0.0, size="input_size") * x
    return tanh(W.h(s, gain, bias=1.5, heads=2) + W.i(h, bias=False))


def vectors_alone(W, x, h):
    return tanh(W.a(h, x)) * (W.p * W.q) + W.p * 2 + 3 * W.q - W.r


def comparisons(W, x, h):
    v = W.a(h, x)
    a = where(v > 0, v, -1)
    b = where(v >= a, 0.25, v) + where(v < 2, a, where(v <= h, 1, 2))
    return tanh(where(a == b, v, h) + where(a != b, h, v))


def arithmetic(W, x, h):
    v = W.a(h, x)
    a = v - (h - v) - (v + h)
    b = v / (h / (v * h)) * (1 - v) / 2
    return tanh(-(a * b) - -a + -(-v) + (a + b) * -2 + 2 / (1 + v * v) - 1e-9)  # noqa: B002


def numbers(W, x, h):
    v = W.a(h, x)
    a = v + 1e300 - 1e-300 + 12345678901234567890 + 0.1 + 1 / 3
    return tanh(cw.minimum(a, math.inf) + cw.maximum(v, -math.inf) * -0.0)


def over_units(W, x, h):
    v = cw.layer_norm(W.a(h, x), eps=0.1, heads=2)
    return tanh(cw.softmax(v) * cw.sum(v * h) + cw.layer_norm(h))


def explicit_names(W, x, h):
    a = cw.name("first", h * sigmoid(W.f(h, x)))
    return tanh(cw.name("second", a * a) + W.g(a))


def read_twice_unnamed(W, x, h):
    a = h * h
    return tanh(a) + a * W.v(x)


def extra_output(W, x, h):
    h = tanh(W.h(h, x))
    return W.y(h, size="output_size"), h


def shared(W, x, h, c):
    return tanh(W.a(h, x)), sigmoid(W.a(c, x)) + tanh(W.a(h, x))


def names_like_functions(W, x, h):
    return W.tanh * sigmoid(W.sigmoid(h, x)) + tanh(W.name(h)) * sigmoid(W.inf(x))


def names_like_arguments(W, x, h):
    return sigmoid(W.x(h, x)) * tanh(W.v3(h)) + h * h * W.h_new(x)


def states_like_functions(W, x, tanh, v3):
    v3 = v3 * tanh
    return sigmoid(W.a(v3, tanh, x)) + v3 * v3, v3


def no_state(W, x):
    return tanh(W.a(x))


def swapped_states(W, x, a, b):
    return b, tanh(W.f(a, x))


def input_as_output(W, x, h):
    return x, tanh(W.a(h, x))


def default_before_none(W, x, h=1.0, c=0.0, m=-math.inf, n=5e-324, o=-0.0, p=1e300):
    v = W.f(h, x)
    return tanh(v) * c, tanh(W.g(c)), cw.maximum(m, v), n + h, o - h, p * tanh(v)


def defaults_and_sizes(W, x, h: 4 = 1.0, c: "memory_size" = 0.0):  # noqa: F821
    return tanh(W.f(h, x, size=4)), tanh(W.g(c, size="memory_size"))


def default_of_x(W, x=None, h=0.5):
    return tanh(W.f(h, x))


def order_of_two_uses(W, x, h, c):
    a, b = W.a(x), cw.identity(W.a(x))  # the second is read on an earlier line
    return tanh(a) + 0.3 * tanh(W.b(b)), sigmoid(b + b)


def order_of_an_operand(W, x, h):
    return tanh(W.a(h) - W.a(0.5 * h) + W.b(x))


def two_uses_of_a_states_name(W, x, h):
    early = W.h(0.5 * h)
    return tanh(W.h(h) + 0.5 * early)


def one_affine_of_two_gates(W, x, h):
    a = W.a(h)
    return sigmoid(a + W.b(x)) * tanh(a)


def dead_reader(W, x, h):
    a = W.a(h, x)
    sigmoid(a) * 2, a + 1
    return tanh(a)


def dead_weight_under_a_name(W, x, h):
    cw.name("f", 0.5 * h), W.f(x)
    return tanh(W.g(h, x))


def named_leaves(W, x, h):
    p, old = cw.name("gain", W.vector("p")), cw.name("old", h)
    return tanh(W.f(old, cw.name("new", x)) * p + W.p * h)


def named_condition(W, x, h):
    v = W.a(h, x)
    up = cw.name("up", v > 0)
    return where(up, v, 0.5 * h) + where(up, h, -v)


def words_of_python(W, x, h):
    v = cw.name("lambda", W.f(h, x) * h)
    return tanh(v + W.vector("class", init=0.5) * h + W.vector("for") * h)


def state_called_inf(W, x, h, inf=-math.inf):
    bounded = cw.minimum(inf, math.inf)
    return tanh(W.f(h, x)) * bounded, cw.maximum(inf, -math.inf)


def names_that_python_normalises(W, x, h):
    return tanh(cw.name("\ufb01", W.a(h, x) * h) + W.vector("\ufb01x") * h)


HALF = np.float64(0.5)


def numpy_numbers(W, x, h: np.int64(4) = HALF):
    a = cw.layer_norm(W.a(h, x, size=np.int64(4)), eps=np.float64(0.1), heads=2)
    return tanh(a * np.float32(0.25) + cw.layer_norm(h, eps=1))


def every_option(W, x, h):
    a = W.a(h, x, columns=cw.softmax, bias=math.inf)
    return tanh(a + W.b(h, columns=cw.layer_norm, bias=-2, heads=2))


def deeper_than_a_line(W, x, h):
    v = W.a(h, x)
    for _ in range(300):
        v = tanh(0.9 * v)
    for _ in range(300):
        v = v + 0.1 * h
    for _ in range(150):
        v = 1 - (h - v)
    return v


EVERYTHING = [
    initial_values,
    sizes,
    weights,
    vectors_alone,
    comparisons,
    arithmetic,
    numbers,
    over_units,
    explicit_names,
    read_twice_unnamed,
    extra_output,
    shared,
    names_like_functions,
    names_like_arguments,
    states_like_functions,
    no_state,
    swapped_states,
    input_as_output,
    default_before_none,
    defaults_and_sizes,
    default_of_x,
    order_of_two_uses,
    order_of_an_operand,
    two_uses_of_a_states_name,
    one_affine_of_two_gates,
    dead_reader,
    dead_weight_under_a_name,
    named_leaves,
    named_condition,
    words_of_python,
    state_called_inf,
    names_that_python_normalises,
    numpy_numbers,
    every_option,
    deeper_than_a_line,
]


@pytest.mark.parametrize("function", EVERYTHING, ids=lambda f: f.__name__)
def test_every_construct_prints_and_parses_to_an_equal_graph(function):
    graph = cell(function).graph
    text = graph.to_text()
    again = cw.Graph.from_text(text)
    assert again == graph, text
    assert again.to_text() == text
    assert again.names == graph.names
    assert again.explicit == graph.explicit
    assert repr(again.states) == repr(graph.states)  # == has 0.0 equal to -0.0


@pytest.mark.parametrize("function", EVERYTHING, ids=lambda f: f.__name__)
def test_a_bound_construct_prints_and_parses_under_the_same_names(function):
    graph = cell(function).graph
    bound = graph.bind(**dict.fromkeys(graph.size_names, 4))
    assert cw.Graph.from_text(bound.to_text()) == bound
    assert bound.names == graph.names


def test_names_follow_the_printed_lines():
    names = dict(cell(order_of_two_uses).graph.names)
    assert sorted(names) == ["a", "a.2", "b", "c", "h"]
    graph = cell(order_of_two_uses).graph
    assert graph.nodes[names["a"]].op == "identity"  # its line comes first
    graph = cell(two_uses_of_a_states_name).graph
    assert graph.values["h"] == graph.updates[0]
    assert graph.nodes[graph.values["h.2"]].op == "affine"
    assert "f" in [w.name for w in cell(dead_weight_under_a_name).graph.weights]
    graph = cell(dead_reader).graph
    assert graph.nodes[graph.values["a"]].op == "tanh"


@tree_cell(arity=2, states=("h", "c"))
def pair(W, x, left, right):
    f = sigmoid(W.f(left.h, right.h, x))
    return tanh(f * left.c + W.f(right.h, left.h, x)), f * right.c


@tree_cell(arity=2)
def words(W, x, inf, total):
    return tanh(W.a(inf.h, total.h, x) + cw.minimum(math.inf, W.b(x)))


@tree_cell
def sums(W, x, child, *, scale=0.3):
    s = W.s(child.h)
    gate = total(sigmoid(s) * child.h)
    return tanh(W.a(gate, x) + scale * total(s))


OTHERS = {
    "pair": pair,
    "words": words,
    "sums": sums,
    "partial": sums.partial(scale=2.0),
    "constant": cw.cells.lstm.replace(f=lambda v: 0.5),
    "negative": cw.cells.lstm.replace(f=lambda v: -(0 * v + sigmoid(v))),
    "several": cw.cells.lstm.replace(f=lambda v: 1.2 * sigmoid(v) - 0.1, g=cw.relu),
}


@pytest.mark.parametrize("name", [*OTHERS, *sorted(cw.cells.all_of_trees())])
def test_trees_and_cells_made_of_others_print_and_parse(name):
    graph = OTHERS.get(name, cw.cells.all_of_trees().get(name)).graph
    again = cw.Graph.from_text(graph.to_text())
    assert again == graph
    assert again.to_text() == graph.to_text()


def test_minus_a_number_is_the_number_that_is_written():
    """`-0.5` is how a text says both, and the number is what it reads."""

    def quarter(W, x, h: 3):
        return tanh(W.a(h, x, size=3)) * 0.25

    builder = Builder("minus")
    x, h = builder.add_input("x", "input_size"), builder.add_state("h", 3, 0.0)
    number = builder.apply(OPS["neg"], [builder.constant(-0.25)])
    affine = builder.affine("a", (h, x), size=3)
    gate = builder.apply(OPS["tanh"], [affine])
    graph = builder.finish((builder.apply(OPS["mul"], [gate, number]),))
    assert graph == cell(quarter).graph


@pytest.mark.parametrize("name", ["lstm", "gru", "mgu", "slstm", "star"])
def test_regularised_steps_print_and_parse(name):
    options = {"recurrent_dropout": 0.1, "zoneout": {"c": 0.1, "h": 0.3}}
    found = cw.cells.get(name)
    states = {s.name for s in found.states}
    options["zoneout"] = {n: p for n, p in options["zoneout"].items() if n in states}
    layer = cw.Recurrent(found, 3, 4, **options)
    wanted = Regularisers(**options)
    masks = masks_of(layer.graphs[0], wanted)
    for graph in (
        in_training(layer.graphs[0], masks),
        in_evaluation(layer.graphs[0], masks),
    ):
        assert cw.Graph.from_text(graph.to_text()) == graph


def test_a_pickled_layer_records_the_same_values_under_the_same_names():
    layer = cw.Recurrent(cell(order_of_an_operand), 3, 4, dtype=torch.float64)
    again = pickle.loads(pickle.dumps(layer))
    x = normal(2, 1, 3, seed=1)
    with cw.record(layer) as values:
        layer(x)
    with cw.record(again) as others:
        again(x)
    assert {"0.a", "0.a.2", "0.b", "0.h"} <= set(values)
    assert set(values) == set(others)
    for key in values:
        assert torch.equal(values[key], others[key]), key
    assert not torch.equal(values["0.a"], values["0.a.2"])


# -- what cannot be said in text is refused when it is made -------------------------


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda W, x, h=math.nan: tanh(W.a(h, x)), r"h is a number.*received nan"),
        (lambda W, x, h=10**400: tanh(W.a(h, x)), r"h is a number.*received 1000"),
        (lambda W, x, h: tanh(W.a(h, x)) * 10**400, r"constant.*received 1000"),
        (lambda W, x, h: tanh(W.a(h, x, bias=math.nan)), r"W\.a's bias.*nan"),
        (lambda W, x, h: tanh(W.a(h, x, bias="1.0x")), r"W\.a's bias.*1\.0x"),
        (lambda W, x, h: tanh(W.a(x)) * W.vector("p", init=math.nan), "init.*nan"),
        (lambda W, x, h: cw.layer_norm(W.a(x), eps=math.nan), "eps.*received nan"),
        (lambda W, x, h: tanh(W.a(h, x, size=0)), "size of W.a.*received 0"),
        (lambda W, x, h: tanh(W.a(h, x, size="a b")), "size of W.a.*received 'a b'"),
        (lambda W, x, h: tanh(getattr(W, "lambda")(h, x)), "printed form.*is refused"),
        (lambda W, u, x: tanh(W.a(u) + W.b(x)), "the input x.*received.*'x'"),
        (lambda w, x, W: tanh(w.a(W, x)), "weights are called W.*received.*'W'"),
    ],
)
def test_a_cell_that_has_no_text_is_refused_when_it_is_made(function, words):
    with pytest.raises(cw.CellError, match=words) as caught:
        cell(function)
    assert "test_graph_text.py" in str(caught.value)


def test_a_tree_that_has_no_text_is_refused_when_it_is_made():
    with pytest.raises(cw.CellError, match=r"printed form.*is refused"):

        @tree_cell(states=("h", "class"))
        def node(W, x, child):
            return tanh(W.a(total(child.h), x)), W.b(total(getattr(child, "class")))


def test_a_text_that_says_another_graph_is_refused(monkeypatch):
    """Whatever the printer gets wrong shows when a cell is made."""
    monkeypatch.setattr(printer, "_number", lambda value: "7")
    with pytest.raises(cw.CellError, match=r"printed form.*is another cell"):
        cell(lambda W, x, h: tanh(W.a(h, x)) * 0.5)
    with pytest.raises(cw.CellError, match=r"printed form.*is another cell"):
        cw.cells.lstm.replace(f=lambda v: 0.25 * v)


# -- texts of released versions ------------------------------------------------------

RELEASED = [
    "# cellwright cell" + part
    for part in (Path(__file__).parent / "printed_cells.txt")
    .read_text("utf-8")
    .split("# cellwright cell")[1:]
]


def python_function(text):
    """The text as the Python that it is."""
    scope = {n: getattr(cw, n) for n in cw.__all__} | {"inf": math.inf}
    scope["tree_cell"] = lambda **options: lambda function: function
    exec(text, scope)
    return scope[re.search(r"def (\w+)", text)[1]]


@pytest.mark.parametrize("text", RELEASED, ids=lambda t: re.search(r"def (\w+)", t)[1])
def test_a_text_of_version_0_1_is_read_and_computes_what_it_says(text):
    graph = cw.Graph.from_text(text)
    assert cw.Graph.from_text(graph.to_text()) == graph
    bound = graph.bind(**dict.fromkeys(graph.size_names, 4))
    W = randomise(CellWeights(bound, 4, dtype=torch.float64))
    seeds = iter(range(1, 99))
    inputs = {i.name: normal(2, int(i.size), seed=next(seeds)) for i in bound.inputs}
    labels = [n.label for n in bound.nodes if n.op == "state"]
    sizes = {n.label: int(n.size) for n in bound.nodes if n.op == "state"}
    rows = (2, 1) if bound.many else (2,)
    states = {name: normal(*rows, sizes[name], seed=next(seeds)) for name in labels}
    if bound.many:
        inputs = {name: value[:, None] for name, value in inputs.items()}
    found = bound.results(evaluate(bound, W, inputs, states))
    arguments = list(states.values())
    if bound.children:
        arguments = [
            SimpleNamespace(**{s.name: states[f"{c}.{s.name}"] for s in bound.states})
            for c in bound.children
        ]
    x, named = inputs.pop("x"), inputs
    expected = python_function(text)(W, x, *arguments, **named)
    found, expected = (v if isinstance(v, tuple) else (v,) for v in (found, expected))
    for value, by_python in zip(found, expected, strict=True):
        assert_close(value, by_python)


def test_names_of_a_released_text_follow_its_lines():
    """As version 0.1 gave them, when it read its own text."""
    named = {re.search(r"def (\w+)", t)[1]: cw.Graph.from_text(t) for t in RELEASED}
    assert [n for n, _ in named["moved_order"].names] == ["w1", "c", "w1.2", "w2", "h"]
    assert [n for n, _ in named["moved_names"].names] == ["a", "b", "a.2", "h"]
    assert [n for n, _ in named["unread"].names] == ["b", "c", "a", "h"]


def test_named_inputs_print_and_parse():
    @cell(inputs={"dt": 1})
    def timed(W, x, h, dt, *, mass, scale=2.0):
        return h + dt * tanh(W.a(h, x, mass)) * scale

    graph = timed.graph
    assert cw.Graph.from_text(graph.to_text()) == graph
    assert [(i.name, i.size) for i in graph.inputs] == [
        ("x", "input_size"),
        ("dt", 1),
        ("mass", "mass_size"),
    ]


def test_an_input_called_input_prints_and_parses():
    """Its size has the name that the size of x has."""

    @cell
    def unit(W, x, h, *, input):
        return tanh(W.h(h, x, input))

    again = cw.Graph.from_text(unit.to_text())
    assert again == unit.graph
    assert [(i.name, i.size) for i in again.inputs] == [
        ("x", "input_size"),
        ("input", "input_size"),
    ]


def test_a_parsed_cell_with_named_inputs_runs_and_checks_their_size():
    @cell
    def timed(W, x, h, *, dt):
        return h + dt * tanh(W.a(h, x))

    again = cw.Cell.from_text(timed.to_text())
    options = {"engine": "reference", "dtype": torch.float64}
    layer = randomise(cw.Recurrent(again, 3, 4, inputs={"dt": 1}, **options))
    other = cw.Recurrent(timed, 3, 4, inputs={"dt": 1}, **options)
    other.load_state_dict(layer.state_dict())
    x, dt = normal(2, 2, 3, seed=1), normal(2, 2, 1, seed=2)
    assert_close(layer(x, dt=dt)[0], other(x, dt=dt)[0])

    fixed = cw.Cell.from_text(timed.with_inputs({"dt": 1}).to_text())
    with pytest.raises(cw.CellwrightError, match="dt"):
        cw.Recurrent(fixed, 3, 4, inputs={"dt": 3})
    with pytest.raises(cw.CellError, match=r"no input 'mass'.*'dt'"):
        cw.Recurrent(fixed, 3, 4, inputs={"mass": 1})


def test_hyperparameters_are_bound_in_the_text():
    text = cw.cells.leaky_rnn.partial(alpha=0.3).to_text()
    assert "0.7 * h + 0.3 * n" in text
    assert cw.Cell.from_text(text).hyperparameters == {}


def test_a_name_on_an_old_state_prints_and_parses():
    """A name of a leaf: kept in the text, or refused when it is given."""
    try:

        @cell
        def peeking(W, x, h):
            cw.name("old", h)
            return tanh(W.h(h, x))

    except cw.CellError:
        return
    assert cw.Graph.from_text(peeking.to_text()) == peeking.graph


def test_two_names_of_one_value_print_and_parse():
    try:

        @cell
        def twice_named(W, x, h):
            v = cw.name("b", cw.name("a", sigmoid(W.u(h, x))))
            return tanh(W.g(h, x)) * v

    except cw.CellError:
        return
    assert cw.Graph.from_text(twice_named.to_text()) == twice_named.graph


def test_nan_is_no_number_of_a_cell():
    with pytest.raises(cw.CellError, match=r"test_graph_text\.py:\d+.*received nan"):

        @cell
        def strange(W, x, h):
            return tanh(W.a(h, x)) * math.nan


def test_a_lambda_prints_and_parses():
    anonymous = cell(lambda W, x, h: tanh(W.h(h, x)))
    assert anonymous.graph == cw.cells.rnn.graph
    assert cw.Graph.from_text(anonymous.to_text()) == anonymous.graph
    layer = pickle.loads(pickle.dumps(cw.Recurrent(anonymous, 3, 4)))
    assert layer.cell.graph == anonymous.graph


def test_a_cell_is_pickled_and_copied_as_its_text():
    original = cw.cells.lstm
    again = pickle.loads(pickle.dumps(original))
    assert again.function is None
    assert again.graph == original.graph
    assert again.name == "lstm"
    assert again.__doc__ == original.__doc__
    assert copy.deepcopy(original) is original
    assert copy.copy(original) is original


# -- foreign, truncated, newer -------------------------------------------------

GOOD = cw.cells.lstm.to_text()


def refused(text, *words):
    with pytest.raises(cw.CellError) as caught:
        cw.Graph.from_text(text)
    for word in ("printed cell", *words):
        assert word in str(caught.value), caught.value


@pytest.mark.parametrize("text", ["", "\n", "hello", "{}", GOOD[1:], GOOD[20:]])
def test_text_without_the_header_is_refused(text):
    refused(text, "does not start", "'# cellwright cell 1'")


@pytest.mark.parametrize("version", ["", "x", "1.0", "-1", "1 "])
def test_a_version_that_is_no_number_is_refused(version):
    refused(GOOD.replace("cell 1\n", f"cell {version}\n", 1), "does not start")


def test_a_newer_version_is_refused_with_the_remedy():
    refused(GOOD.replace("cell 1\n", "cell 4\n", 1), "newer", "Update cellwright")


def test_no_truncation_of_a_printed_cell_is_read_as_another_cell():
    """Cut anywhere: refused, or only the last line's end was lost."""
    whole = cw.Graph.from_text(GOOD)
    for end in range(len(GOOD) - 1):
        try:
            found = cw.Graph.from_text(GOOD[:end])
        except cw.CellError:
            continue
        assert found == whole, GOOD[:end]


@pytest.mark.parametrize(
    "body",
    [
        "import os\n    return tanh(W.h(h, x))",
        "open('owned', 'w')\n    return tanh(W.h(h, x))",
        "a = __import__('os').system('touch owned')\n    return tanh(W.h(h, x))",
        "a = W.__class__\n    return tanh(W.h(h, x))",
        "a = h.__class__\n    return tanh(W.h(h, x))",
        "a = eval('1')\n    return tanh(W.h(h, x))",
        "a = [h for h in x]\n    return tanh(W.h(h, x))",
        "a = (lambda: h)()\n    return tanh(W.h(h, x))",
        "a = f'{h}'\n    return tanh(W.h(h, x))",
        "a = h if x else h\n    return tanh(W.h(h, x))",
        "a: int = h\n    return tanh(W.h(h, x))",
        "a, b = h, x\n    return tanh(W.h(h, x))",
        "a = b = h\n    return tanh(W.h(h, x))",
        "a += h\n    return tanh(W.h(h, x))",
        "if h: pass\n    return tanh(W.h(h, x))",
        "return tanh(W.h(h, x))\n    return h",
        "return",
        "pass",
        "h",
        "return tanh(unknown)",
        "return unknown(W.h(h, x))",
        "return tanh(W.h(h, x), h)",
        "return tanh(h, eps=1)",
        "return tanh(W.h(h, **x))",
        "return tanh(W.h(*h))",
        "return tanh(W.h(h, x, color=1))",
        "return tanh(W.h(h, x)) ** 2",
        "return tanh(W.h(h, x)) @ h",
        "return tanh(W.h(h, x))[0]",
        "return 0 < h < x",
        "return not h",
        "return ~h",
        "return tanh(W)",
        "return tanh(W.vector(h))",
        "return tanh(W.vector('a', 'b'))",
        "return tanh(W.h(h, x, size=W))",
        "return 'text'",
        "return tanh(W.h(h, x)), h, h",
        "return block_mean(W.h(h, x))",
        "return add(h, x)",
        "return tanh(True)",
        "return tanh(None)",
    ],
)
def test_a_body_outside_the_language_is_refused_and_nothing_is_run(
    body, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    text = f"{HEADER}def c(W, x, h):\n    {body}\n"
    with pytest.raises(cw.CellError):
        cw.Graph.from_text(text)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "x = 1",
        "class c: pass",
        "def c(W, x, h): return tanh(W.h(h, x))\nimport os",
        "async def c(W, x, h): return tanh(W.h(h, x))",
        "def c(W): return W.a",
        "def c(W, x, *h): return tanh(W.a(x))",
        "def c(W, x, **h): return tanh(W.a(x))",
        "def c(W, x, /, h): return tanh(W.a(h, x))",
        "def c(W, x, h=print()): return tanh(W.a(h, x))",
        "def c(W, x, h: print()): return tanh(W.a(h, x))",
        "def c(W, x=1, h=1): return tanh(W.a(h, x))",
        "@print\ndef c(W, x, h): return tanh(W.a(h, x))",
        "def c(W, x, h='a'): return tanh(W.a(h, x))",
        "def c(W, x, h: 1.5): return tanh(W.a(h, x))",
        "def c(W, x, h) -> print(): return tanh(W.a(h, x))",
        "\x00",
        "def c(W, x, h:",
    ],
)
def test_other_python_is_refused(text):
    with pytest.raises(cw.CellError):
        cw.Graph.from_text(HEADER + text)


def test_an_unreadable_line_is_named():
    text = f"{HEADER}def c(W, x, h):\n    a = h\n    b = h ** 2\n    return tanh(a)\n"
    refused(text, "line 4", "h ** 2")


def test_a_changed_text_is_another_cell():
    other = cw.Graph.from_text(GOOD.replace("tanh(W.g", "sigmoid(W.g"))
    assert other != cw.cells.lstm.graph


def test_a_stored_layer_names_the_file_of_its_cell_and_no_directory():
    @cell
    def mine(W, x, h):
        return tanh(W.h(h, x) + W.p * h)

    layer = cw.Recurrent(mine, 3, 4)
    assert __file__ in layer.graphs[0].nodes[-1].source
    data = pickle.dumps(layer)
    assert os.path.dirname(__file__).encode() not in data
    (graph,) = pickle.loads(data).graphs
    assert graph.nodes[-1].source.startswith("test_graph_text.py:")
    assert graph == layer.graphs[0]


OLDER = (
    HEADER
    + """def older(W, x, h):
    a = tanh(W.matrix(h, x))
    return a * W.gain
"""
)


def test_a_weight_called_matrix_is_one_as_before_w_matrix_was_there():
    assert cw.Graph.from_text(OLDER).weight("matrix").kind == "matrix"

    @cell
    def older(W, x, h):
        return tanh(W.matrix(h, x)) * W.gain

    @cell
    def another(W, x, h):
        return tanh(W.gain(h, x)) * W.matrix

    for used in (older, another):
        assert cw.Graph.from_text(used.graph.to_text()) == used.graph
        x = normal(4, 2, 3, seed=1, grad=False)
        found = []
        for engine in ("native", "reference"):
            layer = cw.Recurrent(used, 3, 4, engine=engine, dtype=torch.float64)
            found.append(randomise(layer)(x)[0])
        assert_close(*found)
        W, h = copy.deepcopy(layer).cells[0], torch.zeros(2, 4, dtype=torch.float64)
        assert_close(used(W, x[0], h), found[0][0])
