"""Outputs of every kind: a state, said once or twice, an old one, x, a weight, 0.5.

Held to the function itself, stepped by hand.
"""

import numpy as np
import pytest
import torch

import cellwright as cw
from cellwright import cell, sigmoid, step, tanh
from cellwright.look.check import check_cell
from native_cases import make_layer, make_leaves, run_engine
from oracles import assert_close, flat, normal, random_cotangents, randomise

T, B, X, H = 4, 3, 6, 5


@cell
def first_state_twice(W, x, h, c):
    c = sigmoid(W.f(h, x)) * c + tanh(W.g(x))
    h = tanh(c)
    return h, h, c


@cell
def only_state_twice(W, x, h):
    h = tanh(W.f(h, x))
    return h, h


@cell
def second_state(W, x, h, c):
    c = sigmoid(W.f(h, x)) * c + tanh(W.g(x))
    return c, tanh(c), c


@cell
def old_state(W, x, h):
    return h, tanh(W.f(h, x))


@cell
def delay_line(W, x, h, c):
    return c, tanh(W.f(h, x)), h


@cell
def x_itself(W, x, h):
    return x, tanh(W.f(h, x))


@cell
def named_input(W, x, h, *, dt: 1):
    return dt, tanh(W.f(h, x) * dt)


@cell
def number(W, x, h):
    return 0.5, tanh(W.f(h, x))


@cell
def vector(W, x, h):
    return W.vector("p", size=3), tanh(W.f(h, x))


@cell
def scalar(W, x, h):
    return W.scalar("a"), tanh(W.f(h, x))


@cell
def jump(W, x, h):
    return step(h), tanh(W.f(h, x))


CELLS = {
    c.name: c
    for c in (
        first_state_twice,
        only_state_twice,
        second_state,
        old_state,
        delay_line,
        x_itself,
        named_input,
        number,
        vector,
        scalar,
        jump,
    )
}
each = pytest.mark.parametrize("name", CELLS)
engines = pytest.mark.parametrize("engine", ["reference", "native"])


def by_hand(cell, layer, leaves):
    """The cell's own function, step after step: outputs and final states."""
    states, outputs = [leaves[s.name] for s in cell.states], []
    named = [i.name for i in cell.graph.inputs[1:]]
    for t in range(T):
        now = {n: leaves[n][t] for n in named}
        results = cell.function(layer.cells[0], leaves["x"][t], *states, **now)
        results = [torch.as_tensor(r, dtype=torch.float64) for r in results]
        output = results[0]
        outputs.append(output.expand(B, output.shape[-1] if output.dim() else 1))
        states = results[-len(states) :]
    return [torch.stack(outputs), *states]


def differentiate(results, leaves):
    cotangents = random_cotangents(results)
    pairs = [
        p for p in zip(results, cotangents, strict=True) if p[0].requires_grad
    ]  # a number needs none
    results, cotangents = zip(*pairs, strict=True)
    found = torch.autograd.grad(
        results, list(leaves.values()), cotangents, allow_unused=True
    )
    return {
        n: torch.zeros_like(v) if g is None else g
        for (n, v), g in zip(leaves.items(), found, strict=True)
    }


@engines
@each
def test_values_and_gradients(name, engine):
    pytest.importorskip("cellwright._core")
    layer = make_layer(CELLS[name], X, H)
    leaves = make_leaves(layer, T, B)
    found = run_engine(layer, leaves, engine)
    expected = by_hand(CELLS[name], layer, leaves)
    for k, (mine, right) in enumerate(zip(found, expected, strict=True)):
        assert_close(mine, right, f"result {k}")
    wanted = {**leaves, **dict(layer.cells[0].named_parameters())}
    gradients = differentiate(found, wanted)
    for leaf, right in differentiate(expected, wanted).items():
        assert_close(gradients[leaf], right, leaf)


@each
def test_stepping_and_recording_on_both_engines(name):
    pytest.importorskip("cellwright._core")
    layer = make_layer(CELLS[name], X, H)
    reference = cw.Recurrent(CELLS[name], X, H, engine="reference", dtype=torch.float64)
    reference.load_state_dict(layer.state_dict())
    leaves = {n: v.detach() for n, v in make_leaves(layer, T, B).items()}
    y, *_ = by_hand(CELLS[name], layer, leaves)
    start = [leaves[s.name][None] for s in CELLS[name].states]
    start = tuple(start) if len(start) > 1 else start[0]
    named = {i.name: leaves[i.name] for i in layer.graphs[0].inputs[1:]}
    for one in (layer, reference):
        stepper = one.stepper(B)
        stepper.state = start
        for t in range(T):
            now = {n: v[t] for n, v in named.items()}
            assert_close(stepper(leaves["x"][t], **now), y[t].detach(), f"step {t}")
        with cw.record(one) as values:
            recorded, _ = one(leaves["x"], start, **named)
        assert_close(recorded, y, "recorded")
        assert_close(values["h"][-1], flat(one(leaves["x"], start, **named))[1][0])


@each
def test_two_layers_in_both_directions_with_lengths(name):
    pytest.importorskip("cellwright._core")
    options = {"num_layers": 2, "bidirectional": True, "dtype": torch.float64}
    native = randomise(cw.Recurrent(CELLS[name], X, H, engine="native", **options))
    reference = cw.Recurrent(CELLS[name], X, H, engine="reference", **options)
    reference.load_state_dict(native.state_dict())
    inputs = native.graphs[0].inputs
    given = {i.name: normal(T, B, i.size, seed=3, grad=False) for i in inputs}
    lengths = torch.tensor([4, 1, 3])
    for mine, right in zip(
        flat(native(**given, lengths=lengths)),
        flat(reference(**given, lengths=lengths)),
        strict=True,
    ):
        assert_close(mine, right)


@each
def test_check_says_that_it_is_sound(name):
    found = check_cell(CELLS[name], X, H, steps=5)
    assert found.sound, found.problems
    assert found.engine_error < 1e-12


@pytest.mark.parametrize("name", ["first_state_twice", "second_state", "number"])
def test_in_onnx(name):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    layer = randomise(cw.Recurrent(CELLS[name], X, H, dtype=torch.float64))
    x = normal(T, B, X, seed=3, grad=False)
    y, _ = layer(x)
    model = cw.export_onnx(layer).SerializeToString()
    session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (found, *_) = session.run(None, {"x": x.numpy()})
    np.testing.assert_allclose(found, y.detach().numpy(), rtol=0, atol=1e-12)


def test_a_cell_says_its_output_once():
    layer = cw.Recurrent(first_state_twice, X, H, dtype=torch.float64)
    leaves = [normal(B, size, seed=k) for k, size in enumerate((X, H, H))]
    assert len(first_state_twice(layer.cells[0], *leaves)) == 2
    assert torch.is_tensor(only_state_twice(layer.cells[0], *leaves[:2]))
    again = cw.Cell.from_text(first_state_twice.to_text())
    assert again.graph == first_state_twice.graph


def test_trees():
    pytest.importorskip("cellwright._core")

    @cw.tree_cell(states=("h", "c"))
    def tree(W, x, child):
        c = tanh(W.g(x, cw.total(child.h))) + 0.5 * cw.total(child.c)
        h = tanh(c)
        return h, h, c

    @cw.tree_cell(states=("h", "c"))
    def once(W, x, child):
        c = tanh(W.g(x, cw.total(child.h))) + 0.5 * cw.total(child.c)
        return tanh(c), c

    forest = cw.Forest.from_parents([2, 2, 4, 4, -1])
    x = normal(forest.nodes, X, seed=3)
    found = []
    for one, engine in ((once, "reference"), (tree, "reference"), (tree, "native")):
        layer = cw.TreeRecurrent(one, X, H, engine=engine, dtype=torch.float64)
        results = flat(randomise(layer)(x, forest))
        gradients = differentiate(results, {"x": x, **dict(layer.named_parameters())})
        found.append([*results, *gradients.values()])
    for other in found[1:]:
        for mine, right in zip(other, found[0], strict=True):
            assert_close(mine, right)
    assert check_cell(tree, X, H, steps=5).sound
