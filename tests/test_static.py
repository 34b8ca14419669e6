"""Static inputs: given once for all steps, against the same input at every step."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import cellwright as cw
from cellwright import sigmoid, tanh
from cellwright.engine.native.sequences import SequenceScan
from oracles import (
    assert_close,
    assert_same_values_and_gradients,
    normal,
    randomise,
)

T, B, X, H, S = 6, 3, 5, 4, 3
ENGINES = ["native", "reference"]


@cw.cell
def ea_lstm(W, x, h, c, *, s):
    """Entity-aware LSTM (Kratzert et al. 2019, eqs. 7-12): s says what is let in."""
    i = sigmoid(W.i(s))
    f, g, o = sigmoid(W.f(h, x)), tanh(W.g(h, x)), sigmoid(W.o(h, x))
    c = f * c + i * g
    return o * tanh(c), c


@cw.cell
def everywhere(W, x, h, c, *, s, k, dt):
    """In products beside others, in a second stage, element by element, as one number;
    and an input of every step beside them."""
    f = sigmoid(W.f(h, s, x) + k * W.u(s))
    c = f * c + dt * tanh(W.g(x, h) + W.q * h * k)
    r = cw.softmax(W.r(c, s) + W.v(s * s, k))
    return r * tanh(c) + k, c


def make(cell=ea_lstm, sizes=None, **options):
    sizes = {"s": S} if sizes is None else sizes
    layer = cw.Recurrent(cell, X, H, inputs=sizes, dtype=torch.float64, **options)
    return randomise(layer)


def leaves_of(layer, x, **named):
    return {"x": x, **named, **dict(layer.named_parameters())}


def assert_same(layer, x, static, *, along=None, **given):
    """Static inputs give what they give at every step: values and gradients."""
    along = along or (lambda v: v.expand(*x.shape[:-2], *v.shape))
    more = {n: v for n, v in given.items() if n in layer._named}
    expanded = {n: along(v) for n, v in static.items()}

    def run(values):
        torch.manual_seed(0)
        return layer(x, **values, **given)

    leaves = leaves_of(layer, x, **static, **more)
    assert_same_values_and_gradients(lambda: run(static), lambda: run(expanded), leaves)


# -- values and gradients --------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_the_ea_lstm_is_its_equations(engine):
    layer, x = make(engine=engine), normal(T, B, X, seed=1)
    s, W = normal(B, S, seed=2), layer.cells[0]

    def by_hand():
        h, c, ys = torch.zeros(B, H).double(), torch.zeros(B, H).double(), []
        i = torch.sigmoid(s @ W.i.weight.T + W.i.bias)
        for x_t in x:
            both = torch.cat([h, x_t], 1)
            f, g, o = (both @ W_k.weight.T + W_k.bias for W_k in (W.f, W.g, W.o))
            c = torch.sigmoid(f) * c + i * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            ys.append(h)
        return torch.stack(ys), h[None], c[None]

    assert_same_values_and_gradients(
        lambda: layer(x, s=s), by_hand, leaves_of(layer, x, s=s)
    )


OPTIONS = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"bidirectional": True, "learn_initial_state": True},
    {"recurrent_dropout": 0.3, "num_layers": 2},
    {"zoneout": 0.2, "update_dropout": 0.3},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("engine", [*ENGINES, "recompute"])
def test_static_is_the_same_as_at_every_step(engine, options):
    if engine == "recompute":
        options, engine = {**options, "memory": "recompute"}, "native"
    layer = make(engine=engine, **options)
    assert layer.engine == engine
    assert_same(layer, normal(T, B, X, seed=1), {"s": normal(B, S, seed=2)})


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_wherever_a_cell_reads_it(engine, bidirectional):
    sizes = {"s": S, "k": 1, "dt": 1}
    layer = make(everywhere, sizes, engine=engine, bidirectional=bidirectional)
    static = {"s": normal(B, S, seed=2), "k": normal(B, 1, seed=3)}
    assert_same(layer, normal(T, B, X, seed=1), static, dt=normal(T, B, 1, seed=4))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_with_lengths_and_resets(engine, bidirectional):
    layer = make(engine=engine, bidirectional=bidirectional, learn_initial_state=True)
    x, static = normal(T, 4, X, seed=1), {"s": normal(4, S, seed=2)}
    resets = torch.rand(T, 4, generator=torch.Generator().manual_seed(5)) < 0.3
    lengths = torch.tensor([4, 0, 6, 2])
    assert_same(layer, x, static, lengths=lengths, resets=resets)
    assert_same(layer, x, static, lengths=lengths)
    assert_same(layer, x, static, resets=resets)


@pytest.mark.parametrize("engine", ENGINES)
def test_batch_first_and_unbatched(engine):
    layer = make(engine=engine, batch_first=True, num_layers=2)
    assert_same(
        layer,
        normal(B, T, X, seed=1),
        {"s": normal(B, S, seed=2)},
        along=lambda v: v[:, None].expand(B, T, S),
    )
    assert_same(
        layer,
        normal(T, X, seed=1),
        {"s": normal(S, seed=2)},
        along=lambda v: v.expand(T, S),
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_beside_a_packed_sequence_in_the_users_order(engine, enforce_sorted):
    lengths = [6, 4, 2] if enforce_sorted else [2, 6, 4]
    layer = make(engine=engine, bidirectional=True)
    x, s = normal(T, B, X, seed=1), normal(B, S, seed=2)

    def packed(value):
        return pack_padded_sequence(value, lengths, enforce_sorted=enforce_sorted)

    leaves, along = leaves_of(layer, x, s=s), s.expand(T, B, S)
    assert_same_values_and_gradients(
        lambda: flat_packed(layer(packed(x), s=s)),
        lambda: flat_packed(layer(packed(x), s=packed(along))),
        leaves,
    )
    assert_same_values_and_gradients(
        lambda: layer(packed(x), s=s)[1],
        lambda: layer(x, s=s, lengths=lengths)[1],
        leaves,
    )


def flat_packed(results):
    y, states = results
    assert isinstance(y, PackedSequence)
    return y.data, *states


def test_which_inputs_are_static_is_said_by_each_call():
    sizes = {"s": S, "k": 1, "dt": 1}
    layer, x = make(everywhere, sizes), normal(T, B, X, seed=1)
    given = {
        "s": normal(B, S, seed=2),
        "k": normal(B, 1, seed=3),
        "dt": normal(B, 1, seed=4),
    }
    expected, _ = layer(x, **{n: v.expand(T, *v.shape) for n, v in given.items()})
    for static in (["s"], ["k", "dt"], ["s", "k", "dt"], []):
        call = {
            n: v if n in static else v.expand(T, *v.shape) for n, v in given.items()
        }
        assert_close(layer(x, **call)[0], expected)


def test_one_that_has_no_gradient_gets_zeros():
    @cw.cell
    def gated(W, x, h, *, s):
        return tanh(W.a(h, x)) * cw.step(s)

    layer, x, s = make(gated, {"s": H}), normal(T, B, X, seed=1), normal(B, H, seed=2)
    (found,) = torch.autograd.grad(layer(x, s=s)[0].sum(), s, allow_unused=True)
    assert found is None or not found.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_sum_has_the_same_bits_whatever_the_threads(dtype):
    layer = make(everywhere, {"s": S, "k": 1, "dt": 1}, bidirectional=True).to(dtype)
    x, dt = (normal(T, 40, n, seed=n, grad=False).to(dtype) for n in (X, 1))
    s, k = (normal(40, n, seed=9, grad=False).to(dtype) for n in (S, 1))
    s, k = s.requires_grad_(), k.requires_grad_()
    lengths, before = torch.arange(40) % (T + 1), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            y, _ = layer(x, s=s, k=k, dt=dt, lengths=lengths)
            found.append(torch.autograd.grad((y * y).sum(), [s, k]))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))


# -- never copied ----------------------------------------------------------------


class Largest(TorchDispatchMode):
    """The elements of the largest result of any operation."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return results


@pytest.mark.parametrize("options", [{}, {"lengths": [30, 20]}], ids=str)
@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_as_large_as_the_expanded_input_is_made(engine, options, monkeypatch):
    wide, steps = 500, 30
    layer = make(sizes={"s": wide}, engine=engine, bidirectional=True)
    x, s = normal(steps, 2, X, seed=1), normal(2, wide, seed=2)
    entered = []
    forward = SequenceScan.forward

    def watched(scan, tensors, training):
        entered.append((tensors[1].data_ptr(), tuple(tensors[1].shape)))
        return forward(scan, tensors, training)

    monkeypatch.setattr(SequenceScan, "forward", watched)
    with Largest() as largest:
        y, _ = layer(x, s=s, **options)
        torch.autograd.grad(y.sum(), [s, x, *layer.parameters()])
    assert largest.elements < steps * wide
    if engine == "native":
        assert entered == [(s.data_ptr(), (2, wide))] * 2


# -- the ways that a layer is run ------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
def test_compiled(options):
    layer = make(engine="native", **options)
    x, s = normal(T, B, X, seed=1), normal(B, S, seed=2)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert_same_values_and_gradients(
        lambda: compiled(x, s=s), lambda: layer(x, s=s), leaves_of(layer, x, s=s)
    )
    with torch.no_grad():
        assert_close(compiled(x, s=s)[0], layer(x, s=s)[0])


def test_exported_as_one_op():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = make(engine="native")

        def forward(self, x, s):
            return self.layer(x, s=s)[0]

    model = Model().eval()
    x, s = normal(T, B, X, seed=1, grad=False), normal(B, S, seed=2, grad=False)
    program = torch.export.export(model, (x, s))
    ops = [str(node.target) for node in program.graph.nodes]
    assert sum("cellwright.walk" in op for op in ops) == 1
    with torch.no_grad():
        assert_close(program.module()(x, s), model(x, s))


def test_transformed_and_differentiated_twice():
    layer = make(engine="native")
    x, s = normal(T, B, X, seed=1), normal(B, S, seed=2)

    def loss(s):
        return layer(x, s=s)[0].pow(2).sum()

    (expected,) = torch.autograd.grad(loss(s), s)
    assert_close(torch.func.grad(loss)(s), expected)
    many = normal(4, B, S, seed=3, grad=False)
    found = torch.func.vmap(lambda s: layer(x, s=s)[0])(many)
    assert_close(found, torch.stack([layer(x, s=one)[0] for one in many]))

    along = s.detach().expand(T, B, S).clone().requires_grad_()
    v = normal(B, S, seed=4, grad=False)
    (first,) = torch.autograd.grad(loss(s), s, create_graph=True)
    (second,) = torch.autograd.grad(first, s, v)
    (first,) = torch.autograd.grad(loss(along), along, create_graph=True)
    (wanted,) = torch.autograd.grad(first, along, v.expand(T, B, S))
    assert_close(second, wanted.sum(0))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("gradients_too", [False, True])
def test_recorded(engine, gradients_too):
    layer = make(engine=engine, bidirectional=True)
    x, s = normal(T, B, X, seed=1), normal(B, S, seed=2)
    found = []
    for given in (s, s.expand(T, B, S)):
        with cw.record(layer, gradients=gradients_too) as values:
            y, _ = layer(x, s=given, lengths=[2, 6, 4])
        if gradients_too:
            y.pow(2).sum().backward()
            found.append({n: v.grad for n, v in values.items()})
        else:
            found.append(dict(values))
    assert found[0]["0.i"].shape == (T, B, H)
    for name, wanted in found[1].items():
        assert_close(found[0][name], wanted, name)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_stepper_is_given_it_at_every_step(engine):
    layer = make(engine=engine, num_layers=2)
    x, s = normal(T, B, X, seed=1, grad=False), normal(B, S, seed=2, grad=False)
    step = layer.stepper(batch_size=B)
    with torch.no_grad():
        expected, _ = layer(x, s=s)
    assert_close(torch.stack([step(x_t, s=s) for x_t in x]), expected)


def test_a_copy_and_a_pickle_know_it():
    import copy
    import pickle

    layer = make(engine="native")
    x, s = normal(T, B, X, seed=1, grad=False), normal(B, S, seed=2, grad=False)
    y, _ = layer(x, s=s)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x, s=s)[0], y)
    cell = layer.direction(0).bound.programs.given_once(("s",))
    assert pickle.loads(pickle.dumps(cell)).static == ("s",)


# -- errors ----------------------------------------------------------------------


def test_other_shapes_are_refused():
    layer, x = make(), normal(T, B, X, seed=1)
    shapes = (B + 1, S), (B, S + 1), (S,), (1, B, S)
    for s in (normal(*shape, seed=2) for shape in shapes):
        with pytest.raises(cw.ArgumentError, match=r"\(6, 3, 3\), or \(3, 3\) for all"):
            layer(x, s=s)
    with pytest.raises(cw.ArgumentError, match=r"\(6, 3\), or \(3,\) for all steps"):
        layer(x[:, 0], s=normal(1, S, seed=2))
    packed = pack_padded_sequence(x, [6, 4, 2])
    with pytest.raises(cw.ArgumentError, match=r"\(12, 3\), or \(3, 3\) for all steps"):
        layer(packed, s=normal(T, B, S, seed=2))
    with pytest.raises(cw.ArgumentError, match=r"received none, expected s=tensor of"):
        layer(x)
    with pytest.raises(cw.ArgumentError, match=r"input 's' has another dtype"):
        layer(x, s=normal(B, S, seed=2).float())
