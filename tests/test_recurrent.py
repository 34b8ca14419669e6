"""`Recurrent`: shapes, states, options, engines, errors, whole copies."""

import copy
import io
import itertools
import multiprocessing
import pickle

import pytest
import torch

import cellwright as cw
import oracles
from cellwright import cell, sigmoid, tanh
from oracles import (
    STEPS,
    assert_close,
    assert_same_values_and_gradients,
    leaves_of,
    normal,
    randomise,
)

T, B, X, H, P = 4, 3, 5, 4, 3


def make(definition="peephole", engine="reference", **options):
    options = {"dtype": torch.float64, **options}
    return randomise(cw.Recurrent(definition, X, H, engine=engine, **options))


def initial(layer, batch=B, seed=50):
    count = len(layer.cells)
    shape = (count, batch) if batch else (count,)
    sizes = [int(s.size) for s in layer.graphs[0].states]
    return [normal(*shape, s, seed=seed + k) for k, s in enumerate(sizes)]


def as_argument(states):
    return states[0] if len(states) == 1 else tuple(states)


# -- shapes --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_layers", "bidirectional", "batch_first"),
    list(itertools.product((1, 3), (False, True), (False, True))),
)
def test_shapes_follow_layers_directions_and_batch_first(
    num_layers, bidirectional, batch_first
):
    layer = make(
        num_layers=num_layers, bidirectional=bidirectional, batch_first=batch_first
    )
    directions = 2 if bidirectional else 1
    x = normal(*((B, T, X) if batch_first else (T, B, X)), seed=1)
    y, (h, c) = layer(x)
    assert y.shape == (*x.shape[:2], directions * H)
    assert layer.output_size == directions * H
    assert h.shape == c.shape == (num_layers * directions, B, H)
    assert len(layer.cells) == num_layers * directions


@pytest.mark.parametrize("bidirectional", [False, True])
def test_batch_first_only_transposes_x_and_y(bidirectional):
    options = {"num_layers": 2, "bidirectional": bidirectional}
    layer = make(**options)
    first = make(batch_first=True, **options)
    first.load_state_dict(layer.state_dict())
    x, states = normal(T, B, X, seed=1), tuple(initial(layer))
    y, finals = layer(x, states)
    first_y, first_finals = first(x.transpose(0, 1), states)
    assert torch.equal(first_y, y.transpose(0, 1))
    assert all(map(torch.equal, first_finals, finals))


@pytest.mark.parametrize("batch_first", [False, True])
def test_unbatched_input_is_a_batch_of_one(batch_first):
    layer = make(num_layers=2, bidirectional=True, batch_first=batch_first)
    x, states = normal(T, X, seed=1), initial(layer, batch=0)
    y, finals = layer(x, tuple(states))
    assert y.shape == (T, 2 * H)
    assert all(f.shape == (4, H) for f in finals)
    batched, batched_finals = layer(
        x[None] if batch_first else x[:, None], tuple(s[:, None] for s in states)
    )
    assert torch.equal(y, batched.reshape(T, 2 * H))
    assert all(
        torch.equal(f, g[:, 0]) for f, g in zip(finals, batched_finals, strict=True)
    )


@pytest.mark.parametrize("name", ["rnn", "gru", "indrnn", "janet"])
def test_a_cell_with_one_state_takes_and_returns_the_bare_state(name):
    layer = make(name)
    x, (h,) = normal(T, B, X, seed=1), initial(layer)
    y, final = layer(x, h)
    assert isinstance(final, torch.Tensor)
    assert torch.equal(final[0], y[-1])
    assert torch.equal(layer(x, (h,))[0], y)


def test_a_cell_with_several_states_takes_and_returns_a_tuple_in_order():
    layer = make("fgr")
    x, states = normal(T, B, X, seed=1), initial(layer)
    y, finals = layer(x, tuple(states))
    assert isinstance(finals, tuple)
    assert len(finals) == 5
    assert torch.equal(finals[0][0], y[-1])
    assert torch.equal(layer(x, list(states))[0], y)


def test_the_backward_direction_walks_from_the_end():
    layer = make("gru_bias", bidirectional=True)
    x = normal(T, B, X, seed=1)
    y, h = layer(x)
    assert torch.equal(h[0], y[-1, :, :H])
    assert torch.equal(h[1], y[0, :, H:])
    changed = x.detach().clone()
    changed[-1] += 1
    other, _ = layer(changed)
    assert torch.equal(other[:-1, :, :H], y[:-1, :, :H])
    assert not torch.equal(other[0, :, H:], y[0, :, H:])


def test_a_sequence_in_two_pieces_with_carried_state_is_the_whole():
    layer = make("fgr", num_layers=2)
    x, states = normal(T, B, X, seed=1), tuple(initial(layer))
    y, finals = layer(x, states)
    first, carried = layer(x[:1], states)
    rest, last = layer(x[1:], carried)
    assert_close(torch.cat([first, rest]), y)
    for found, expected in zip(last, finals, strict=True):
        assert_close(found, expected)


def test_rows_of_a_batch_do_not_see_each_other():
    layer = make("peephole", num_layers=2, bidirectional=True)
    x = normal(T, B, X, seed=1)
    y, _ = layer(x)
    (found,) = torch.autograd.grad(y[:, 1].sum(), x)
    assert found[:, 1].all()
    assert not found[:, [0, 2]].any()


def test_a_layer_of_every_depth_sees_the_outputs_of_the_one_before():
    deep = make("mgu", num_layers=3, bidirectional=True)
    widths = [g.inputs[0].size for g in deep.graphs]
    assert widths == [X, X, 2 * H, 2 * H, 2 * H, 2 * H]
    assert deep.cells[4].f.weight.shape == (H, H + 2 * H)


# -- sizes ---------------------------------------------------------------------


def test_proj_size_is_the_width_of_the_output_and_the_first_state():
    layer = make("lstm_projected", proj_size=P, num_layers=2, bidirectional=True)
    y, (h, c) = layer(normal(T, B, X, seed=1))
    assert y.shape == (T, B, 2 * P)
    assert h.shape == (4, B, P)
    assert c.shape == (4, B, H)
    assert layer.cells[2].f.weight.shape == (H, P + 2 * P)


@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize("given", [{}, {"proj_size": H}, {"proj_size": 0}])
def test_a_projection_to_the_hidden_size_runs_on_any_engine(engine, given):
    """torch's kernel knows no projection where both states are as wide."""
    layer = make("lstm_projected", engine, **given)
    x, states = normal(T, B, X, seed=1), initial(layer)
    assert_same_values_and_gradients(
        lambda: layer(x, tuple(states)),
        lambda: oracles.layers(STEPS["lstm_projected"], layer.cells, x, states),
        leaves_of(layer, x, states),
    )


def test_a_projection_to_the_hidden_size_is_none_of_torchs_kernels():
    layer = cw.Recurrent("lstm_projected", X, H, dtype=torch.float16)
    assert layer.engine == "reference"
    assert "torch knows no projection" in layer.engine_reason
    y, _ = layer(torch.ones(T, B, X, dtype=torch.float16))
    assert y.shape == (T, B, H)
    with pytest.raises(cw.ArgumentError, match="knows no projection"):
        cw.Recurrent("lstm_projected", X, H, engine="torch")
    narrow = cw.Recurrent("lstm_projected", X, H, proj_size=P, engine="torch")
    assert narrow.engine == "torch"


@cell
def reader(W, x, h, c):
    """An output that is no state, of a size of its own."""
    c = tanh(W.a(h, c, x))
    h = sigmoid(W.b(c, x)) * c
    return W.y(h, c, size="read_size"), h, c


def reader_by_hand(W, x, h, c):
    c = torch.tanh(oracles.affine(W.a, h, c, x))
    h = torch.sigmoid(oracles.affine(W.b, c, x)) * c
    return oracles.affine(W.y, h, c), [h, c]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_output_that_is_no_state_feeds_the_next_layer(bidirectional):
    layer = make(reader, num_layers=2, bidirectional=bidirectional, read_size=2)
    x, states = normal(T, B, X, seed=1), initial(layer)
    assert_same_values_and_gradients(
        lambda: layer(x, tuple(states)),
        lambda: oracles.layers(
            reader_by_hand, layer.cells, x, states, bidirectional=bidirectional
        ),
        leaves_of(layer, x, states),
    )
    y, (h, c) = layer(x, tuple(states))
    assert y.shape[-1] == layer.output_size == (4 if bidirectional else 2)
    assert h.shape[-1] == c.shape[-1] == H


def test_an_output_of_one_unit_is_not_spread():
    @cell
    def scalar(W, x, h):
        h = tanh(W.h(h, x))
        return cw.sum(h), h

    layer = make(scalar)
    y, h = layer(normal(T, B, X, seed=1))
    assert y.shape == (T, B, 1)
    assert_close(y[-1, :, 0], h[0].sum(-1))


# -- named inputs --------------------------------------------------------------


@cell
def timed(W, x, h, *, dt, mass):
    return h + dt * tanh(W.n(h, x, mass))


def timed_layers(layer, x, h, dt, mass):
    """Every layer and direction sees the same named inputs, at its own steps."""
    finals, directions = [], 2
    for first in range(0, len(layer.cells), directions):
        outputs = []
        for k in (first, first + 1):
            W, state, ys = layer.cells[k], h[k], [None] * len(x)
            for t in range(len(x))[:: -1 if k > first else 1]:
                rows = oracles.affine(W.n, state, x[t], mass[t])
                state = state + dt[t] * torch.tanh(rows)
                ys[t] = state
            outputs.append(torch.stack(ys))
            finals.append(state)
        x = torch.cat(outputs, -1)
    return x, torch.stack(finals)


@pytest.mark.parametrize("batch_first", [False, True])
def test_named_inputs_reach_every_layer_and_direction(batch_first):
    layer = make(
        timed,
        num_layers=2,
        bidirectional=True,
        batch_first=batch_first,
        inputs={"dt": 1, "mass": 2},
    )
    x, (h,) = normal(T, B, X, seed=1), initial(layer)
    dt, mass = normal(T, B, 1, seed=8), normal(T, B, 2, seed=9)

    def turn(v):
        return v.transpose(0, 1) if batch_first else v

    def run():
        y, final = layer(turn(x), h, dt=turn(dt), mass=turn(mass))
        return turn(y), final

    assert_same_values_and_gradients(
        run,
        lambda: timed_layers(layer, x, h, dt, mass),
        {**leaves_of(layer, x, [h]), "dt": dt, "mass": mass},
    )


def test_named_inputs_may_be_unbatched_with_x():
    layer = make(timed, inputs={"dt": 1, "mass": 2})
    x, dt, mass = (normal(T, n, seed=n) for n in (X, 1, 2))
    y, _ = layer(x, dt=dt, mass=mass)
    batched, _ = layer(x[:, None], dt=dt[:, None], mass=mass[:, None])
    assert torch.equal(y, batched[:, 0])


def test_missing_unknown_and_misshapen_inputs_are_refused():
    layer = make(timed, inputs={"dt": 1, "mass": 2})
    x, dt, mass = (normal(T, B, n, seed=n) for n in (X, 1, 2))
    with pytest.raises(cw.ArgumentError, match=r"'mass' at every step.*\(4, 3, 2\)"):
        layer(x, dt=dt)
    with pytest.raises(cw.ArgumentError, match=r"no input 'weight'.*dt, mass"):
        layer(x, dt=dt, mass=mass, weight=dt)
    with pytest.raises(cw.ArgumentError, match=r"'dt' has the wrong shape.*\(4, 3, 1"):
        layer(x, dt=mass, mass=mass)
    with pytest.raises(cw.ArgumentError, match=r"no input 'dt'.*x alone"):
        make("lstm")(x, dt=dt)


@pytest.mark.parametrize("wrong", ["dtype", "type"])
def test_a_named_input_of_another_dtype_is_refused(wrong):
    layer = make(timed, inputs={"dt": 1, "mass": 2})
    x, dt, mass = (normal(T, B, n, seed=n) for n in (X, 1, 2))
    dt = dt.float() if wrong == "dtype" else [1.0]
    with pytest.raises(cw.ArgumentError, match="dt"):
        layer(x, dt=dt, mass=mass)


@pytest.mark.parametrize("name", ["state", "lengths", "resets"])
def test_a_named_input_called_as_an_argument_of_the_layer_is_refused(name):
    """It could never be passed."""
    scope = {"tanh": tanh}
    exec(f"def c(W, x, h, *, {name}):\n    return tanh(W.n(h, x)) + {name}", scope)
    with pytest.raises(cw.CellwrightError, match=name):
        cw.Recurrent(cell(scope["c"]), X, H, inputs={name: 1})


# -- dropout -------------------------------------------------------------------


def test_dropout_between_layers_acts_in_training_only():
    layer = make("gru_bias", num_layers=2, dropout=0.5)
    x = normal(T, B, X, seed=1)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    without = make("gru_bias", num_layers=2)
    assert torch.equal(layer(x)[0], without(x)[0])


def test_dropout_follows_torchs_seed():
    layer = make("gru_bias", num_layers=3, dropout=0.5)
    x, found = normal(T, B, X, seed=1), []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found.append(layer(x)[0])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_full_dropout_cuts_the_layers_apart():
    layer = make("rnn", num_layers=2, dropout=1.0)
    x = normal(T, B, X, seed=1)
    (found,) = torch.autograd.grad(layer(x)[0].sum(), x)
    assert not found.any()
    zeros = torch.zeros(T, B, H, dtype=torch.float64)
    start = torch.zeros(1, B, H, dtype=torch.float64)
    alone, _ = oracles.layers(STEPS["rnn"], [layer.cells[1]], zeros, [start])
    assert_close(layer(x)[0], alone)


def test_dropout_leaves_the_input_whole():
    layer, without = (make("rnn", num_layers=2, dropout=p) for p in (1.0, 0.0))
    x = normal(T, B, X, seed=1)
    assert torch.equal(layer(x)[1][0], without(x)[1][0])
    assert not torch.equal(layer(x)[1][1], without(x)[1][1])


def test_dropout_scales_what_it_keeps_so_that_the_mean_stays():
    layer = make("rnn", num_layers=2, dropout=0.75)
    seen = []
    layer.cells[1].h.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    below, _ = make("rnn")(normal(T, B, X, seed=1))
    layer(normal(T, B, X, seed=1))
    kept = torch.stack(seen)
    assert not kept.all()
    ratio = kept[kept != 0] / below[kept != 0]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 4.0))


def test_dropout_leaves_the_last_layers_output_whole():
    layer = make("rnn", num_layers=2, dropout=0.9)
    y, _ = layer(normal(T, B, X, seed=1))
    assert y.all()


def test_dropout_in_a_single_layer_warns():
    with pytest.warns(UserWarning, match=r"between layers.*dropout=0\.5, num_layers=1"):
        cw.Recurrent("rnn", X, H, dropout=0.5)


# -- engines -------------------------------------------------------------------


@cell
def my_lstm(W, x, out, memory):
    """The LSTM in other words: names, order of lines, sums, factors, operands."""
    write = tanh(W.candidate(x, out))
    show = sigmoid(W.show(out, x))
    keep = sigmoid(W.keep(x, out))
    memory = sigmoid(W.store(out, x)) * write + memory * keep
    return tanh(memory) * show, memory


def my_lstm_by_hand(W, x, out, memory):
    keep = torch.sigmoid(oracles.affine(W.keep, x, out))
    store = torch.sigmoid(oracles.affine(W.store, out, x))
    write = torch.tanh(oracles.affine(W.candidate, x, out))
    memory = keep * memory + store * write
    out = torch.sigmoid(oracles.affine(W.show, out, x)) * torch.tanh(memory)
    return out, [out, memory]


@cell
def unbiased_lstm(W, x, h, c):
    f = sigmoid(W.f(h, x, bias=False))
    c = f * c + sigmoid(W.i(h, x)) * tanh(W.g(h, x, bias=False))
    return sigmoid(W.o(h, x, bias=2.0)) * tanh(c), c


ON_TORCH = {
    "lstm": ("lstm", STEPS["lstm"]),
    "np": ("np", lambda W, *a: oracles.odyssey(peepholes=False)(W, *a)),
    "gru_reset_after": ("gru_reset_after", STEPS["gru_reset_after"]),
    "rnn": ("rnn", STEPS["rnn"]),
    "rnn_relu": ("rnn_relu", STEPS["rnn_relu"]),
    "lstm_projected": ("lstm_projected", STEPS["lstm_projected"]),
    "renamed and reordered": (my_lstm, my_lstm_by_hand),
    "some biases": (unbiased_lstm, STEPS["lstm"]),
}


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("case", ON_TORCH)
def test_torchs_kernel_equals_the_hand_written_loop(case, bidirectional):
    definition, step = ON_TORCH[case]
    more = {"proj_size": P} if definition == "lstm_projected" else {}
    layer = make(definition, "torch", num_layers=2, bidirectional=bidirectional, **more)
    assert layer.engine == "torch"
    x, states = normal(T, B, X, seed=1), initial(layer)
    if case == "rnn_relu":
        with torch.no_grad():
            for W in layer.cells:
                W.h.bias.abs_().add_(1.0)
    assert_same_values_and_gradients(
        lambda: layer(x, as_argument(states)),
        lambda: oracles.layers(
            step, layer.cells, x, states, bidirectional=bidirectional
        ),
        leaves_of(layer, x, states),
    )


@pytest.mark.parametrize("case", ON_TORCH)
def test_torchs_kernel_and_the_reference_share_parameters_and_results(case):
    definition, _ = ON_TORCH[case]
    more = {"proj_size": P} if definition == "lstm_projected" else {}
    fast, slow = (make(definition, e, **more) for e in ("torch", "reference"))
    assert (fast.engine, slow.engine) == ("torch", "reference")
    x, states = normal(T, B, X, seed=1), initial(slow)
    assert_same_values_and_gradients(
        lambda: fast(x, as_argument(states)),
        lambda: slow(x, as_argument(states)),
        leaves_of(fast, x, states),
        leaves_of(slow, x, states),
    )


def test_the_kernel_of_torch_really_runs(monkeypatch):
    from cellwright.engine.torch_kernels import TorchKernels

    calls = []
    original = TorchKernels.run
    monkeypatch.setattr(
        TorchKernels, "run", lambda *a, **k: calls.append(1) or original(*a, **k)
    )
    x = normal(T, B, X, seed=1)
    make(my_lstm, "torch", num_layers=2)(x)
    assert calls == [1, 1]
    make(my_lstm, "reference")(x)
    assert calls == [1, 1]


@cell
def scalar_forget(W, x, h, c):
    """One forget gate for all units: not torch's LSTM."""
    f = sigmoid(W.f(h, x, size=1))
    c = f * c + sigmoid(W.i(h, x)) * tanh(W.g(h, x))
    return sigmoid(W.o(h, x)) * tanh(c), c


@cell
def tied_gates(W, x, h, c):
    c = sigmoid(W.f(h, x)) * c + sigmoid(W.f(h, x)) * tanh(W.g(h, x))
    return sigmoid(W.o(h, x)) * tanh(c), c


@cell
def headed_lstm(W, x, h, c):
    c = sigmoid(W.f(h, c, heads=2)) * c + sigmoid(W.i(h, x)) * tanh(W.g(h, x))
    return sigmoid(W.o(h, x)) * tanh(c), c


@cell
def biased_projection(W, x, h: "proj_size", c):  # noqa: F821
    c = sigmoid(W.f(h, x)) * c + sigmoid(W.i(h, x)) * tanh(W.g(h, x))
    return W.p(sigmoid(W.o(h, x)) * tanh(c), size="proj_size"), c


@cell
def starts_at_one(W, x, h, c=1.0):
    c = sigmoid(W.f(h, x)) * c + sigmoid(W.i(h, x)) * tanh(W.g(h, x))
    return sigmoid(W.o(h, x)) * tanh(c), c


@cell
def new_in(W, x, h):
    """torch's GRU but for z, which lets the new in."""
    r, z = sigmoid(W.r(h, x)), sigmoid(W.z(h, x))
    return (1 - z) * h + z * tanh(W.n(x) + r * W.m(h))


@cell
def old_memory(W, x, h, c):
    i, o = sigmoid(W.i(h, x)), sigmoid(W.o(h, x))
    new = sigmoid(W.f(h, x)) * c + i * tanh(W.g(h, x))
    return o * tanh(c), new


@cell
def swapped_roles(W, x, c, h):
    c = sigmoid(W.f(h, x)) * c + sigmoid(W.i(h, x)) * tanh(W.g(h, x))
    return c, sigmoid(W.o(h, x)) * tanh(c)


@cell
def crossed_states(W, x, h, c):
    """The old states change roles: every equation is torch's but for that."""
    f, i = sigmoid(W.f(c, x)), sigmoid(W.i(c, x))
    g, o = tanh(W.g(c, x)), sigmoid(W.o(c, x))
    new = f * h + i * g
    return o * tanh(new), new


@cell
def one_gate_sees_c(W, x, h, c):
    c_new = sigmoid(W.f(c, x)) * c + sigmoid(W.i(h, x)) * tanh(W.g(h, x))
    return sigmoid(W.o(h, x)) * tanh(c_new), c_new


@cell
def hard_gates(W, x, h, c):
    c = cw.hard_sigmoid(W.f(h, x)) * c + sigmoid(W.i(h, x)) * tanh(W.g(h, x))
    return sigmoid(W.o(h, x)) * tanh(c), c


@pytest.mark.parametrize(
    "definition",
    [
        scalar_forget,
        tied_gates,
        headed_lstm,
        biased_projection,
        starts_at_one,
        new_in,
        old_memory,
        swapped_roles,
        crossed_states,
        one_gate_sees_c,
        hard_gates,
        *(cw.cells.get(n) for n in ("gru", "gru_bias", "lstm_book", "peephole", "nig")),
    ],
    ids=lambda c: c.name,
)
def test_a_cell_that_is_only_nearly_torchs_runs_as_it_is_written(definition):
    """Never torch's kernel for other equations: auto equals the reference."""
    more = {"proj_size": P} if definition is biased_projection else {}
    auto = make(definition, "auto", **more)
    slow = make(definition, "reference", **more)
    x, states = normal(T, B, X, seed=1), initial(slow)
    found = oracles.flat(auto(x, as_argument(states)))
    expected = oracles.flat(slow(x, as_argument(states)))
    for value, by_reference in zip(found, expected, strict=True):
        assert_close(value, by_reference)
    assert_close(auto(x)[0], slow(x)[0])  # also from the declared initial values


def test_the_engine_says_why():
    pytest.importorskip("cellwright._core")
    assert make("lstm", "auto").engine == "native"
    assert "compiled core" in make("peephole", "auto").engine_reason
    assert "asked for" in make("lstm", "torch").engine_reason
    assert "of bf16" in make("lstm", "auto").to(torch.bfloat16).engine_reason
    half = make("lstm", "auto").to(torch.float16)
    assert half.engine == "torch"
    assert "equations are torch's; native: it computes in" in half.engine_reason
    half = make("peephole", "auto").to(torch.float16)
    assert half.engine == "reference"
    assert "torch has no kernel" in half.engine_reason
    assert make("lstm", "reference").engine_reason == "asked for"


@pytest.mark.parametrize(
    ("engine", "name", "words"),
    [
        ("torch", "peephole", "torch has no kernel for this cell"),
        ("cuda", "lstm", "expected one of auto, native, torch, triton, reference"),
    ],
)
def test_an_engine_that_cannot_run_is_an_error_and_no_fallback(engine, name, words):
    with pytest.raises(cw.ArgumentError, match=words):
        cw.Recurrent(name, X, H, engine=engine)


def test_the_reference_can_be_differentiated_twice():
    layer = randomise(
        cw.Recurrent("peephole", 2, 2, engine="reference", dtype=torch.float64)
    )
    x, h, c = normal(2, 1, 2, seed=1), normal(1, 1, 2, seed=2), normal(1, 1, 2, seed=3)

    def run(x, h, c):
        y, finals = layer(x, (h, c))
        return (y, *finals)

    assert torch.autograd.gradgradcheck(run, (x, h, c))


# -- what is not there, or does not fit ----------------------------------------


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((T, B, X + 1), "received (4, 3, 6), expected (T, B, 5)"),
        ((X,), "received (5,)"),
        ((1, T, B, X), "received (1, 4, 3, 5)"),
        ((0, B, X), "received (0, 3, 5)"),
    ],
)
def test_a_wrong_shape_of_x_is_refused(shape, words):
    with pytest.raises(cw.ArgumentError) as caught:
        make("lstm")(torch.zeros(shape, dtype=torch.float64))
    assert words in str(caught.value)


def test_no_steps_are_refused_with_batch_first_too():
    with pytest.raises(cw.ArgumentError, match="shape"):
        make("peephole", batch_first=True)(torch.zeros(B, 0, X).double())


def test_no_rows_are_an_empty_batch():
    for batch_first in (False, True):
        layer = make("peephole", batch_first=batch_first)
        shape = (0, T, X) if batch_first else (T, 0, X)
        y, (h, _) = layer(torch.zeros(shape).double())
        assert y.shape == (*shape[:2], H)
        assert h.shape == (1, 0, H)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("engine", ["reference", "native", "torch"])
def test_rows_of_length_0_alone_have_gradients(engine, given):
    """As those of other lengths: a loss of such a batch is no error, and the states'
    cotangents go through."""
    layer = cw.Recurrent("lstm", X, H, engine=engine, dtype=torch.float64)
    states = tuple(normal(1, B, H, seed=5 + k) for k in range(2))
    x, lengths = normal(T, B, X, seed=1), torch.zeros(B, dtype=torch.int64)
    y, finals = layer(x, states if given else None, lengths=lengths)
    leaves = [x, *layer.parameters(), *(states if given else ())]
    cotangents = oracles.random_cotangents([y, *finals])
    found = torch.autograd.grad([y, *finals], leaves, cotangents)
    assert not y.any()
    weights = found[: -len(states)] if given else found
    assert not any(gradient.any() for gradient in weights)
    if given:
        for final, state in zip(finals, states, strict=True):
            assert torch.equal(final, state)
        for gradient, cotangent in zip(found[-2:], cotangents[1:], strict=True):
            assert torch.equal(gradient, cotangent)


def test_x_that_is_no_tensor_is_refused():
    with pytest.raises(cw.ArgumentError, match="received list"):
        make("lstm")([[[1.0] * X]])


def test_another_dtype_is_refused_with_the_remedy():
    layer = make("peephole")
    with pytest.raises(cw.ArgumentError, match=r"x has another dtype.*float32.*\.to\("):
        layer(torch.zeros(T, B, X))
    states = tuple(s.float() for s in initial(layer))
    with pytest.raises(cw.ArgumentError, match=r"initial state 'h' has another dtype"):
        layer(normal(T, B, X, seed=1), states)


def test_another_device_is_refused_with_the_remedy():
    with pytest.raises(cw.ArgumentError, match=r"another device.*meta.*\.to\("):
        make("peephole")(torch.zeros(T, B, X, device="meta", dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_floating_dtypes_run(dtype):
    layer = make("peephole", dtype=dtype)
    y, (h, c) = layer(torch.randn(T, B, X).to(dtype))
    assert {y.dtype, h.dtype, c.dtype} == {dtype}


def test_autocast_runs_in_float32_weights():
    layer = make("peephole", dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = layer(torch.randn(T, B, X))
    assert torch.isfinite(y).all()


def test_initial_states_of_wrong_number_or_shape_are_refused():
    layer, x = make("lstm", num_layers=2), normal(T, B, X, seed=1)
    h, c = initial(layer)
    with pytest.raises(cw.ArgumentError, match=r"states \(h, c\); received 1 tensor"):
        layer(x, h)
    with pytest.raises(cw.ArgumentError, match=r"received 3 tensor\(s\), expected 2"):
        layer(x, (h, c, c))
    with pytest.raises(cw.ArgumentError, match=r"'c'.*\(1, 3, 4\), expected \(2, 3, 4"):
        layer(x, (h, c[:1]))
    with pytest.raises(cw.ArgumentError, match=r"'h'.*wrong shape"):
        layer(x, (h.transpose(0, 1), c))
    with pytest.raises(cw.ArgumentError, match="wrong shape"):
        layer(x[:, 0], (h, c))  # batched states for unbatched x
    with pytest.raises(cw.ArgumentError, match="wrong shape"):
        layer(x, (h[:, 0], c[:, 0]))
    with pytest.raises(cw.ArgumentError, match=r"'c'.*\(2, 1, 4\), expected \(2, 4\)"):
        layer(x[:, 0], (h[:, 0], c[:, :1]))  # one of each


def test_a_hyperparameter_named_like_an_argument_of_the_layer_is_set_by_partial():
    @cw.cell
    def leaky(W, x, h, *, dropout=0.5, engine=1.0):
        return engine * cw.tanh(W.g(h, x)) + dropout * h

    with pytest.raises(cw.ArgumentError, match=r"cell\.partial\(dropout=0\.2\)"):
        cw.Recurrent(leaky, X, H, 2, dropout=0.2)
    with pytest.raises(cw.ArgumentError, match=r"engine='native'.*another name"):
        cw.Recurrent(leaky, X, H, engine="native")
    layer = cw.Recurrent(leaky.partial(dropout=0.2), X, H)
    assert layer.cell.hyperparameters["dropout"] == 0.2
    assert layer.dropout == 0


def test_a_layer_refuses_settings_that_make_no_sense():
    for wrong in (0, -1, 1.5, True, "2"):
        with pytest.raises(cw.ArgumentError, match="num_layers counts layers"):
            cw.Recurrent("rnn", X, H, wrong)
    for wrong in (-0.1, 1.1, True):
        with pytest.raises(cw.ArgumentError, match="dropout is a probability"):
            cw.Recurrent("rnn", X, H, 2, dropout=wrong)
    for wrong in (0, -3, 2.5):
        with pytest.raises(cw.SizeError, match="hidden_size counts units"):
            cw.Recurrent("rnn", X, wrong)
        with pytest.raises(cw.SizeError, match="input_size counts units"):
            cw.Recurrent("rnn", wrong, H)
    with pytest.raises(cw.ArgumentError, match="needs a cell; received function"):
        cw.Recurrent(lambda W, x, h: h, X, H)
    with pytest.raises(cw.ArgumentError, match=r"no size .*'proj_size'.*proj_size=3"):
        cw.Recurrent("lstm", X, H, proj_size=3)
    with pytest.raises(cw.CellError, match=r"'lstn'.*mean 'lstm'"):
        cw.Recurrent("lstn", X, H)


# -- whole copies --------------------------------------------------------------


def copies(layer):
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    yield pickle.loads(pickle.dumps(layer))
    yield copy.deepcopy(layer)
    yield torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize(
    ("definition", "options"),
    [
        ("lstm", {"num_layers": 2, "bidirectional": True}),
        ("lstm_projected", {"proj_size": P}),
        ("leaky_rnn", {"alpha": 0.7}),
        ("lstm_book", {"squash": cw.tanh}),
        (my_lstm, {"batch_first": True}),
        (reader, {"read_size": 2}),
        (cw.cells.lstm.replace(f=cw.hard_sigmoid), {}),
    ],
    ids=lambda v: getattr(v, "name", None) or (v if isinstance(v, str) else "with"),
)
def test_pickle_and_deepcopy_keep_a_layer_whole(definition, options, engine):
    layer = make(definition, engine, **options)
    x = normal(T, B, X, seed=1)
    for again in copies(layer):
        assert (again.engine, again.engine_reason) == (
            layer.engine,
            layer.engine_reason,
        )
        assert again.graphs == layer.graphs
        assert repr(again) == repr(layer)
        assert_close(again(x)[0], layer(x)[0])
        with torch.no_grad():
            next(again.parameters()).zero_()
        assert next(layer.parameters()).any()


def test_a_pickled_layer_is_read_without_the_users_module():
    modules = set()

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            modules.add(module.split(".")[0])
            return super().find_class(module, name)

    layer = make(my_lstm, "reference")
    again = Unpickler(io.BytesIO(pickle.dumps(layer))).load()
    assert again.cell.function is None
    assert again.cell.name == "my_lstm"
    assert __name__ not in modules
    assert "cellwright" in modules


def test_a_cell_made_of_a_local_function_survives_pickling():
    @cell
    def local(W, x, h):
        return tanh(W.a(h, x)) * h

    layer = make(local)
    again = pickle.loads(pickle.dumps(layer))
    x = normal(T, B, X, seed=1)
    start = normal(1, B, H, seed=2)
    assert_close(again(x, start)[0], layer(x, start)[0])


def in_a_spawned_process(layer, x, results):
    """Runs in a fresh interpreter: one training step's loss and gradient."""
    torch.set_num_threads(1)
    y, _ = layer(x)
    y.square().sum().backward()
    gradient = next(layer.parameters()).grad
    results.put((y.detach().numpy(), gradient.numpy(), layer.engine))


def test_spawn_keeps_a_layer_whole():
    layer, x = make(my_lstm, "reference"), normal(T, B, X, seed=1, grad=False)
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    data = pickle.loads(pickle.dumps(layer))
    process = context.Process(target=in_a_spawned_process, args=(data, x, results))
    process.start()
    values, gradient, engine = results.get()
    process.join()
    assert process.exitcode == 0
    y, _ = layer(x)
    y.square().sum().backward()
    assert_close(torch.from_numpy(values), y.detach())
    assert_close(torch.from_numpy(gradient), next(layer.parameters()).grad)
    assert engine == "reference"


def test_a_state_dict_makes_a_round_trip_and_names_the_gates():
    layer = make("peephole_diagonal", num_layers=2)
    other = randomise(make("peephole_diagonal", num_layers=2), seed=99)
    x = normal(T, B, X, seed=1)
    assert not torch.equal(other(x)[0], layer(x)[0])
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x)[0], layer(x)[0])
    names = set(layer.state_dict())
    assert {"cells.0.f.weight", "cells.0.f.bias", "cells.1.o.weight"} <= names
    assert names == {n for n, _ in layer.named_parameters()}
    with pytest.raises(RuntimeError, match=r"cells\.0\.i\.weight"):
        make("coupled").load_state_dict(make("lstm").state_dict())


def test_a_layer_moves_between_dtypes():
    layer = make("peephole").float()
    assert layer(torch.randn(T, B, X))[0].dtype == torch.float32
    assert layer.double()(normal(T, B, X, seed=1))[0].dtype == torch.float64


def test_equal_seeds_draw_equal_layers():
    torch.manual_seed(1)
    one = cw.Recurrent("peephole", X, H, num_layers=2)
    torch.manual_seed(1)
    other = cw.Recurrent("peephole", X, H, num_layers=2)
    assert all(map(torch.equal, one.parameters(), other.parameters()))


def test_the_layer_prints_what_it_is():
    layer = cw.Recurrent("lstm_projected", X, H, 2, bidirectional=True, proj_size=P)
    for part in ("lstm_projected, 5, 4", "num_layers=2", "proj_size=3", "engine="):
        assert part in repr(layer)


def test_the_layer_trains_away_a_small_task():
    """Remember the first input's sign: nothing but the recurrence can."""
    torch.manual_seed(0)
    layer = cw.Recurrent("gru", 1, 8, engine="reference")
    head = torch.nn.Linear(8, 1)
    parameters = [*layer.parameters(), *head.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=0.05)
    x = torch.randn(6, 64, 1)
    target = (x[0] > 0).float()
    for _ in range(60):
        y, _ = layer(x)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(head(y[-1]), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1


@cell
def smooth(W, x, h):
    return 0.5 * h + 0.5 * x


@cw.tree_cell
def add_up(W, x, child):
    return x + 0.5 * cw.total(child.h)


@pytest.mark.parametrize("engine", ["native", "reference"])
@pytest.mark.parametrize("kind", ["Recurrent", "TreeRecurrent"])
def test_a_cell_without_parameters_has_a_dtype_and_a_device(kind, engine):
    forest = cw.Forest.from_parents([2, 2, -1])
    walked = (forest,) if kind == "TreeRecurrent" else ()
    own = add_up if kind == "TreeRecurrent" else smooth
    made = [
        getattr(cw, kind)(own, 3, 3, engine=engine, dtype=torch.float64),
        getattr(cw, kind)(own, 3, 3, engine=engine).double(),
        getattr(cw, kind)(own, 3, 3, engine=engine).to(torch.float64),
        copy.deepcopy(getattr(cw, kind)(own, 3, 3, engine=engine, dtype=torch.float64)),
    ]
    x = torch.randn(3, 3, dtype=torch.float64)
    for layer in made:
        assert layer.state_dict() == {}
        assert layer.placement() == (torch.device("cpu"), torch.float64)
        y, h = layer(x, *walked)
        if walked:
            right = x.clone()
            right[2] += 0.5 * (x[0] + x[1])
            last = right[2:]
        else:
            right = torch.stack([x[0] / 2, x[0] / 4 + x[1] / 2, x.new_zeros(3)])
            right[2] = right[1] / 2 + x[2] / 2
            last = right[2:]
        torch.testing.assert_close(y, right, rtol=1e-15, atol=1e-15)
        assert h.dtype == torch.float64
        torch.testing.assert_close(h.view(1, 3), last, rtol=1e-15, atol=1e-15)
        with pytest.raises(cw.ArgumentError, match=r"another dtype.*expected .*64"):
            layer(x.float(), *walked)
    assert getattr(cw, kind)(own, 3, 3, dtype=torch.float16).engine == "reference"
    on_meta = getattr(cw, kind)(own, 3, 3, device="meta")
    assert on_meta.placement()[0].type == "meta"
    assert on_meta.to_empty(device="cpu").engine == "native"


def test_a_stepper_of_a_cell_without_parameters_has_its_dtype():
    step = cw.Recurrent(smooth, 3, 3, dtype=torch.float64).stepper()
    x = torch.randn(3, dtype=torch.float64)
    assert torch.equal(step(x), 0.5 * x)
    assert step.state.dtype == torch.float64
