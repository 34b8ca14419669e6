"""The reference engine's work and memory grow with the steps, not with their square.

Counted, not timed: the elements of every result of every operation of torch, of the
walk and of its gradient.
"""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import cellwright as cw
from oracles import normal


class Elements(TorchDispatchMode):
    """Counts the elements of all results."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        self.total += sum(
            t.numel() for t in tree_leaves(results) if isinstance(t, torch.Tensor)
        )
        return results


def work(run, *leaves):
    with Elements() as counter:
        y = run()[0]
        torch.autograd.grad(y.sum(), leaves)
    return counter.total


def chain(n):
    return cw.Forest.from_parents([-1, *range(n - 1)])


def comb(n):
    """A spine of n nodes, each with a leaf of its own: what parsers make."""
    return cw.Forest.from_parents([-1, *range(n - 1), *range(n)])


@pytest.mark.parametrize("shape", [chain, comb])
@pytest.mark.parametrize("cell", ["binary_lstm", "child_sum_lstm"])
def test_of_trees(cell, shape):
    layer = cw.TreeRecurrent(cell, 3, 4, engine="reference", dtype=torch.float64)

    def of(n):
        forest = shape(n)
        x = normal(len(forest.inputs), 3, seed=1)
        return work(lambda: layer(x, forest), x, *layer.parameters())

    assert of(120) < 2.1 * of(60)


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("directions", [1, 2])
def test_of_sequences(lengths, directions):
    layer = cw.Recurrent(
        "lstm",
        3,
        4,
        bidirectional=directions == 2,
        engine="reference",
        dtype=torch.float64,
    )

    def of(steps):
        x, n = normal(steps, 2, 3, seed=1), [steps - 3, steps - 1]
        given = {"lengths": n} if lengths else {}
        return work(lambda: layer(x, **given), x, *layer.parameters())

    assert of(160) < 2.1 * of(80)


def test_trees_of_all_shapes_give_what_each_node_alone_gives():
    """Levels that are read by several others: every node by hand, from its children."""
    rng = np.random.default_rng(5)
    parents = [-1, *(int(rng.integers(max(0, k - 4), k)) for k in range(1, 40))]
    layer = cw.TreeRecurrent("child_sum_lstm", 3, 4, engine="reference").double()
    x, forest = normal(40, 3, seed=1), cw.Forest.from_parents(parents)
    W, found = layer.cells[0], {}
    for node in reversed(range(40)):  # children have higher numbers
        below = [found[k] for k in range(node + 1, 40) if parents[k] == node]
        hs = [h for h, _ in below]
        total = sum(hs) if hs else x.new_zeros(4)
        i = torch.sigmoid(W.i(total, x[node]))
        o = torch.sigmoid(W.o(total, x[node]))
        u = torch.tanh(W.u(total, x[node]))
        c = i * u
        for h, old in below:
            c = c + torch.sigmoid(W.f(h, x[node])) * old
        found[node] = (o * torch.tanh(c), c)
    expected = torch.stack([found[node][0] for node in range(40)])
    y, _ = layer(x, forest)
    cotangent = normal(40, 4, seed=2, grad=False)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    leaves = [x, *layer.parameters()]
    for one, other in zip(
        torch.autograd.grad(y, leaves, cotangent),
        torch.autograd.grad(expected, leaves, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
