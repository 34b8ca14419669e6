"""Every cell of the zoo against a step written by hand from its paper."""

import inspect

import pytest
import torch
from torch import nn

import cellwright as cw
import oracles
from cellwright.language.evaluate import evaluate
from oracles import (
    PARAMETERS,
    STATES,
    STEPS,
    assert_close,
    assert_same_values_and_gradients,
    gradients,
    leaves_of,
    normal,
    randomise,
)
from oracles_modern import STEPS as MODERN

T, B, X, H, P = 5, 3, 5, 4, 3
ZOO = sorted(STEPS)


def make(name, cell=None, **options):
    """A layer of the reference engine with asymmetric weights, x, initial states."""
    cell = cw.cells.get(name) if cell is None else cell
    if name == "lstm_projected":
        options.setdefault("proj_size", P)
    layer = cw.Recurrent(cell, X, H, engine="reference", dtype=torch.float64, **options)
    randomise(layer)
    if name in ("rnn_relu", "indrnn"):  # most units alive, or nothing flows
        with torch.no_grad():
            for W in layer.cells:
                W.h.bias.abs_().add_(1.5)
    count = len(layer.cells)
    sizes = [P if name == "lstm_projected" else H] + [H] * (STATES.get(name, 1) - 1)
    states = [normal(count, B, s, seed=50 + k) for k, s in enumerate(sizes)]
    return layer, normal(T, B, X, seed=1), states


def as_argument(states):
    return states[0] if len(states) == 1 else tuple(states)


def by_hand(name, layer, x, states, **options):
    return lambda: oracles.layers(
        STEPS[name],
        layer.cells,
        x,
        states,
        bidirectional=layer.bidirectional,
        **options,
    )


def test_every_cell_of_the_zoo_has_an_oracle_and_the_subject_is_complete():
    assert set(cw.cells.all()) == set(STEPS) | set(MODERN)
    assert set(STEPS) == set(PARAMETERS)


@pytest.mark.parametrize("name", ZOO)
def test_parameters_have_the_names_and_shapes_of_the_equations(name):
    sizes = {"proj_size": P} if name == "lstm_projected" else {}
    layer = cw.Recurrent(name, X, H, engine="reference", **sizes)
    found = {n: tuple(p.shape) for n, p in layer.cells[0].named_parameters()}
    assert found == PARAMETERS[name]
    assert layer.graphs[0].parameters() == found


@pytest.mark.parametrize("name", ZOO)
def test_values_and_every_gradient_equal_the_hand_written_loop(name):
    layer, x, states = make(name)
    assert_same_values_and_gradients(
        lambda: layer(x, as_argument(states)),
        by_hand(name, layer, x, states),
        leaves_of(layer, x, states),
    )


@pytest.mark.parametrize("name", ZOO)
def test_two_layers_in_both_directions_equal_the_hand_written_loops(name):
    layer, x, states = make(name, num_layers=2, bidirectional=True)
    assert len(layer.cells) == 4
    assert_same_values_and_gradients(
        lambda: layer(x, as_argument(states)),
        by_hand(name, layer, x, states),
        leaves_of(layer, x, states),
    )


@pytest.mark.parametrize("name", ZOO)
def test_without_initial_states_a_cell_starts_from_zero(name):
    layer, x, states = make(name)
    zeros = [torch.zeros_like(s) for s in states]
    y, finals = layer(x)
    expected_y, expected = by_hand(name, layer, x, zeros)()
    assert_close(y, expected_y)
    for final, by_hand_ in zip(oracles.flat(finals), expected, strict=True):
        assert_close(final, by_hand_)


@pytest.mark.parametrize("name", ZOO)
def test_the_last_state_depends_on_every_initial_state(name):
    """Or the tests above would not test the recurrence."""
    layer, x, states = make(name)
    _, finals = layer(x, as_argument(states))
    last = oracles.flat(finals)[0]
    cotangent = oracles.random_cotangents([last])[0]
    found = torch.autograd.grad(last, states, cotangent)
    assert all(float(g.norm() / cotangent.norm()) > 1e-3 for g in found)


@pytest.mark.parametrize("name", ZOO)
def test_gradients_equal_finite_differences(name):
    cell = cw.cells.get(name)
    sizes = {"proj_size": 1} if name == "lstm_projected" else {}
    layer = cw.Recurrent(cell, 2, 2, engine="reference", dtype=torch.float64, **sizes)
    randomise(layer, seed=11)
    widths = [int(s.size) for s in layer.graphs[0].states]
    x = normal(2, 1, 2, seed=2)
    states = [normal(1, 1, w, seed=60 + k) for k, w in enumerate(widths)]
    names, weights = zip(*layer.named_parameters(), strict=True)

    def run(x, *rest):
        given = dict(zip(names, rest[len(states) :], strict=True))
        start = as_argument(rest[: len(states)])
        y, finals = torch.func.functional_call(layer, given, (x, start))
        return (y, *oracles.flat(finals))

    assert torch.autograd.gradcheck(run, (x, *states, *weights))


# -- one step: function, graph, text -------------------------------------------


def one_step(name):
    layer, x, states = make(name)
    return layer, layer.cells[0], x[0], [s[0] for s in states]


@pytest.mark.parametrize("name", ZOO)
def test_the_graph_evaluated_equals_the_function_called(name):
    layer, W, x, states = one_step(name)
    cell, graph = layer.cell, layer.cell.graph
    labels = [s.name for s in graph.states]

    def by_graph():
        values = evaluate(graph, W, {"x": x}, dict(zip(labels, states, strict=True)))
        return [values[n] for n in graph.updates]

    leaves = {"x": x, **dict(zip(labels, states, strict=True))}
    leaves |= dict(W.named_parameters())
    assert_same_values_and_gradients(by_graph, lambda: cell(W, x, *states), leaves)


@pytest.mark.parametrize("name", ZOO)
def test_the_printed_and_parsed_cell_equals_the_function_called(name):
    layer, W, x, states = one_step(name)
    again = cw.Cell.from_text(layer.cell.to_text())
    assert again.function is None
    assert again.graph == layer.cell.graph
    leaves = {"x": x, **{f"state {k}": s for k, s in enumerate(states)}}
    leaves |= dict(W.named_parameters())
    assert_same_values_and_gradients(
        lambda: again(W, x, *states), lambda: layer.cell(W, x, *states), leaves
    )


@pytest.mark.parametrize("name", ZOO)
def test_a_cell_is_at_most_a_dozen_lines_and_names_its_source(name):
    cell = cw.cells.get(name)
    body = inspect.getsource(cell.function).split('"""')[-1].strip().splitlines()
    assert len(body) <= 12
    assert cell.__doc__
    assert cell.__name__ == name


# -- torch.nn, where it has the same cell --------------------------------------


def pack(layer, module, input_gates, hidden_gates, split):
    """torch.nn's parameters, made from a layer's named ones by hand."""
    W = layer.cells[0]
    columns = {"weight_ih_l0": (input_gates, 1), "weight_hh_l0": (hidden_gates, 0)}
    values = {}
    for name, (gates, part) in columns.items():
        blocks = []
        for gate in gates:
            weight = getattr(W, gate).weight
            both = weight.shape[1] == H + X
            blocks.append(weight.split(split, dim=1)[part] if both else weight)
        values[name] = torch.cat(blocks)
    values["bias_ih_l0"] = torch.cat([getattr(W, g).bias for g in input_gates])
    values["bias_hh_l0"] = torch.cat(
        [
            torch.zeros(H, dtype=torch.float64)
            if g in input_gates
            else getattr(W, g).bias
            for g in hidden_gates
        ]
    )
    return lambda x, start: torch.func.functional_call(module, values, (x, start))


@pytest.mark.parametrize(
    ("name", "module", "input_gates", "hidden_gates"),
    [
        ("lstm", nn.LSTM(X, H), "ifgo", "ifgo"),
        ("np", nn.LSTM(X, H), "ifzo", "ifzo"),
        ("gru_reset_after", nn.GRU(X, H), "rzn", "rzm"),
        ("rnn", nn.RNN(X, H), "h", "h"),
        ("rnn_relu", nn.RNN(X, H, nonlinearity="relu"), "h", "h"),
    ],
)
def test_cells_that_torch_has_equal_torch(name, module, input_gates, hidden_gates):
    layer, x, states = make(name)
    start = as_argument(states)
    run = pack(layer, module.double(), input_gates, hidden_gates, [H, X])
    assert_same_values_and_gradients(
        lambda: layer(x, start), lambda: run(x, start), leaves_of(layer, x, states)
    )


# -- hyperparameters, other activations ----------------------------------------


@pytest.mark.parametrize(
    ("name", "given", "oracle_options"),
    [
        ("leaky_rnn", {"alpha": 0.3}, {"alpha": 0.3}),
        ("leaky_rnn", {"alpha": 1.0}, {"alpha": 1.0}),
        ("janet", {"beta": 0.0}, {"beta": 0.0}),
        ("janet", {"beta": 2.5}, {"beta": 2.5}),
        ("lstm_book", {"squash": cw.tanh}, {"squash": torch.tanh}),
    ],
)
def test_hyperparameters_reach_the_equations(name, given, oracle_options):
    layer, x, states = make(name, **given)
    expected = by_hand(name, layer, x, states, **oracle_options)
    assert_same_values_and_gradients(
        lambda: layer(x, as_argument(states)), expected, leaves_of(layer, x, states)
    )
    default = by_hand(name, layer, x, states)()[0]
    assert not torch.allclose(default, expected()[0])


def test_a_leaky_rnn_of_leak_one_is_the_simple_rnn():
    layer, x, states = make("leaky_rnn", alpha=1.0)

    def simple(W, x, h):
        h = torch.tanh(oracles.affine(W.n, h, x))
        return h, [h]

    expected, _ = oracles.layers(simple, layer.cells, x, states)
    assert_close(layer(x, states[0])[0], expected)


def hard_by_hand(v):
    return (v / 6 + 0.5).clamp(0, 1)  # torch's own has a float32 slope


def replaced_lstm(gate, activation):
    """The LSTM's step with another activation on one gate, by hand."""

    def step(W, x, h, c):
        functions = dict.fromkeys("fio", torch.sigmoid) | {"g": torch.tanh}
        functions[gate] = activation
        f, i, g, o = (functions[n](oracles.affine(getattr(W, n), h, x)) for n in "figo")
        c = f * c + i * g
        h = o * torch.tanh(c)
        return h, [h, c]

    return step


@pytest.mark.parametrize("gate", ["f", "i", "g", "o"])
@pytest.mark.parametrize(
    ("activation", "in_torch"),
    [
        (cw.hard_sigmoid, hard_by_hand),
        (cw.relu, torch.relu),
        (lambda v: 0.5 * cw.tanh(v) + 0.5, lambda v: 0.5 * torch.tanh(v) + 0.5),
        (cw.identity, lambda v: v),
    ],
    ids=["hard_sigmoid", "relu", "expression", "identity"],
)
def test_replace_puts_another_activation_on_that_gate_alone(gate, activation, in_torch):
    cell = cw.cells.lstm.replace(**{gate: activation})
    layer, x, states = make("lstm", cell)
    assert_same_values_and_gradients(
        lambda: layer(x, tuple(states)),
        lambda: oracles.layers(replaced_lstm(gate, in_torch), layer.cells, x, states),
        leaves_of(layer, x, states),
    )
    assert gate in cell.graph.values
    assert cw.Cell.from_text(cell.to_text()).graph == cell.graph


def test_replace_leaves_the_original_cell_as_it_was():
    before = cw.cells.lstm.graph
    other = cw.cells.lstm.replace(f=cw.hard_sigmoid)
    assert cw.cells.lstm.graph == before != other.graph
    assert cw.cells.lstm.replace(f=cw.sigmoid).graph == before


def test_replacing_two_gates_at_once_equals_replacing_one_after_the_other():
    both = cw.cells.lstm.replace(f=cw.hard_sigmoid, g=cw.softsign)
    one = cw.cells.lstm.replace(f=cw.hard_sigmoid).replace(g=cw.softsign)
    assert both.graph == one.graph


@pytest.mark.parametrize("name", ZOO)
def test_every_gate_of_every_cell_can_be_replaced(name):
    cell = cw.cells.get(name)
    layer, x, states = make(name)
    gates = [
        label
        for label, number in cell.graph.names
        if cell.graph.nodes[number].op in ("sigmoid", "tanh", "relu")
    ]
    assert gates
    for gate in gates:
        other, _, _ = make(name, cell.replace(**{gate: cw.softsign}))
        assert set(dict(other.named_parameters())) == set(
            dict(layer.named_parameters())
        )
        assert not torch.allclose(
            other(x, as_argument(states))[0], layer(x, as_argument(states))[0]
        ), gate


# -- what the subject says about single cells ----------------------------------


def saturate(layer, gate, value):
    with torch.no_grad():
        layer.cells[0].get_submodule(gate).bias.fill_(value)


def test_an_open_forget_gate_and_a_closed_input_gate_keep_the_memory():
    layer, x, states = make("lstm")
    saturate(layer, "f", 60.0)
    saturate(layer, "i", -60.0)
    _, (_, c) = layer(x, tuple(states))
    assert_close(c, states[1])


def test_the_update_gate_lets_the_new_in_and_torchs_keeps_the_old():
    new_in, x, states = make("gru_bias")
    saturate(new_in, "z", -60.0)
    assert_close(new_in(x, states[0])[1], states[0])
    keeps, x, states = make("gru_reset_after")
    saturate(keeps, "z", 60.0)
    assert_close(keeps(x, states[0])[1], states[0])


def test_the_output_gate_of_the_peephole_sees_the_new_memory():
    """Not the old one: an oracle with the old c must differ."""
    layer, x, states = make("peephole")

    def old_memory(W, x, h, c):
        f = torch.sigmoid(oracles.affine(W.f, c, h, x))
        i = torch.sigmoid(oracles.affine(W.i, c, h, x))
        o = torch.sigmoid(oracles.affine(W.o, c, h, x))
        c = f * c + i * torch.tanh(oracles.affine(W.g, h, x))
        return o * torch.tanh(c), [o * torch.tanh(c), c]

    wrong, _ = oracles.layers(old_memory, layer.cells, x, states)
    assert not torch.allclose(layer(x, tuple(states))[0], wrong)


def test_get_finds_cells_by_name_and_suggests_the_nearest():
    assert cw.cells.get("gru") is cw.cells.gru
    with pytest.raises(cw.CellError, match=r"no cell is called 'lstn'.*'lstm'"):
        cw.cells.get("lstn")


def everything():
    zoo = cw.cells
    return {
        **zoo.all(),
        **zoo.all_with_matrices(),
        **zoo.all_with_items(),
        **zoo.all_of_trees(),
    }


def test_a_star_import_brings_the_zoo_and_leaves_numpy_its_name():
    scope = {}
    exec("import numpy as np; from cellwright.cells import *", scope)
    assert scope["np"].__name__ == "numpy"
    zoo = everything()
    assert {n for n in zoo if scope.get(n) is not zoo[n]} == {"np"}
    assert cw.cells.np is cw.cells.get("np")


def test_no_weight_of_the_zoo_bears_a_reserved_name():
    """Its cells may be traced before the layers reserve what they need."""
    for found in everything().values():
        assert not {w.name for w in found.graph.weights} & set(dir(nn.Module))


def test_gradients_helper_sees_every_parameter():
    """The comparison above differentiates by all of them, not by a part."""
    layer, x, states = make("peephole_diagonal")
    leaves = leaves_of(layer, x, states)
    _, found = gradients(lambda: layer(x, tuple(states)), leaves)
    assert set(found) == {"x", "state 0", "state 1"} | {
        f"cells.0.{n}" for n in PARAMETERS["peephole_diagonal"]
    }
