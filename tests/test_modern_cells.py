"""The cells since 2015 against steps written by hand; what each of them promises."""

import inspect
import math
import re

import pytest
import torch

import cellwright as cw
import oracles_modern
from cellwright.language.evaluate import evaluate
from cellwright.look.check import check_cell
from oracles import (
    assert_close,
    assert_same_values_and_gradients,
    flat,
    leaves_of,
    normal,
    random_cotangents,
    randomise,
)
from oracles_modern import STEPS

T, B, X, H = 5, 3, 5, 4
ZOO = sorted(STEPS)
CASES = [
    *((name, {}) for name in ZOO),
    ("slstm", {"heads": 2}),
    ("slstm", {"heads": 2, "exponential_forget": True}),
    ("lem", {"dt": 0.3}),
    ("min_gru", {"positive": True}),
    ("min_lstm", {"positive": True}),
    ("rg_lru", {"heads": 2}),
    ("rhn", {"depth": 2}),
    ("scrn", {"alpha": 0.4}),
    ("cornn", {"dt": 0.4, "gamma": 0.7, "epsilon": 1.3}),
    ("unicornn", {"dt": 0.7, "alpha": 0.4}),
    ("ltc", {"unfolds": 2}),
    ("antisymmetric", {"epsilon": 0.7, "gamma": 0.3}),
    ("gated_antisymmetric", {"epsilon": 0.7, "gamma": 0.3}),
]
IDS = ["-".join([name, *options]) for name, options in CASES]


STACK = ("num_layers", "bidirectional")


def make(name, cell=None, **options):
    """A layer with asymmetric weights; x, initial states and named inputs for it."""
    cell = cw.cells.get(name) if cell is None else cell
    layer = cw.Recurrent(cell, X, H, engine="reference", dtype=torch.float64, **options)
    randomise(layer, scale={"cfc": 1.5, "rhn": 1.5}.get(name, 0.4))
    count = len(layer.cells)
    labels = [s.name for s in layer.cell.states]
    states = [
        normal(count, B, X if label == "past" else H, seed=50 + k)
        for k, label in enumerate(labels)
    ]
    if name == "rg_lru":  # slow enough that the first state is seen in the last
        for W in layer.cells:
            W.decay.data.sub_(3)
    if name == "scrn":  # the same of h
        for W in layer.cells:
            W.h.weight.data[:, -H:].mul_(5)
    for label, state in zip(labels, states, strict=True):
        if (name, label) in (("slstm", "n"), ("mc_lstm", "c")):  # these are positive
            state.data.abs_().add_(0.5)
    mass = normal(T, B, 1, seed=8).detach().abs().add(0.2).requires_grad_()
    return layer, normal(T, B, X, seed=1), states, mass_of(name, mass)


def mass_of(name, mass):
    label = {"mc_lstm": "mass", "cfc": "dt", "ltc": "dt"}.get(name)
    return {label: mass} if label else {}


def as_argument(states):
    return states[0] if len(states) == 1 else tuple(states)


def oracle_options(options):
    return {k: v for k, v in options.items() if k not in ("heads", *STACK)}


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
@pytest.mark.parametrize("layers", [1, 2])
def test_values_and_every_gradient_equal_the_hand_written_loop(name, options, layers):
    """One layer forward; then two layers in both directions."""
    stack = {"num_layers": layers, "bidirectional": layers > 1}
    if name == "qrnn":  # a state of the input's size is one of one layer
        stack["num_layers"] = 1
    layer, x, states, named = make(name, **options, **stack)
    assert_same_values_and_gradients(
        lambda: layer(x, as_argument(states), **named),
        lambda: oracles_modern.layers(
            STEPS[name],
            layer.cells,
            x,
            states,
            named,
            directions=layer.directions,
            **oracle_options(options),
        ),
        {**leaves_of(layer, x, states), **named},
    )


@pytest.mark.parametrize("name", ZOO)
def test_without_initial_states_a_cell_starts_from_its_own(name):
    layer, x, states, named = make(name)
    starts = [
        torch.full_like(s, -math.inf if (name, k) == ("slstm", 3) else 0.0)
        for k, s in enumerate(states)
    ]
    leaves = {"x": x, **dict(layer.named_parameters()), **named}
    assert_same_values_and_gradients(
        lambda: layer(x, **named),
        lambda: oracles_modern.layers(STEPS[name], layer.cells, x, starts, named),
        leaves,
    )


@pytest.mark.parametrize("name", ZOO)
def test_the_last_state_depends_on_every_initial_state(name):
    layer, x, states, named = make(name)
    _, finals = layer(x, as_argument(states), **named)
    last = flat(finals)[0]
    cotangent = random_cotangents([last])[0]
    found = torch.autograd.grad(last, states, cotangent)
    assert all(float(g.norm() / cotangent.norm()) > 1e-3 for g in found)


@pytest.mark.parametrize("name", ZOO)
def test_the_tables_derivatives_and_finite_differences_agree_with_autograd(name):
    found = check_cell(cw.cells.get(name), 3, 4, steps=5, seed=1)
    assert found.autograd_error < 1e-10
    assert found.difference_error < 1e-5
    assert not found.silent


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_the_printed_and_parsed_cell_and_its_graph_equal_the_function(name, options):
    layer, x, states, named = make(name, **options)
    W, cell = layer.cells[0], layer.cell
    again = cw.Cell.from_text(cell.to_text())
    assert again.function is None
    assert again.graph == cell.graph
    olds = [s[0] for s in states]
    now = {n: v[0] for n, v in named.items()}
    leaves = {"x": x, **dict(zip([s.name for s in cell.states], states, strict=True))}
    leaves |= {**dict(W.named_parameters()), **named}
    assert_same_values_and_gradients(
        lambda: again(W, x[0], *olds, **now),
        lambda: cell(W, x[0], *olds, **now),
        leaves,
    )
    graph = layer.graphs[0]
    labelled = dict(zip([s.name for s in graph.states], olds, strict=True))
    values = evaluate(graph, W, {"x": x[0], **now}, labelled)
    expected = flat(cell(W, x[0], *olds, **now))
    numbers = graph.updates if graph.output_is_state else (graph.output, *graph.updates)
    for number, by_function in zip(numbers, expected, strict=True):
        assert_close(values[number], by_function)


@pytest.mark.parametrize("name", ZOO)
def test_a_cell_is_at_most_a_dozen_lines_and_names_its_source(name):
    cell = cw.cells.get(name)
    body = inspect.getsource(cell.function).split('"""')[-1].strip().splitlines()
    assert len(body) <= 12
    assert any(digit in cell.__doc__ for digit in "12")  # a year, an equation
    assert cell.__name__ == name


@pytest.mark.parametrize("name", ZOO)
def test_no_cell_is_taken_for_one_that_torch_has(name):
    assert make(name)[0].direction(0).bound.layout is None


# -- sLSTM ---------------------------------------------------------------------


@pytest.mark.parametrize("exponential_forget", [False, True])
def test_the_stabilised_slstm_equals_the_plain_equations(exponential_forget):
    """m cancels: from m = 0 on, c and n are e^m times the stabilised ones."""
    options = {"heads": 2, "exponential_forget": exponential_forget}
    layer, x, (h, c, n, m), _ = make("slstm", **options)
    y, finals = layer(x, (h, c, n, torch.zeros_like(m)))
    plain, plain_finals = oracles_modern.layers(
        oracles_modern.slstm_unstabilised,
        layer.cells,
        x,
        (h, c, n),
        {},
        exponential_forget=exponential_forget,
    )
    assert_close(y, plain)
    scale = torch.exp(finals[3])
    assert_close(finals[1] * scale, plain_finals[1])
    assert_close(finals[2] * scale, plain_finals[2])


def test_the_slstm_does_not_overflow_where_the_plain_equations_do():
    layer, x, _, _ = make("slstm", exponential_forget=True)
    large = (300 * x).detach().requires_grad_()
    y, finals = layer(large)
    assert all(torch.isfinite(v).all() for v in (y, *finals))
    found = torch.autograd.grad(y.sum(), [large, *layer.parameters()])
    assert all(torch.isfinite(g).all() for g in found)
    zeros = [torch.zeros(1, B, H, dtype=torch.float64)] * 3
    plain, _ = oracles_modern.layers(
        oracles_modern.slstm_unstabilised,
        layer.cells,
        large,
        zeros,
        {},
        exponential_forget=True,
    )
    assert not torch.isfinite(plain).all()


def test_heads_of_the_slstm_do_not_see_each_other():
    layer, x, states, _ = make("slstm", heads=2)
    assert layer.cells[0].r_z.weight.shape == (2, 2, 2)
    h = states[0]
    y, _ = layer(x[:1], tuple(states))
    (found,) = torch.autograd.grad(y[0, 0, :2].sum(), h)
    assert found[0, 0, :2].all()
    assert not found[0, 0, 2:].any()


# -- the mass-conserving LSTM --------------------------------------------------


def test_mass_that_comes_in_is_stored_or_goes_out():
    layer, x, (c,), named = make("mc_lstm")
    out, stored = layer(x, c, **named)
    before = c[0].sum(-1) + named["mass"].sum((0, 2))
    assert_close(out.sum((0, 2)) + stored[0].sum(-1), before)
    assert (out >= 0).all()
    assert (stored >= 0).all()


def test_an_empty_store_without_mass_stays_empty():
    layer, x, _, named = make("mc_lstm")
    out, stored = layer(x, mass=torch.zeros_like(named["mass"]))
    assert not out.any()
    assert not stored.any()


def test_its_named_input_is_asked_for_by_name():
    layer, x, _, _ = make("mc_lstm")
    with pytest.raises(cw.ArgumentError, match=r"takes the input 'mass' at every step"):
        layer(x)


# -- columns= ------------------------------------------------------------------


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("function", [cw.softmax, cw.exp, cw.tanh, cw.layer_norm])
def test_columns_go_through_any_function_that_keeps_their_size(function, heads):
    @cw.cell
    def mixed(W, x, h):
        return cw.tanh(W.r(h, columns=function, heads=heads) + W.x(x))

    layer, x, states, _ = make("mixed", mixed)
    in_torch = {
        "softmax": lambda w: oracles_modern.softmax(w, -2),
        "exp": torch.exp,
        "tanh": torch.tanh,
        "layer_norm": lambda w: (
            oracles_modern.normalised(w.mT.flatten(0, -2))
            .unflatten(0, w.mT.shape[:-1])
            .mT
        ),
    }[function.name]

    def step(W, x, h):
        made = oracles_modern._dense(in_torch(W.r.weight))
        h = torch.tanh(h @ made.T + W.r.bias + x @ W.x.weight.T + W.x.bias)
        return h, [h]

    assert_same_values_and_gradients(
        lambda: layer(x, states[0]),
        lambda: oracles_modern.layers(step, layer.cells, x, states, {}),
        leaves_of(layer, x, states),
    )
    again = cw.Cell.from_text(mixed.to_text())
    assert f"columns={function.name}" in mixed.to_text()
    assert again.graph == mixed.graph
    assert again.graph.bind(input_size=2, hidden_size=4).weight("r").columns
    assert check_cell(mixed, 3, 4, steps=2).autograd_error < 1e-10


def test_a_column_of_a_softmax_matrix_sums_to_one():
    layer, *_ = make("mc_lstm")
    ones = torch.ones(H, dtype=torch.float64)
    assert_close(layer.cells[0].r.matrix.sum(0), ones)
    assert "columns=softmax" in repr(layer)
    assert r"\operatorname{softmax}(W_{r}) \cdot c_{t-1}" in (layer.cell.latex())


@pytest.mark.parametrize("wrong", [cw.sum, cw.maximum, torch.softmax, "softmax", True])
def test_what_no_column_can_go_through_is_refused(wrong):
    with pytest.raises(cw.CellError, match=r"W\.r: columns= .* such as softmax"):

        @cw.cell
        def bad(W, x, h):
            return cw.tanh(W.r(h, columns=wrong) + W.x(x))


def test_one_name_has_one_way_to_make_its_columns():
    with pytest.raises(cw.SizeError, match="its columns must be the same"):

        @cw.cell
        def bad(W, x, h):
            return cw.tanh(W.r(h, columns=cw.softmax) + W.r(W.x(x)))


def test_a_printed_cell_with_unknown_columns_is_refused():
    text = cw.cells.mc_lstm.to_text().replace("columns=softmax", "columns=print")
    with pytest.raises(cw.CellError, match="is not of the cell language"):
        cw.Cell.from_text(text)


# -- antisymmetric= ----------------------------------------------------------------


@pytest.mark.parametrize("heads", [1, 2])
def test_an_antisymmetric_matrix_is_its_weight_less_the_transposed_one(heads):
    @cw.cell
    def turning(W, x, h):
        return cw.tanh(W.a(h, heads=heads, antisymmetric=True) + W.x(x))

    layer, x, states, _ = make("turning", turning)
    native = cw.Recurrent(turning, X, H, engine="native", dtype=torch.float64)
    native.load_state_dict(layer.state_dict())

    def step(W, x, h):
        dense = oracles_modern._dense(W.a.weight)
        inside = h @ (dense.T - dense) + W.a.bias  # (A − Aᵀ)ᵀ
        h = torch.tanh(inside + x @ W.x.weight.T + W.x.bias)
        return h, [h]

    for own in (layer, native):
        assert_same_values_and_gradients(
            lambda own=own: own(x, states[0]),
            lambda own=own: oracles_modern.layers(step, own.cells, x, states, {}),
            leaves_of(own, x, states),
        )
    assert "antisymmetric=True" in turning.to_text()
    assert "antisymmetric=True" in repr(layer)
    again = cw.Cell.from_text(turning.to_text())
    assert again.graph == turning.graph
    assert again.graph.bind(input_size=2, hidden_size=4).weight("a").antisymmetric
    assert check_cell(turning, 3, 4, steps=2).autograd_error < 1e-10


@pytest.mark.parametrize("name", ["antisymmetric", "gated_antisymmetric"])
def test_antisymmetric_cells_have_a_matrix_that_only_turns(name):
    layer, *_ = make(name)
    matrix = layer.cells[0].a.matrix.detach()
    assert torch.equal(matrix, -matrix.T)
    assert torch.linalg.eigvals(matrix).real.abs().max() < 1e-12
    assert r"(W_{a} - W_{a}^\top) \cdot h_{t-1}" in layer.cell.latex()


@pytest.mark.parametrize(
    ("operands", "options", "message"),
    [
        ("hx", {}, r"square, .* received operands of \(hidden_size, input_size\)"),
        ("h", {"size": 3}, r"for a size of 3, expected one of that size"),
        ("h", {"columns": cw.softmax}, r"and columns=softmax"),
        ("h", {"antisymmetric": 1}, r"received 1, expected True or False"),
    ],
)
def test_what_cannot_be_antisymmetric_is_refused(operands, options, message):
    with pytest.raises(cw.CellError, match=message):

        @cw.cell
        def bad(W, x, h):
            given = [{"h": h, "x": x}[name] for name in operands]
            return cw.tanh(W.a(*given, **{"antisymmetric": True, **options}) + W.x(x))


def test_latex_has_one_subscript_a_symbol():
    """`r_{z}_t` is an error of LaTeX's."""
    text = cw.cells.rhn.latex()
    assert "t_{0, t} &= \\sigma(W_{t_{0}} \\cdot [h_{t-1}, x_t]" in text
    for written in (text, cw.cells.slstm.latex(), cw.cells.bahdanau_gru.latex()):
        assert not re.search(r"_\{[^{}]*\}_", written)
    assert "10^{-5}" in cw.cells.mc_lstm.latex()
