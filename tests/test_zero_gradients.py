"""Weights whose gradient is zero whatever they are: read through `step`, or not at all.

As in the reference, no gradient arrives there: an optimiser leaves such a weight alone.
"""

import pytest
import torch

import cellwright as cw
from cellwright import cell, sigmoid, step, tanh
from oracles import assert_close, flat, normal, random_cotangents, randomise

pytest.importorskip("cellwright._core")

T, B, X, H = 3, 2, 4, 4


@cell
def spiking(W, x, h):
    return 0.9 * h + step(W.f(h, x))


@cell
def unread(W, x, h):
    tanh(W.f(h, x)) * W.p
    return tanh(0.5 * h + x)


@cell
def behind_a_jump(W, x, h, *, dt: 1):
    return tanh(W.f(h) * step(W.s(x, dt, h)))


@cell
def nothing_at_all(W, x, h):
    return step(W.f(h, x) + W.p * h)


@cell
def one_of_two(W, x, h, c):
    return step(W.f(x)) * 2, tanh(W.g(h, c)), step(h)


CELLS = {
    c.name: c for c in (spiking, unread, behind_a_jump, nothing_at_all, one_of_two)
}
each = pytest.mark.parametrize("name", CELLS)


def make(name, engine, **options):
    layer = cw.Recurrent(
        CELLS[name], X, H, engine=engine, dtype=torch.float64, **options
    )
    return randomise(layer)


def everything(layer, **how):
    """Results, and each gradient under random cotangents; `None` where none arrives."""
    graph = layer.graphs[0]
    given = {i.name: normal(T, B, i.size, seed=k) for k, i in enumerate(graph.inputs)}
    results = flat(layer(**given, **how))
    wanted = {**given, **dict(layer.named_parameters())}
    pairs = zip(results, random_cotangents(results), strict=True)
    pairs = [(r, c) for r, c in pairs if r.requires_grad]
    if not pairs:
        return results, dict.fromkeys(wanted)
    results, cotangents = zip(*pairs, strict=True)
    found = torch.autograd.grad(
        results, list(wanted.values()), cotangents, allow_unused=True
    )
    return results, dict(zip(wanted, found, strict=True))


@each
@pytest.mark.parametrize("options", [{}, {"memory": "recompute"}], ids=str)
@pytest.mark.parametrize("how", [{}, {"lengths": torch.tensor([3, 1])}], ids=str)
def test_the_gradient_is_the_references_and_absent_where_its_is(name, options, how):
    _, expected = everything(make(name, "reference"), **how)
    _, found = everything(make(name, "native", **options), **how)
    for leaf, right in expected.items():
        assert (found[leaf] is None) == (right is None), leaf
        if right is not None:
            torch.testing.assert_close(found[leaf], right, rtol=1e-10, atol=1e-13)
    assert any(g is None for g in expected.values())


@each
def test_the_op_that_tracers_see(name):
    layer = make(name, "native")
    graph = layer.graphs[0]
    given = {i.name: normal(T, B, i.size, seed=k) for k, i in enumerate(graph.inputs)}
    traced = torch.compile(
        lambda **inputs: layer(**inputs)[0], backend="aot_eager", fullgraph=True
    )
    traced(**given).sum().backward()
    leaves = {**given, **dict(layer.named_parameters())}
    found = {n: v.grad for n, v in leaves.items()}
    for leaf in leaves.values():
        leaf.grad = None
    layer(**given)[0].sum().backward()
    for n, leaf in leaves.items():
        assert (found[n] is None) == (leaf.grad is None), n
        if leaf.grad is not None:
            assert torch.equal(found[n], leaf.grad), n


@each
def test_recorded_values_and_second_derivatives(name):
    layer = make(name, "native")
    graph = layer.graphs[0]
    given = {i.name: normal(T, B, i.size, seed=k) for k, i in enumerate(graph.inputs)}
    with cw.record(layer) as values:
        y, _ = layer(**given)
    (y.sum() + sum(values[k].sum() for k in values)).backward()
    y, _ = layer(**given)
    leaves = [*given.values(), *layer.parameters()]
    torch.autograd.grad(y.sum(), leaves, create_graph=True, allow_unused=True)


def test_an_optimiser_leaves_an_unread_weight_alone():
    layer = make("unread", "native")
    before = {n: p.detach().clone() for n, p in layer.named_parameters()}
    optimiser = torch.optim.AdamW(layer.parameters(), weight_decay=0.5)
    layer(normal(T, B, X, seed=1))[0].sum().backward()
    optimiser.step()
    for name, parameter in layer.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_trees():
    @cw.tree_cell(states=("h", "c"))
    def tree(W, x, child):
        h = step(W.f(x, cw.total(child.h))) + tanh(W.g(cw.total(child.c)))
        return h, sigmoid(x) + 0 * h

    forest = cw.Forest.from_parents([2, 2, 4, 4, -1])
    x = normal(forest.nodes, X, seed=3)
    found = []
    for engine in ("reference", "native"):
        layer = cw.TreeRecurrent(tree, X, H, engine=engine, dtype=torch.float64)
        results = flat(randomise(layer)(x, forest))
        wanted = {"x": x, **dict(layer.named_parameters())}
        gradients = torch.autograd.grad(
            results,
            list(wanted.values()),
            random_cotangents(results),
            allow_unused=True,
        )
        found.append(dict(zip(wanted, gradients, strict=True)))
    expected, mine = found
    for name, right in expected.items():
        assert (mine[name] is None) == (right is None), name
        if right is not None:
            assert_close(mine[name], right, name)
    assert expected["cells.0.f.weight"] is None
