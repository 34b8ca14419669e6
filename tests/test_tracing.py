"""Who looks at torch's operations sees the layer: tracers, modes, subclasses."""

import gc
import io
import weakref

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

import cellwright as cw
from cellwright.engine import native
from oracles import normal, randomise

pytestmark = [
    pytest.mark.skipif(not native.info()["native"], reason="no compiled core"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

LAYERS = {
    "LSTM": lambda **k: cw.LSTM(3, 4, proj_size=2, **k),
    "two-way GRU": lambda **k: cw.GRU(3, 4, 2, bidirectional=True, **k),
    "ReLU": lambda **k: cw.RNN(3, 4, nonlinearity="relu", batch_first=True, **k),
    "any cell": lambda **k: cw.Recurrent("peephole", 3, 4, 2, **k),
    "learned": lambda **k: cw.Recurrent(
        "gru", 3, 4, bidirectional=True, learn_initial_state=True, **k
    ),
}


class Tagger(nn.Module):
    """A model that holds a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.out = layer, nn.Linear(layer.output_size, 2)
        self.double()
        randomise(self, scale=0.4)

    def forward(self, x, lengths=None, resets=None):
        y, state = self.layer(x, lengths=lengths, resets=resets)
        states = state if isinstance(state, tuple) else (state,)
        return self.out(y), *states


def arguments(model, steps, batch, seed, orders):
    first = model.layer.batch_first
    shape = (batch, steps) if first else (steps, batch)
    x = normal(*shape, 3, seed=seed)
    if not orders:
        return (x,)
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, steps + 1, (batch,), generator=generator)
    return x, lengths, torch.rand(shape, generator=generator) < 0.3


def results_and_gradients(call, model, given):
    results = call(*given)
    torch.manual_seed(5)
    cotangents = [torch.randn_like(r) for r in results]
    wanted = [given[0], *model.parameters()]
    found = torch.autograd.grad(results, wanted, cotangents, allow_unused=True)
    return [*results, *found]


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("orders", [False, True], ids=["whole", "lengths, resets"])
@pytest.mark.parametrize("traced_with_grad", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_trace_is_right_for_other_sizes_with_and_without_gradients(
    name, traced_with_grad, orders
):
    model = Tagger(LAYERS[name](engine="native"))
    oracle = Tagger(LAYERS[name](engine="reference"))
    oracle.load_state_dict(model.state_dict())
    with torch.set_grad_enabled(traced_with_grad):
        traced = torch.jit.trace(model, arguments(model, 5, 2, 1, orders))
    saved = io.BytesIO()
    torch.jit.save(traced, saved)
    saved.seek(0)
    loaded = torch.jit.load(saved)
    for steps, batch in ((7, 3), (2, 5)):
        given = arguments(model, steps, batch, 2, orders)
        expected = results_and_gradients(oracle, oracle, given)
        close(results_and_gradients(traced, model, given), expected)
        close(results_and_gradients(loaded, loaded, given), expected)
        with torch.no_grad():
            close(list(traced(*given)), expected[: -1 - len([*model.parameters()])])


def test_dropout_is_drawn_anew_by_a_trace():
    layer, x = cw.LSTM(3, 4, 2, dropout=0.5), torch.randn(9, 4, 3)
    traced = torch.jit.trace(layer, torch.randn(5, 2, 3), check_trace=False)
    torch.manual_seed(1)
    found = traced(x)[0]
    torch.manual_seed(1)
    assert torch.equal(found, layer(x)[0])
    assert not torch.equal(traced(x)[0], found)


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("name", ["LSTM", "two-way GRU", "ReLU"])
def test_torchs_kernels_trace_as_torch_nn_does(name, engine):
    model = Tagger(LAYERS[name](engine=engine))
    traced = torch.jit.trace(model, arguments(model, 5, 2, 1, False))
    given = arguments(model, 7, 3, 2, False)
    close(list(traced(*given)), list(model(*given)))


def test_what_a_trace_cannot_hold_is_refused():
    x, lengths = torch.randn(5, 2, 3), torch.tensor([5, 3])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths)
    reference, kernels = (cw.GRU(3, 4, engine=e) for e in ("reference", "torch"))
    native_layer = cw.Recurrent("gru", 3, 4)
    tree = cw.TreeRecurrent("child_sum_lstm", 3, 4)
    forest = cw.Forest.from_parents([2, 2, -1])
    step, slow = native_layer.stepper(2), reference.stepper(2)
    regular = cw.Recurrent("lstm", 3, 4, recurrent_dropout=0.3)
    refused = {
        "masks of a regulariser": lambda x: regular(x)[0],
        "the steps of one sequence": lambda x: reference(x)[0],
        "lengths that are read as numbers": lambda x: kernels(x, lengths=lengths)[0],
        "a PackedSequence": lambda x: native_layer(packed)[0].data,
        "a layer over trees": lambda x: tree(x[:3, 0], forest)[0],
        r"\[stepper\] reads and": lambda x: step(x[0]),
        r"\[stepper\] reads": lambda x: slow(x[0]),
        "values cannot leave": lambda x: recorded(native_layer, x),
    }
    for layer in (reference, kernels, native_layer, tree, regular):
        layer.requires_grad_(False)  # torch traces no other weights of a function
    for words, call in refused.items():
        with torch.no_grad(), pytest.raises(cw.ArgumentError, match=words):
            torch.jit.trace(call, x)


class First(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


def recorded(layer, x):
    with cw.record(layer):
        return layer(x)[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_older_onnx_exporter_is_sent_to_ours():
    pytest.importorskip("onnx")
    for layer in (cw.LSTM(3, 4), cw.Recurrent("peephole", 3, 4, engine="reference")):
        with pytest.raises(cw.ArgumentError, match=r"cellwright\.export_onnx"):
            torch.onnx.export(
                First(layer), (torch.randn(5, 2, 3),), io.BytesIO(), dynamo=False
            )


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic", "pre_dispatch"])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_make_fx_sees_the_op(name, grad, mode):
    model = Tagger(LAYERS[name](engine="native"))
    other = arguments(model, 5, 3, 2, True)
    with torch.set_grad_enabled(grad):
        early = mode == "pre_dispatch"
        how = "real" if early else mode
        program = make_fx(
            model,
            tracing_mode=how,
            pre_dispatch=early,
            _allow_non_fake_inputs=how != "real",
        )(*arguments(model, 5, 3, 1, True))
        assert "cellwright.walk" in program.code
        close(list(program(*other)), list(model(*other)))


def test_make_fx_sees_trees_and_refuses_numbers_that_it_cannot_know():
    tree = cw.TreeRecurrent("child_sum_lstm", 3, 4)
    forest = cw.Forest.from_parents([2, 2, -1])
    x, other = torch.randn(3, 3), torch.randn(3, 3)
    program = make_fx(lambda x: tree(x, forest)[0])(x)
    torch.testing.assert_close(program(other), tree(other, forest)[0])
    layer, lengths = cw.GRU(3, 4, engine="reference"), torch.tensor([2, 1])
    with pytest.raises(RuntimeError, match="get value out of a tracing tensor"):
        make_fx(lambda x, n: layer(x, lengths=n)[0])(torch.randn(2, 2, 3), lengths)


class Looks(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_dispatch_modes_and_fake_tensors():
    layer = cw.LSTM(3, 4)
    x = torch.randn(5, 2, 3, requires_grad=True)
    y = layer(x)[0]
    with Looks() as mode:
        seen = layer(x)[0]
        seen.sum().backward()
        found = torch.autograd.grad(y.sum(), x)[0]  # the forward call was not seen
    assert "cellwright.walk.default" in mode.seen
    assert "cellwright.walk_backward.default" in mode.seen
    assert torch.equal(seen, y)
    torch.testing.assert_close(found, x.grad)
    with FakeTensorMode(allow_non_fake_inputs=True) as fakes:
        fake = fakes.from_tensor(x.detach())
        assert layer(fake)[0].shape == (5, 2, 4)
    assert layer.requires_grad_(False)(fake)[0].shape == (5, 2, 4)  # out of its mode


# -- memory that is not the value ------------------------------------------------------


def negative(*shape):
    """A tensor with torch's negative bit, and its values in memory of their own."""
    bit = torch.randn(*shape, dtype=torch.complex128).conj().imag
    assert bit.is_neg()
    return bit, bit.clone()


@pytest.mark.parametrize("shape", [(1, 1), (5, 2), (1, 2)])
@pytest.mark.parametrize("which", ["x", "state", "named", "cotangent", "weight"])
def test_the_negative_bit_is_read(which, shape):
    @cw.cell
    def timed(W, x, h, *, dt):
        return h + dt * cw.tanh(W.g(h, x))

    layer = cw.Recurrent(timed, 1, 1, inputs={"dt": 1}, dtype=torch.float64)
    sizes = {"x": shape, "named": shape, "cotangent": shape, "state": (1, shape[1])}
    pair = negative(*sizes.get(which, (1, 2)), *([] if which == "weight" else [1]))
    found = []
    for value in pair:
        x = value if which == "x" else torch.ones(*shape, 1, dtype=torch.float64)
        dt = value if which == "named" else torch.ones_like(x)
        h = value if which == "state" else x.new_ones(1, shape[1], 1)
        if which == "weight":
            layer.cells[0].g.weight = nn.Parameter(value)
        leaves = [layer.cells[0].g.bias]
        y, last = layer(x, h, dt=dt)
        grad = value if which == "cotangent" else torch.ones_like(y)
        with torch.no_grad():
            again = layer(x, h, dt=dt)[0]
        found.append([y, last, again, *torch.autograd.grad(y, leaves, grad)])
    close(*found)
    assert which == "cotangent" or (found[0][0] != 0).all()


def test_the_negative_bit_in_trees_and_steppers():
    tree = cw.TreeRecurrent("child_sum_lstm", 1, 4, dtype=torch.float64)
    forest = cw.Forest.from_parents([-1])
    bit, value = negative(1, 1)
    close(tree(bit, forest)[0], tree(value, forest)[0])
    for engine in ("native", "reference"):
        step = cw.GRU(1, 4, engine=engine, dtype=torch.float64).stepper()
        found = step(bit)
        step.reset()
        close(found, step(value))
        with pytest.raises(cw.ArgumentError, match="negative bit True"):
            step(value, out=torch._neg_view(torch.empty(1, 4, dtype=torch.float64)))


def test_what_a_stepper_cannot_read():
    step = cw.GRU(3, 4).stepper()
    with pytest.raises(cw.ArgumentError, match="expected a plain tensor"):
        make_fx(step)(torch.randn(1, 3))
    x = torch.randn(1, 3)
    expected = step(x) + 1
    step.reset()
    compiled = torch.compile(lambda x: step(x) + 1, backend="eager")
    assert torch.equal(compiled(x), expected)


# -- batches of cotangents -------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_jacobians_of_many_cotangents_at_once(name):
    layer = LAYERS[name](engine="native").double()
    randomise(layer, scale=0.4)
    x = normal(3, 2, 3, seed=1, grad=False)
    jacobian, hessian = (
        torch.autograd.functional.jacobian,
        torch.autograd.functional.hessian,
    )

    def f(x):
        return layer(x)[0].sum(1)

    close(jacobian(f, x, vectorize=True), jacobian(f, x))
    small = x[:1, :1]

    def loss(x):
        return layer(x)[0].square().sum()

    close(hessian(loss, small, vectorize=True), hessian(loss, small))
    leaf = x.clone().requires_grad_()
    y = layer(leaf)[0]
    wanted = [leaf, *layer.parameters()]
    cotangents = normal(4, *y.shape, seed=3, grad=False)
    batched = torch.autograd.grad(
        y, wanted, cotangents, is_grads_batched=True, retain_graph=True
    )
    for n, cotangent in enumerate(cotangents):
        one = torch.autograd.grad(y, wanted, cotangent, retain_graph=True)
        close([g[n] for g in batched], list(one))


def test_jacobians_of_trees():
    tree = cw.TreeRecurrent("child_sum_lstm", 3, 4, dtype=torch.float64)
    forest = cw.Forest.from_parents([2, 2, -1])
    x = normal(3, 3, seed=1, grad=False)
    jacobian = torch.autograd.functional.jacobian
    close(
        jacobian(lambda x: tree(x, forest)[0], x, vectorize=True),
        jacobian(lambda x: tree(x, forest)[0], x),
    )


# -- compiled models -------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
@pytest.mark.parametrize(("name", "dynamic"), [("LSTM", True), ("two-way GRU", None)])
def test_models_that_hold_a_drop_in_compile_as_one_graph(name, dynamic):
    torch._dynamo.reset()
    model = Tagger(LAYERS[name](engine="native"))
    compiled = torch.compile(
        model, fullgraph=True, backend="aot_eager", dynamic=dynamic
    )
    for orders in (False, True):
        for steps, batch in ((5, 2), (7, 3)):  # lengths, no resets
            given = arguments(model, steps, batch, 2, orders)[: 1 + orders]
            close(
                results_and_gradients(compiled, model, given),
                results_and_gradients(model, model, given),
            )


@pytest.mark.filterwarnings("ignore")
def test_a_program_exported_without_gradients_has_them_right():
    layer = cw.LSTM(3, 4, dtype=torch.float64)
    x = normal(5, 2, 3, seed=1)
    with torch.no_grad():
        program = torch.export.export(layer, (x,)).module()
    expected = torch.autograd.grad(layer(x)[0].square().sum(), x)
    close(torch.autograd.grad(program(x)[0].square().sum(), x), expected)


# -- cells that are known --------------------------------------------------------------


def test_cells_die_with_their_layers_unless_a_program_holds_them():
    layer = cw.Recurrent("peephole", 3, 17)
    cell = weakref.ref(layer.direction(0).bound.programs)
    del layer
    gc.collect()
    assert cell() is None
    layer = cw.Recurrent("peephole", 3, 18)
    x = torch.randn(5, 2, 3)
    with torch.no_grad():
        expected, program = layer(x)[0], torch.jit.trace(layer, x)
    del layer
    gc.collect()
    assert torch.equal(program(x)[0], expected)
