"""Linear recurrences: what is found in a graph, held to the step's Jacobian."""

import pytest
import torch
from hypothesis import given, settings

import cellwright as cw
from cellwright import cell, exp, maximum, sigmoid, softmax, tanh, where
from cellwright.compiler.differentiate import differentiate
from cellwright.compiler.explain import explain
from cellwright.compiler.verify import verify_linear
from cellwright.language import CellError
from cellwright.language.linear import diagonal_groups
from cellwright.look.check import check_cell
from oracles import normal, randomise
from strategies import make_cell, sources

UNITS = 4


@cell
def leak(W, x, h):
    z = sigmoid(W.z(x))
    return h + z * (tanh(W.n(x)) - h)


@cell
def rotation(W, x, re, im):
    """One complex number a unit, as two states."""
    a, b = W.a, W.b
    return a * re - b * im + W.u(x), b * re + a * im + W.v(x)


@cell
def chained(W, x, h, c, m):
    """m follows h, which is no linear state; c follows m."""
    h = tanh(W.h(h, x))
    m = where(W.s(x) > 0, m / (1 + exp(W.d(h))), -m)
    return h, c * sigmoid(W.e(m, h)) + W.q(x), m


@cell
def stabilised(W, x, c, m):
    """An exponential gate as xLSTM's: m is no linear state, c is."""
    log_i, old = W.i(x), m
    m = maximum(log_i, m - 0.1)
    return exp(old - m) * c + exp(log_i - m), m


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (leak, {"h": "diagonal"}),
        (rotation, {"re": "diagonal", "im": "diagonal"}),
        (chained, {"h": None, "c": "diagonal", "m": "diagonal"}),
        (stabilised, {"c": "diagonal", "m": None}),
        (cw.cells.lstm, {"h": None, "c": None}),
        (cw.cells.mlstm, {"C": "diagonal", "n": "diagonal", "m": None}),
        (cw.cells.delta_net, {"S": "matrix"}),
        (cw.cells.gated_delta_net.partial(heads=2), {"S": "matrix"}),
        (cw.cells.selective_ssm, {"h": "diagonal"}),
        (cw.cells.child_sum_lstm, {"h": None, "c": None}),
    ],
)
def test_the_linear_states_of_a_cell(found, expected):
    assert found.linear_in == expected
    assert cw.Cell.from_text(found.to_text()).linear_in == expected


@pytest.mark.parametrize(
    "update",
    [
        lambda W, x, h: h * h,  # not linear
        lambda W, x, h: W.a(h, x),  # units are mixed
        lambda W, x, h: 1 / h + W.a(x),
        lambda W, x, h: where(h > 0, h, W.a(x)),  # the factor reads the state
        lambda W, x, h: sigmoid(W.p * h) * W.a(x),
        lambda W, x, h: softmax(W.a(x)) * h + softmax(h),
    ],
)
def test_what_is_not_diagonal(update):
    def step(W, x, h):
        return update(W, x, h)

    assert cell(step).linear_in == {"h": None}


def test_a_state_of_one_unit_is_not_diagonal_beside_wider_ones():
    @cell
    def mixed(W, x, h, s: 1):
        return h * 0.5 + s + W.a(x), 0.3 * s + W.b(h, x, size=1)

    assert mixed.linear_in == {"h": None, "s": None}


def jacobian_of(found, x, states, group):
    """∂(new states)/∂(old states) of a group, and the same elsewhere in its states."""
    layer = cw.Recurrent(found, x.shape[-1], UNITS, dtype=torch.float64)
    randomise(layer)
    names = [s.name for s in layer.cell.states]
    chosen = [names.index(name) for name in sorted(group)]
    named = {
        i.name: normal(1, int(i.size), seed=9, grad=False)
        for i in layer.graphs[0].inputs[1:]
    }

    def step(*olds):
        values = [s[None] for s in states]
        for at, old in zip(chosen, olds, strict=True):
            values[at] = old[None]
        results = layer.cell(layer.cells[0], x[None], *values, **named)
        results = results if isinstance(results, tuple) else (results,)
        news = results[-len(names) :]
        return tuple(news[at].expand_as(values[at])[0] for at in chosen)

    olds = [tuple(scale * states[at] for at in chosen) for scale in (1.0, -0.7)]
    return [torch.autograd.functional.jacobian(step, old) for old in olds]


def assert_diagonal(found):
    """Each factor is of one unit alone, and the same whatever the states."""
    for group in diagonal_groups(found.graph):
        width = 5 if found.name != "random_cell" else 6
        x = normal(width, seed=1, grad=False)
        sizes = {"input_size": width, "hidden_size": UNITS, "proj_size": UNITS}
        states = [
            normal(sizes.get(s.size, s.size), seed=20 + k, grad=False)
            for k, s in enumerate(found.states)
        ]
        here, there = jacobian_of(found, x, states, group)
        for row, other_row in zip(here, there, strict=True):
            for factor, other in zip(row, other_row, strict=True):
                torch.testing.assert_close(factor, other, rtol=1e-10, atol=1e-12)
                off = factor - torch.diag(factor.diagonal())
                assert not off.any()


@pytest.mark.parametrize("name", [*cw.cells.all()])
def test_the_jacobian_of_every_linear_state_is_diagonal_and_free_of_it(name):
    assert_diagonal(cw.cells.get(name))


@pytest.mark.parametrize("found", [leak, rotation, chained, stabilised])
def test_the_same_of_cells_that_mix(found):
    assert_diagonal(found)


@settings(max_examples=60, deadline=None)
@given(sources())
def test_the_same_of_random_cells(source):
    found = make_cell(source)
    assert_diagonal(found)
    vjp = differentiate(found.graph)
    verify_linear(vjp, diagonal_groups(found.graph))


def test_what_is_said_to_be_linear_is_held_to_the_derivative():
    @cell
    def mixed(W, x, h):
        return W.a(h, x)

    with pytest.raises(CellError, match=r"after linear\] node \d+ .*mixes units"):
        verify_linear(differentiate(mixed.graph), [{"h"}])

    @cell
    def squared(W, x, h):
        return h * h + W.a(x)

    with pytest.raises(CellError, match=r"after linear\].*depends on the states"):
        verify_linear(differentiate(squared.graph), [{"h"}])


def test_explain_and_check_say_it():
    line = "linear in h: diagonal; all products before the scan"
    assert line in explain(leak, 3, 4)
    found = check_cell(leak, 3, 4, steps=5)
    assert any(remark.startswith(line) for remark in found.remarks)
    assert found.to_dict()["linear_in"] == {"h": "diagonal"}
    text = explain(chained, 3, 4)
    assert "linear in c, m: diagonal; no product inside the scan" in text
    assert "linear in" not in explain(cw.cells.lstm, 3, 4)
