"""torch.func and torch.export over layers: every engine, or an error that says so."""

import io

import pytest
import torch
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

import cellwright as cw
from cellwright.engine import native, programs
from oracles import normal, randomise

needs_core = pytest.mark.skipif(not native.info()["native"], reason="no compiled core")
ENGINES = [pytest.param("native", marks=needs_core), "reference"]
LAYERS = {
    "LSTM": lambda engine: cw.LSTM(4, 5, engine=engine),
    "two-way GRU": lambda engine: cw.GRU(
        4, 5, 2, bidirectional=True, batch_first=True, engine=engine
    ),
    "any cell": lambda engine: cw.Recurrent("lem", 4, 5, engine=engine),
}


def make(name, engine):
    layer = LAYERS[name](engine).double()
    randomise(layer, scale=0.4)
    return layer


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


# -- torch.func ------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", LAYERS)
def test_torch_func_gives_what_autograd_gives(name, engine):
    layer, x = make(name, engine), normal(3, 2, 4, seed=1, grad=False)
    tangent = normal(3, 2, 4, seed=2, grad=False)

    def f(x):
        return layer(x)[0]

    def loss(x):
        return f(x).square().sum()

    leaf = x.clone().requires_grad_()
    jacobian = torch.autograd.functional.jacobian(f, x)
    close(grad(loss)(x), torch.autograd.grad(loss(leaf), leaf)[0])
    close(jvp(f, (x,), (tangent,))[1], torch.autograd.functional.jvp(f, x, tangent)[1])
    close(jacrev(f)(x), jacobian)
    close(jacfwd(f)(x), jacobian)
    small = x[:1, :1]
    close(hessian(loss)(small), torch.autograd.functional.hessian(loss, small))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", LAYERS)
def test_vmap_over_inputs_weights_and_gradients(name, engine):
    layer, xs = make(name, engine), normal(3, 3, 2, 4, seed=1, grad=False)
    mapped = vmap(lambda x: layer(x)[0])(xs)
    close(mapped, torch.stack([layer(x)[0] for x in xs]))
    weights = {n: p.detach() for n, p in layer.named_parameters()}

    def loss(weights, x):
        return functional_call(layer, weights, (x,))[0].square().sum()

    each = vmap(grad(loss), in_dims=(None, 0))(weights, xs)  # a gradient a sample
    for n, x in enumerate(xs):
        layer.zero_grad()
        layer(x)[0].square().sum().backward()
        for name, parameter in layer.named_parameters():
            close(each[name][n], parameter.grad)
    ensemble = {n: torch.stack([p, 2 * p]) for n, p in weights.items()}
    both = vmap(loss, in_dims=(0, None))(ensemble, xs[0])
    doubled = {n: 2 * p for n, p in weights.items()}
    close(both, torch.stack([loss(weights, xs[0]), loss(doubled, xs[0])]))


@pytest.mark.parametrize("name", ["LSTM", "two-way GRU"])
def test_torchs_kernels_refuse_vmap(name):
    layer, xs = make(name, "torch"), normal(3, 3, 2, 4, seed=1, grad=False)
    own = cw.Recurrent("gru_reset_after", 4, 5, engine="torch", dtype=torch.float64)
    for rnn in (layer, own):
        with pytest.raises(cw.ArgumentError, match=r"cannot be mapped by torch.func"):
            vmap(lambda x, rnn=rnn: rnn(x)[0])(xs)
        found = grad(lambda x, rnn=rnn: rnn(x)[0].square().sum())(xs[0])
        leaf = xs[0].clone().requires_grad_()
        close(found, torch.autograd.grad(rnn(leaf)[0].square().sum(), leaf)[0])


# -- torch.export ----------------------------------------------------------------------


@needs_core
@pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_native_layer_exports_as_one_op_of_any_length_and_batch(name, strict):
    layer, x = make(name, "native"), normal(3, 4, 4, seed=1, grad=False)
    sizes = {0: torch.export.Dim("n", min=2), 1: torch.export.Dim("m", min=2)}
    exported = torch.export.export(layer, (x,), dynamic_shapes=(sizes,), strict=strict)
    walks = [n for n in exported.graph.nodes if "cellwright.walk" in str(n.target)]
    assert len(walks) == (4 if name == "two-way GRU" else 1)
    saved = io.BytesIO()
    torch.export.save(exported, saved)
    saved.seek(0)
    for program in (exported, torch.export.load(saved)):
        for other in (x, normal(7, 2, 4, seed=2, grad=False)):
            assert torch.equal(program.module()(other)[0], layer(other)[0])


@needs_core
@pytest.mark.filterwarnings("ignore")
def test_a_program_whose_layer_is_not_there_says_so(monkeypatch):
    layer, x = make("any cell", "native"), normal(3, 4, 4, seed=1, grad=False)
    program = torch.export.export(layer, (x,)).module()
    monkeypatch.setattr(programs, "_traced", {})
    monkeypatch.setattr(programs, "_alive", set())
    with pytest.raises(cw.ArgumentError, match="Make a layer of the same cell"):
        program(x)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("strict", [False, True])
def test_the_reference_exports_its_steps_for_any_batch(strict):
    layer, x = make("any cell", "reference"), normal(3, 4, 4, seed=1, grad=False)
    sizes = {1: torch.export.Dim("batch", min=2)}
    exported = torch.export.export(layer, (x,), dynamic_shapes=(sizes,), strict=strict)
    for other in (x, normal(3, 2, 4, seed=2, grad=False)):
        close(exported.module()(other)[0], layer(other)[0])


@pytest.mark.filterwarnings("ignore")
def test_the_reference_cannot_export_any_length():
    layer, x = make("any cell", "reference"), normal(3, 4, 4, seed=1, grad=False)
    sizes = {0: torch.export.Dim("time", min=2)}
    with pytest.raises(torch._dynamo.exc.UserError, match="time"):
        torch.export.export(layer, (x,), dynamic_shapes=(sizes,), strict=False)


# -- leaves that depend on each other --------------------------------------------------


@cw.cell
def conditioned(W, x, h, *, s):
    return h + cw.tanh(W.g(h, x, s)) * cw.sigmoid(W.u(s))


def state_of_x(layer, x):
    """Both initial states are one tensor, made of x."""
    h = x[:1].tanh().repeat(len(layer.cells), 1, 1)
    return layer(x, (h, h))[0]


def static_in_two_layers(layer, x):
    return layer(x, s=x[0].sin())[0]


def scaled_weights(layer, x):
    scale = 1 + x.mean()
    weights = {n: scale * p for n, p in layer.named_parameters()}
    return functional_call(layer, weights, (x,))[0]


def scaled_tree(layer, x):
    rows = x[:2, 0]
    weights = {n: p * (1 + rows.mean()) for n, p in layer.named_parameters()}
    forest = cw.Forest.from_parents([1, -1, 1], inputs=[0, 2])
    return functional_call(layer, weights, (rows, forest))[0]


DEPENDENT = {
    "state": (state_of_x, lambda e: cw.LSTM(4, 4, engine=e)),
    "layers": (
        static_in_two_layers,
        lambda e: cw.Recurrent(conditioned, 4, 5, 2, inputs={"s": 4}, engine=e),
    ),
    "weights": (scaled_weights, lambda e: cw.Recurrent("lem", 4, 5, engine=e)),
    "tree": (scaled_tree, lambda e: cw.TreeRecurrent("binary_lstm", 4, 5, engine=e)),
}


@needs_core
@pytest.mark.parametrize("which", DEPENDENT)
def test_gradients_that_are_differentiated_again_count_each_path_once(which):
    run, build = DEPENDENT[which]
    found = []
    for engine, again in (("native", False), ("native", True), ("reference", True)):
        layer = build(engine).double()
        randomise(layer, scale=0.4)
        x = normal(3, 2, 4, seed=1)
        y = run(layer, x)
        cotangent = normal(*y.shape, seed=2, grad=False)
        (first,) = torch.autograd.grad(y, x, cotangent, create_graph=again)
        found.append([first])
        if again:
            direction = normal(*x.shape, seed=3, grad=False)
            leaves = [x, *layer.parameters()]
            found[-1] += torch.autograd.grad(first, leaves, direction)
    close(found[1][0], found[0][0])
    for mine, exact in zip(found[1], found[2], strict=True):
        close(mine, exact)


# -- numbers that a schedule reads -----------------------------------------------------

ROWS = {
    "lengths": torch.tensor([2, 4]),
    "starts": torch.tensor([1, 0]),
    "resets": torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]]),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on import
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("which", ROWS)
def test_torch_func_over_layers_with_rows_of_their_own(engine, which):
    layer, x = make("LSTM", engine), normal(4, 2, 4, seed=1, grad=False)
    tangent = normal(4, 2, 4, seed=2, grad=False)

    def f(x):
        return layer(x, **{which: ROWS[which]})[0]

    def loss(x):
        return f(x).square().sum()

    leaf = x.clone().requires_grad_()
    close(grad(loss)(x), torch.autograd.grad(loss(leaf), leaf)[0])
    close(jvp(f, (x,), (tangent,))[1], torch.autograd.functional.jvp(f, x, tangent)[1])
    many = torch.stack([x, 2 * x])
    close(vmap(f)(many), torch.stack([f(v) for v in many]))


@needs_core
def test_lengths_cannot_differ_under_vmap():
    layer, x = make("LSTM", "native"), normal(4, 2, 4, seed=1, grad=False)
    many = torch.stack([ROWS["lengths"], ROWS["lengths"]])
    with pytest.raises(cw.ArgumentError, match=r"\[lengths\].*a batch of them"):
        vmap(lambda n: layer(x, lengths=n)[0])(many)


@needs_core
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["trace", "export"])
def test_a_learned_state_in_a_program_made_without_gradients(how):
    """Of every reset of a row, though nobody wanted gradients when it was traced."""
    layer = cw.Recurrent("lstm", 4, 5, learn_initial_state=True, engine="native")
    layer = randomise(layer.double())
    x, begins = normal(4, 2, 4, seed=1, grad=False), ROWS["resets"].bool()

    class Outputs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, begins):
            return self.layer(x, resets=begins)[0]

    model = Outputs()
    with torch.no_grad():
        if how == "trace":
            program = torch.jit.trace(model, (x, begins))
        else:
            program = torch.export.export(model, (x, begins)).module()
    cotangent = normal(4, 2, 5, seed=2, grad=False)
    own = dict(layer.initial_states.named_parameters())
    expected = torch.autograd.grad(model(x, begins), list(own.values()), cotangent)
    given = dict(program.named_parameters())
    starts = [p for n, p in given.items() if "initial_states" in n]
    assert len(starts) == len(expected)
    found = torch.autograd.grad(program(x, begins), starts, cotangent)
    for mine, exact in zip(found, expected, strict=True):
        close(mine, exact)
