"""Calls of the native layers keep nothing: new memory, the weights as they are now."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils import parametrize, prune
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import cellwright as cw
from cellwright.language import graph

DTYPES = torch.float32, torch.float64
LAYERS = {
    "LSTM": lambda: cw.LSTM(3, 4, engine="native"),
    "GRU": lambda: cw.GRU(3, 4, engine="native"),
    "Recurrent": lambda: cw.Recurrent("peephole", 3, 4, engine="native"),
}


def _tensors(layer, x, *state):
    y, final = layer(x, *state)
    return [y, *((final,) if isinstance(final, torch.Tensor) else final)]


def _owner(layer):
    """A module of the layer and the name of one of its matrices."""
    if isinstance(layer, cw.Recurrent):
        return layer.cells[0].f, "weight"
    return layer, "weight_hh_l0"


@pytest.fixture(params=LAYERS)
def layer(request):
    torch.manual_seed(1)
    return LAYERS[request.param]()


@pytest.mark.parametrize("training", [False, True])
def test_results_share_no_memory_and_are_no_views(layer, training):
    x = torch.randn(5, 2, 3)
    with torch.set_grad_enabled(training):
        first, second = _tensors(layer, x), _tensors(layer, x)
    results = first + second
    storages = {t.untyped_storage().data_ptr() for t in results}
    assert len(storages) == len(results)
    assert not any(t._is_view() for t in results)
    assert all(t.is_contiguous() for t in results)


def test_a_result_may_be_changed_in_place_before_backward(layer):
    """Final states are no part of what was saved, nor of one another."""
    x = torch.randn(5, 2, 3)
    gradients = []
    for change in (False, True):
        y, *finals = _tensors(layer, x)
        if change:
            with torch.no_grad():
                for final in finals:
                    final.fill_(7.0)
        gradients.append(torch.autograd.grad(y.sum(), list(layer.parameters())))
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


def test_a_given_state_is_not_changed(layer):
    x = torch.randn(5, 2, 3)
    states = [torch.randn_like(t) for t in _tensors(layer, x)[1:]]
    kept = [s.clone() for s in states]
    given = states[0] if len(states) == 1 else tuple(states)
    sum(t.sum() for t in _tensors(layer, x, given)).backward()
    assert all(torch.equal(a, b) for a, b in zip(states, kept, strict=True))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_states_of_a_strided_kind_and_their_gradients(layer, steps):
    """Expanded and transposed states give what contiguous ones give."""
    x = torch.randn(steps, 2, 3)
    count = len(_tensors(layer, x)) - 1
    expanded = [torch.randn(1, 1, 4).expand(1, 2, 4) for _ in range(count)]
    transposed = [torch.randn(1, 4, 2).transpose(1, 2) for _ in range(count)]
    for states in (expanded, transposed):
        found = []
        for make in (torch.Tensor.detach, torch.Tensor.contiguous):
            leaves = [make(s).detach().requires_grad_() for s in states]
            given = leaves[0] if count == 1 else tuple(leaves)
            results = _tensors(layer, x, given)
            total = sum((t * t).sum() for t in results)
            found.append([*results, *torch.autograd.grad(total, leaves)])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def _reference(layer, x):
    """The same weights, stepped in PyTorch."""
    layer._wanted, layer._choices = "reference", {}
    results = _tensors(layer, x)
    layer._wanted, layer._choices = "native", {}
    return results


def _write(layer):
    with torch.no_grad():
        getattr(*_owner(layer)).mul_(3)


def _data(layer):
    owner, name = _owner(layer)
    getattr(owner, name).data = torch.randn_like(getattr(owner, name))


def _replace(layer):
    owner, name = _owner(layer)
    setattr(owner, name, nn.Parameter(torch.randn_like(getattr(owner, name))))


def _load(layer):
    layer.load_state_dict({k: v + 1 for k, v in layer.state_dict().items()})


def _double(layer):
    layer.double()


def _to(layer):
    layer.to(torch.float64)


class _Half(nn.Module):
    def forward(self, weight):
        return weight / 2


def _parametrise(layer):
    owner, name = _owner(layer)
    parametrize.register_parametrization(owner, name, _Half())


def _prune(layer):
    owner, name = _owner(layer)
    prune.random_unstructured(owner, name, 0.5)


CHANGES = [_write, _data, _replace, _load, _double, _to, _parametrise, _prune]


@pytest.mark.parametrize("change", CHANGES)
def test_the_next_call_sees_a_change_of_the_weights(layer, change):
    x = torch.randn(5, 2, 3)
    before = [t.detach() for t in _tensors(layer, x)]
    change(layer)
    x = x.to(next(layer.parameters()).dtype)
    after, expected = _tensors(layer, x), _reference(layer, x)
    assert layer.engine == "native"
    for a, e in zip(after, expected, strict=True):
        torch.testing.assert_close(a, e)
    if change not in (_double, _to):
        assert (after[0] - before[0]).abs().max() > 1e-3


def test_functional_call_and_tied_weights_are_seen(layer):
    x = torch.randn(5, 2, 3)
    before = _tensors(layer, x)[0]
    others = {n: p.detach() * 2 for n, p in layer.named_parameters()}
    called = torch.func.functional_call(layer, others, (x,))[0]
    owner, name = _owner(layer)
    assert torch.equal(_tensors(layer, x)[0], before)
    assert (called - before).abs().max() > 1e-3
    tied = nn.Parameter(getattr(owner, name).detach() * 2)
    setattr(owner, name, tied)
    same = _tensors(layer, x)[0]
    with torch.no_grad():
        tied.mul_(2)
    assert (_tensors(layer, x)[0] - same).abs().max() > 1e-3


def test_both_initial_states_may_be_one_tensor_but_final_ones_never():
    layer = cw.LSTM(3, 4, engine="native")
    h, c = layer.first_states(2)
    assert h is c
    y, (h, c) = layer(torch.randn(1, 2, 3))
    assert torch.equal(h[0], y[-1])
    assert not torch.equal(h, c)


def _over_sequences():
    layer = cw.Recurrent("lstm", 4, 5)
    return layer, torch.randn(6, 3, 4, requires_grad=True), lambda x: layer(x)[0]


def _over_trees():
    layer = cw.TreeRecurrent("child_sum_lstm", 4, 5)
    forest = cw.Forest.from_parents([-1, 0, 0])
    return layer, torch.randn(3, 4, requires_grad=True), lambda x: layer(x, forest)[0]


@pytest.mark.parametrize("make", [_over_sequences, _over_trees])
def test_activation_checkpointing_gives_the_same_gradients(make):
    """It makes each saved tensor again, once."""
    layer, x, run = make()
    leaves = [x, *layer.parameters()]
    expected = torch.autograd.grad(run(x).square().sum(), leaves)
    y = checkpoint(run, x, use_reentrant=False)
    found = torch.autograd.grad(y.square().sum(), leaves)
    assert all(map(torch.equal, found, expected))


def _apart(tensor):
    """The same values, with others between them in memory."""
    wide = torch.full((*tensor.shape, 2), 7.0, dtype=tensor.dtype)
    wide[..., 0] = tensor
    return wide[..., 0]


def _with_matrices():
    layer = cw.Recurrent("mlstm", 4, 6, heads=2)
    return layer, torch.randn(40, 3, 4, requires_grad=True), lambda x: layer(x)[0]


def _as_an_op():
    """Where somebody looks at torch's operations."""
    layer, x, _ = _over_sequences()

    def run(x):
        with FlopCounterMode(display=False):
            return layer(x)[0]

    return layer, x, run


MAKE = [_over_sequences, _with_matrices, _over_trees, _as_an_op]


@pytest.mark.parametrize("make", MAKE)
def test_saved_tensors_may_come_back_in_another_layout(make):
    """What hooks unpack has the values of what they packed, and may lie as it likes."""
    layer, x, run = make()
    leaves = [x, *layer.parameters()]
    expected = torch.autograd.grad(run(x).square().sum(), leaves)
    with saved_tensors_hooks(lambda t: t.detach().clone(), _apart):
        y = run(x)
    found = torch.autograd.grad(y.square().sum(), leaves)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("change", [torch.Tensor.double, lambda t: t[..., :1]])
def test_saved_tensors_of_another_kind_are_refused(make, change):
    """The core would read other numbers than were saved."""
    _, x, run = make()
    with saved_tensors_hooks(lambda t: t.detach(), change):
        y = run(x)
    with pytest.raises(cw.ArgumentError, match=r"\[saved_tensors_hooks\] .* expected"):
        y.square().sum().backward()


def test_parameters_of_another_type_are_cast_not_read_as_they_lie():
    layer, x = cw.LSTM(3, 4, engine="native"), torch.randn(5, 2, 3)
    layer.weight_hh_l0 = nn.Parameter(layer.weight_hh_l0.detach().double())
    assert torch.equal(layer(x)[0], layer.float()(x)[0])


@pytest.mark.parametrize("make", [_over_sequences, _over_trees])
def test_a_second_call_asks_no_more_of_the_graph(make, monkeypatch):
    """What follows from the equations is worked out once, not in every call."""
    _, x, run = make()
    run(x).sum().backward()

    def again(*_):
        raise AssertionError("the graph is read again")

    monkeypatch.setattr(graph, "per_child", again)
    run(x).sum().backward()


def test_what_calls_keep_by_shape_is_right_in_every_order():
    """What a shape needs is kept for later calls: not for other types, other rows,
    other lengths, or a call without gradients."""
    torch.manual_seed(0)
    layers = {t: cw.LSTM(3, 4, engine="native", dtype=t) for t in DTYPES}
    oracles = {t: nn.LSTM(3, 4, dtype=t) for t in DTYPES}
    for dtype, layer in layers.items():
        oracles[dtype].load_state_dict(layer.state_dict())
    kinds = [(t, steps, rows) for t in DTYPES for steps in (1, 5) for rows in (1, 3)]
    for dtype, steps, rows in (*kinds, *reversed(kinds)):
        x = torch.randn(steps, rows, 3, dtype=dtype, requires_grad=True)
        expected = _tensors(oracles[dtype], x)
        with torch.no_grad():
            torch.testing.assert_close(_tensors(layers[dtype], x), expected)
        found = _tensors(layers[dtype], x)
        torch.testing.assert_close(found, expected)
        g = [torch.randn_like(t) for t in expected]
        wanted, got = (
            torch.autograd.grad(values, [x, *owner.parameters()], g)
            for values, owner in ((expected, oracles[dtype]), (found, layers[dtype]))
        )
        torch.testing.assert_close(got, wanted)


def test_what_calls_keep_goes_with_its_schedule():
    """Schedules of long batches are made anew: a plan for each would stay for ever."""
    layer = cw.LSTM(3, 4, engine="native", dtype=torch.float64)
    programs = layer.direction(0).bound.programs
    for steps in (6, *range(1100, 1105)):
        layer(torch.zeros(steps, 1, 3, dtype=torch.float64))
    gc.collect()
    plans = programs.made(("memory", torch.float64, True), dict)
    kept = {schedule.steps for schedule in plans}
    assert 6 in kept
    assert max(kept) < 1100
