"""Recurrences of matrices, several levels at a time: the chunkwise form."""

# ruff: noqa: F821  # sizes are annotations
import math

import pytest
import torch

import cellwright as cw
from cellwright import cell, exp, matvec, maximum, outer, sigmoid, softplus, tanh
from cellwright.compiler.chunkwise import STEPS, bounds_of
from cellwright.engine.native import segments
from cellwright.engine.native.op import saved_numbers
from cellwright.engine.schedule import SequenceBatch
from oracles import normal
from test_native_matrices import assert_equal, both, states_of

BLOCKS = ("hidden_size", "hidden_size", "heads")
T = 4 * STEPS + 5  # fewer than 64 go one by one, but for their gradients


@cell
def turning(W, x, C: BLOCKS, *, heads=2):
    """Gates of −1 … 1, and what is written depends on another state."""
    f = tanh(W.f(x, size=heads))
    C = f * C - outer(W.v(x), W.k(x), heads=heads)
    return matvec(C, W.q(x)), C


@cell
def counted(W, x, C: BLOCKS, n, m=-math.inf, *, heads=2):
    """Gates of exponentials, of states that are scanned before; and gates of 0."""
    log_f, log_i = m - softplus(-W.f(x)), W.i(x)
    m = maximum(log_f, log_i)
    n = sigmoid(W.g(x)) * n + exp(log_i - m)
    f = cw.where(W.z(x, size=heads) > 0.5, 0, sigmoid(W.y(x, size=heads)))
    C = outer(n * W.v(x), W.k(x), heads=heads) + f * C
    return matvec(C, W.q(x)), C, n, m


@cell
def ungated(W, x, C: ("hidden_size", 3)):
    C = C + outer(W.v(x), W.k(x, size=3))
    return matvec(C, W.q(x, size=3)), C


@cell
def unbounded(W, x, C: BLOCKS, *, heads=2):
    C = softplus(W.f(x, size=heads)) * C + outer(W.v(x), W.k(x), heads=heads)
    return matvec(C, W.q(x)), C


@cell
def of_state(W, x, C: BLOCKS, *, heads=2):
    C = 0.5 * C + outer(W.v(x) - matvec(C, W.k(x)), W.k(x), heads=heads)
    return matvec(C, W.q(x)), C


CELLS = turning, counted, ungated, cw.cells.mlstm, cw.cells.retention
by_cell = pytest.mark.parametrize("used", CELLS, ids=lambda c: c.name)


def goes_in_steps(layer):
    return layer.direction(0).bound.programs.plan.goes_in_steps


@pytest.mark.parametrize("used", [*CELLS, cw.cells.fast_weights], ids=lambda c: c.name)
def test_cells_of_this_form_are_found(used):
    assert goes_in_steps(cw.Recurrent(used, 4, 6))


@pytest.mark.parametrize(
    "used",
    [unbounded, of_state, cw.cells.gla, cw.cells.delta_net, cw.cells.selective_ssm],
    ids=lambda c: c.name,
)
def test_others_go_step_by_step(used):
    assert not goes_in_steps(cw.Recurrent(used, 4, 6))


def test_what_records_or_recomputes_its_matrices_goes_step_by_step():
    layer = cw.Recurrent(turning, 4, 6, memory="recompute")
    assert not goes_in_steps(layer)
    programs = cw.Recurrent(turning, 4, 6).direction(0).bound.programs
    recorded = programs.variant(recorded=(programs.graph.updates[0],))
    assert not recorded.plan.goes_in_steps


@by_cell
def test_values_and_gradients(used):
    layers = both(used, sizes=(4, 34 if used is turning else 6), bidirectional=True)
    assert goes_in_steps(layers[0])
    x = normal(T, 3, 4, seed=1, grad=False)
    assert_equal(layers, x, states_of(layers[0], 3))


@pytest.mark.parametrize(
    ("used", "uncut"), [(turning, 3), (turning, 1), (counted, 1), (ungated, 1)]
)
def test_lengths_starts_and_resets(used, uncut, monkeypatch):
    monkeypatch.setattr(segments, "AT_ONCE", 0)
    monkeypatch.setattr(segments, "LEAST_STEPS", 2)
    monkeypatch.setattr(segments, "UNCUT", uncut)
    layers = both(used, bidirectional=True)
    x = normal(T, 4, 4, seed=1, grad=False)
    resets = torch.zeros(T, 4, dtype=torch.bool)
    resets[3, 0] = resets[STEPS, 0] = resets[STEPS, 2] = resets[-1, 3] = True
    lengths = torch.tensor([T - 1, 0, T, 7])
    states = states_of(layers[0], 4)
    assert_equal(layers, x, states, lengths=lengths, resets=resets)
    starts = torch.tensor([1, 0, 0, STEPS])
    assert_equal(layers, x, states, lengths=lengths, starts=starts)


def test_single_precision():
    layers = both(cw.cells.mlstm, torch.float32, sizes=(8, 48), heads=3)
    assert goes_in_steps(layers[0])
    assert_equal(layers, normal(T, 2, 8, seed=1, grad=False).float(), relative=2e-4)


@by_cell
def test_a_row_is_the_same_alone_and_with_others(used):
    layer = both(used, torch.float32)[0]
    x = normal(T, 150, 4, seed=1, grad=False).float()
    lengths = torch.full((150,), T)
    lengths[:70] = 9
    with torch.no_grad():
        y, _ = layer(x, lengths=lengths)
        assert torch.equal(layer(x[:, 7:8], lengths=lengths[7:8])[0], y[:, 7:8])
        assert torch.equal(layer(x[:9, 7:8])[0], y[:9, 7:8])
        assert torch.equal(layer(x[:, 77:78])[0], y[:, 77:78])
        assert torch.equal(layer(x[: T - 3])[0][:, 77], y[: T - 3, 77])


@by_cell
def test_training_has_the_bits_of_inference_and_long_rows_not_those_of_a_stepper(used):
    layer = both(used)[0]
    x = normal(T, 2, 4, seed=1, grad=False)
    step = layer.stepper(batch_size=2)
    with torch.no_grad():
        y, _ = layer(x)
        stepped = torch.stack([step(row) for row in x])
        assert torch.equal(layer(x[:20])[0], stepped[:20])
    assert torch.equal(layer(x)[0], y)
    assert torch.allclose(stepped, y, rtol=1e-10, atol=1e-12)
    assert not torch.equal(stepped, y)  # it has gone several steps at a time


def test_nothing_is_read_from_later_steps():
    layer = both(turning)[0]
    x = normal(T, 2, 4, seed=1, grad=False)
    y, _ = layer(x)
    x[9] = math.nan
    found, _ = layer(x)
    assert torch.equal(found[:9], y[:9])
    assert found[9:].isnan().all()


def test_few_steps_give_the_same():
    layers = both(turning)
    for steps in (1, 2, 3):
        assert_equal(layers, normal(steps, 2, 4, seed=1, grad=False))


@pytest.mark.parametrize("steps", [1, STEPS, 5 * STEPS + 1])
def test_what_is_saved_follows_from_shapes(steps):
    layer = cw.Recurrent(cw.cells.mlstm, 4, 8)
    programs = layer.direction(0).bound.programs
    parameters = layer.direction(0).weights.in_order(programs.binding.parameters)
    batch = SequenceBatch(steps, 3, lengths=torch.tensor([1, 0, 1]))
    scan = segments.scan_of(programs, batch, False, False, 4)
    x = torch.randn(steps, 3, 4)
    states = [torch.zeros(1, 3, size) for size in programs.sizes]
    _, (_, saved) = scan.forward([x, *states, *parameters], True)
    assert saved.numel() == saved_numbers(programs, steps, 3, 3 * steps, 4)
    assert saved.numel() < 3 * steps * sum(programs.saved_sizes) or steps == 1


def test_training_keeps_a_matrix_every_so_many_steps():
    layer = cw.Recurrent(cw.cells.mlstm, 8, 64, heads=2)
    programs = layer.direction(0).bound.programs
    steps = 16 * STEPS
    vectors = sum(programs.sizes[1:]) + sum(programs.plan.saved_sizes())
    expected = 16 * programs.sizes[0] + steps * vectors
    assert saved_numbers(programs, steps, 1, steps, 4) == expected


def test_bounds_of_operations():
    @cell
    def bounded(W, x, h):
        a, b = W.a(x), W.b(x)
        f = exp(a - maximum(b, a))
        g = 1 - sigmoid(b) * tanh(a)
        k = exp(-softplus(a) / 4)
        return f * g * k * h

    graph = cw.Recurrent(bounded, 3, 5).graphs[0]
    bounds = {n.op: b for n, b in zip(graph.nodes, bounds_of(graph.nodes), strict=True)}
    assert bounds["exp"] == (0, 1)
    products = [
        b
        for n, b in zip(graph.nodes, bounds_of(graph.nodes), strict=True)
        if n.op in ("mul", "sub")
    ]
    assert (0, 2) in products
    assert products[-1] == (-math.inf, math.inf)
